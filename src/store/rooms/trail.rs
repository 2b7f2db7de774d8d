//! The audit trail of a room, read and trimmed.
//!
//! A note stays on the shard where its deed was done, while the room's slot may
//! have moved since. So every shard is asked, and a shard that does not answer is
//! an error: a trail with a silent hole is worth less than none.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use uuid::Uuid;

use super::everywhere::read;
use super::read::of_primary;
use super::{Rooms, RoomsError};
use crate::db::{Row, Sql};
use crate::ids::RoomId;
use crate::routing::{Freshness, Shard};

// The functions run with the rights of their owner: the gateway's role may not read
// or change the table itself.
pub(super) static OF_ROOM: Sql = Sql {
    name: "audit_of_room",
    text: "SELECT (extract(epoch FROM at) * 1000000)::bigint, id, actor, action, target
             FROM audit_of_room($1, to_timestamp($2::bigint / 1000000.0), $3, $4)",
};

pub(super) static TRIM: Sql =
    Sql { name: "audit_trim", text: "SELECT audit_trim($1 * interval '1 millisecond', $2)" };

/// Notes deleted by one statement.
const TRIM_MOST: i64 = 1000;

/// Where a note stands in the trail: its time in microseconds, then its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotePlace {
    pub at_us: i64,
    pub id: Uuid,
}

impl NotePlace {
    /// Behind every note: where a list that goes back in time begins.
    pub const NEWEST: Self = Self { at_us: 253_402_300_799_000_000, id: Uuid::max() };
}

/// One deed in a room.
#[derive(Debug, Clone)]
pub struct TrailNote {
    pub place: NotePlace,
    pub actor: String,
    pub action: String,
    /// `room N`, then perhaps `user U` or `invite I`.
    pub target: String,
}

impl Rooms {
    /// At most `limit` notes before `before`, the newest first, and whether there
    /// are more.
    pub async fn trail(
        &self,
        room: RoomId,
        before: NotePlace,
        limit: usize,
        deadline: Instant,
    ) -> Result<(Vec<TrailNote>, bool), RoomsError> {
        let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let room = room.to_string();
        let ask = async |shard: &Shard| {
            let params: [&(dyn crate::db::ToSql + Sync); 4] = [&room, &before.at_us, &before.id, &most];
            let (rows, _) = read(shard, Freshness::Primary, deadline, &OF_ROOM, &params).await?;
            Ok::<_, RoomsError>(rows)
        };
        let parts = try_join_all(self.shards().map(ask)).await?;
        let mut notes: Vec<TrailNote> = parts.iter().flatten().map(TrailNote::from_row).collect();
        notes.sort_by_key(|note| std::cmp::Reverse(note.place));
        let more = notes.len() > limit;
        notes.truncate(limit);
        Ok((notes, more))
    }

    /// Deletes some of the shard's notes that are older than `kept`; returns how many.
    pub async fn trim_trail(&self, shard: &Shard, kept: Duration) -> Result<i64, RoomsError> {
        let kept_ms = kept.as_secs_f64() * 1000.0;
        let rows = of_primary(shard, &TRIM, &[&kept_ms, &TRIM_MOST]).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }
}

impl TrailNote {
    fn from_row(row: &Row) -> Self {
        let place = NotePlace { at_us: row.get(0), id: row.get(1) };
        Self { place, actor: row.get(2), action: row.get(3), target: row.get(4) }
    }
}
