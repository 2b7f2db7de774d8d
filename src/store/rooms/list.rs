//! The rooms of a person, over all shards side by side.

use std::time::Instant;

use futures_util::future::try_join_all;

use super::everywhere::{Merged, Part};
use super::row::columns;
use super::{RoomFacts, Rooms, RoomsError};
use crate::db::{Sql, ToSql};
use crate::ids::{RoomId, UserId};
use crate::routing::{Freshness, Reason, ServedBy};

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
        let user = user.as_str();
        let params: [&(dyn ToSql + Sync); 3] = [&user, &after, &most];
        let ask = |shard| Part::read(shard, freshness, deadline, &MINE, &params);
        let parts = try_join_all(self.shards().map(ask)).await?;
        let Merged { rooms, more, served_by, fallback } = Merged::of(parts, limit);
        let next = rooms.last().filter(|_| more).map(|facts| facts.room);
        Ok(RoomPage { rooms, next, served_by, fallback })
    }
}
