//! Rooms of a list that goes over all shards: what each one answers, and all of it
//! put together.

use std::time::Instant;

use super::{RoomFacts, RoomsError};
use crate::db::{Sql, ToSql};
use crate::routing::{Freshness, Reason, ServedBy, Shard};

/// Of one shard.
pub(super) struct Part {
    pub rooms: Vec<RoomFacts>,
    pub served_by: ServedBy,
    pub fallback: Option<Reason>,
}

/// Of all that answered, in the order of their ids.
pub(super) struct Merged {
    pub rooms: Vec<RoomFacts>,
    /// There are more than were asked for.
    pub more: bool,
    /// The primary, if any shard's primary answered.
    pub served_by: ServedBy,
    pub fallback: Option<Reason>,
}

impl Part {
    /// `sql` answers the columns of a room.
    pub async fn read(
        shard: &Shard,
        freshness: Freshness,
        deadline: Instant,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Self, RoomsError> {
        let mut route = shard.read(freshness, deadline);
        loop {
            let target = route.target().await?;
            match target.query(sql, params, deadline).await {
                Ok(rows) => {
                    route.used(&target);
                    let rooms =
                        rows.iter().map(|row| RoomFacts::from_row(row, 0)).collect::<Result<_, _>>()?;
                    return Ok(Self { rooms, served_by: target.served_by(), fallback: target.fallback });
                }
                Err(error) if route.failed(target, &error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Merged {
    pub fn of(parts: Vec<Part>, limit: usize) -> Self {
        let primary = parts.iter().find(|part| part.served_by == ServedBy::Primary);
        let served_by = primary.or(parts.first()).map_or(ServedBy::Primary, |part| part.served_by.clone());
        let fallback = parts.iter().find_map(|part| part.fallback);
        let mut rooms: Vec<RoomFacts> = parts.into_iter().flat_map(|part| part.rooms).collect();
        rooms.sort_by_key(|facts| facts.room);
        // While a slot moves, two shards may both show it for a moment.
        rooms.dedup_by_key(|facts| facts.room);
        let more = rooms.len() > limit;
        rooms.truncate(limit);
        Self { rooms, more, served_by, fallback }
    }
}
