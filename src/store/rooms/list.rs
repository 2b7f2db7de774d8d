//! The rooms of a person, over all shards side by side.

use std::time::Instant;

use futures_util::future::try_join_all;

use super::row::columns;
use super::{RoomFacts, Rooms, RoomsError};
use crate::db::Sql;
use crate::ids::{RoomId, UserId};
use crate::routing::{Freshness, Reason, ServedBy, Shard};

pub(super) static MINE: Sql = Sql {
    name: "rooms_of_user",
    text: concat!(
        "SELECT ",
        columns!(),
        " FROM (
            (SELECT room.id FROM room JOIN slot_owner USING (slot)
              WHERE room.owner = $1 AND room.id > $2 AND slot_owner.state = 'active'
              ORDER BY room.id LIMIT $3)
             UNION
            (SELECT room_member.room_id
               FROM room_member JOIN room ON room.id = room_member.room_id JOIN slot_owner USING (slot)
              WHERE room_member.user_id = $1 AND room_member.room_id > $2 AND room_member.role <> 'removed'
                AND slot_owner.state = 'active'
              ORDER BY room_member.room_id LIMIT $3)
          ) AS mine
          JOIN room ON room.id = mine.id
          JOIN room_head ON room_head.room_id = mine.id
         ORDER BY room.id LIMIT $3"
    ),
};

/// Rooms in the order of their ids.
#[derive(Debug)]
pub struct RoomPage {
    pub rooms: Vec<RoomFacts>,
    /// Where the next page begins; none if this was the last.
    pub next: Option<RoomId>,
    /// The primary, if any shard's primary answered.
    pub served_by: ServedBy,
    pub fallback: Option<Reason>,
}

struct Part {
    rooms: Vec<RoomFacts>,
    served_by: ServedBy,
    fallback: Option<Reason>,
}

impl Rooms {
    /// The rooms that `user` owns or is a member of, with an id above `after`.
    /// All shards must answer: a list with holes would look like lost rooms.
    pub async fn of_user(
        &self,
        user: &UserId,
        after: Option<RoomId>,
        limit: usize,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<RoomPage, RoomsError> {
        let after = after.map_or(0, RoomId::as_i64);
        // One more than asked for tells whether there is another page.
        let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let ask = |shard| part(shard, user, after, most, freshness, deadline);
        let parts = try_join_all(self.shards.iter().map(|(_, shard)| ask(shard))).await?;
        Ok(merge(parts, limit))
    }
}

async fn part(
    shard: &Shard,
    user: &UserId,
    after: i64,
    most: i64,
    freshness: Freshness,
    deadline: Instant,
) -> Result<Part, RoomsError> {
    let mut route = shard.read(freshness, deadline);
    loop {
        let target = route.target().await?;
        let rows = match target.endpoint().pool().get().await {
            Ok(lease) => lease.query(&MINE, &[&user.as_str(), &after, &most]).await,
            Err(error) => Err(error),
        };
        match rows {
            Ok(rows) => {
                route.used(&target);
                let rooms = rows.iter().map(|row| RoomFacts::from_row(row, 0)).collect::<Result<_, _>>()?;
                return Ok(Part { rooms, served_by: target.served_by(), fallback: target.fallback });
            }
            Err(error) if route.failed(target, &error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn merge(parts: Vec<Part>, limit: usize) -> RoomPage {
    let served_by = parts
        .iter()
        .map(|part| &part.served_by)
        .max_by_key(|served_by| **served_by == ServedBy::Primary)
        .cloned()
        .unwrap_or(ServedBy::Primary);
    let fallback = parts.iter().find_map(|part| part.fallback);
    let mut rooms: Vec<RoomFacts> = parts.into_iter().flat_map(|part| part.rooms).collect();
    rooms.sort_by_key(|facts| facts.room);
    // While a slot moves, two shards may both show it for a moment.
    rooms.dedup_by_key(|facts| facts.room);
    let more = rooms.len() > limit;
    rooms.truncate(limit);
    let next = rooms.last().filter(|_| more).map(|facts| facts.room);
    RoomPage { rooms, next, served_by, fallback }
}
