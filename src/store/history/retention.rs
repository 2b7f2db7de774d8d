//! Events that are kept no longer, deleted behind a snapshot.
//!
//! Guarantees: nothing is deleted that can't be rebuilt from a snapshot of the
//! same shard, or that no day has counted, checked in the deleting statement; the
//! head's event stays, and so do shapes with their tombstones; each batch is a
//! transaction of its own under the slot's lock, and touches no row that an append
//! locks.

use super::{Freshness, History, ReadError, deadline, statements};
use crate::ids::RoomId;
use crate::placement::ShardIndex;
use crate::position::Seq;
use crate::store::guard::{Guard, Wanted, WriteError};

/// Events of a room that have had their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    pub room: RoomId,
    /// The first event there is.
    pub oldest: Seq,
    /// The last one to go: there is a snapshot of it.
    pub last: Seq,
}

impl History {
    /// Of the next `limit` rooms of a shard, those with events to delete; and
    /// the last room that was looked at. `retention_ms` is for rooms that don't
    /// say; 0 is for ever.
    pub async fn expired(
        &self,
        shard: ShardIndex,
        after: i64,
        limit: i64,
        retention_ms: i64,
        freshness: Freshness,
    ) -> Result<(Vec<Expired>, Option<i64>), ReadError> {
        let rows = self
            .reader
            .query(shard, freshness, &statements::EXPIRED, &[&after, &limit, &retention_ms])
            .await?;
        let looked_to = rows.last().map(|row| row.get(0));
        let expired = rows.iter().filter_map(|row| {
            let (last, oldest) = (row.get::<_, Option<i64>>(1)?, row.get::<_, Option<i64>>(2)?);
            let (last, oldest) = (Seq::from_i64(last), Seq::from_i64(oldest));
            let room = RoomId::from_i64(row.get(0)).ok()?;
            (oldest <= last).then_some(Expired { room, oldest, last })
        });
        Ok((expired.collect(), looked_to))
    }

    /// Deletes a batch of the events: from `from`, at most `count`. How many
    /// there were.
    pub async fn delete_expired(&self, expired: &Expired, from: Seq, count: u64) -> Result<u64, WriteError> {
        let guard = self.guard(expired.room).await?;
        let to = Seq(from.0 + count - 1).min(expired.last);
        let (room, last) = (expired.room.as_i64(), expired.last.as_i64());
        let params: [&(dyn crate::db::ToSql + Sync); 4] = [&room, &from.as_i64(), &to.as_i64(), &last];
        let deleted = guard.execute(&statements::DELETE_EVENTS, &params).await?;
        guard.commit().await?;
        Ok(deleted)
    }

    /// Deletes the snapshots before the one that everything starts from now.
    pub async fn delete_snapshots(&self, expired: &Expired) -> Result<(), WriteError> {
        let guard = self.guard(expired.room).await?;
        let (room, last) = (expired.room.as_i64(), expired.last.as_i64());
        guard.execute(&statements::DELETE_SNAPSHOTS, &[&room, &last]).await?;
        Ok(guard.commit().await?)
    }

    pub(super) async fn guard(&self, room: RoomId) -> Result<Guard, WriteError> {
        let wanted = Wanted { room, is_sync: false, deadline: deadline() };
        Guard::begin(self.reader.shards(), self.reader.slots(), wanted).await
    }
}
