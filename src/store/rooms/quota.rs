//! How much metadata a user has stored, over all shards.

use futures_util::future::join_all;

use super::read::of_primary;
use super::refusals::too_much_metadata_in_all;
use super::{Rooms, RoomsError};
use crate::db::Sql;
use crate::ids::UserId;

/// As stored, so that no value is read.
pub(super) static METADATA: Sql = Sql {
    name: "rooms_metadata",
    text: "SELECT coalesce(sum(pg_column_size(metadata)), 0)::bigint FROM room WHERE owner = $1",
};

impl Rooms {
    /// Refuses `more` bytes of metadata if `owner` would have over `most`; 0: no limit.
    /// Shards that don't answer count as empty, so that one of them stops no room on
    /// the others.
    pub async fn check_metadata(&self, owner: &UserId, more: usize, most: u64) -> Result<(), RoomsError> {
        if most == 0 {
            return Ok(());
        }
        let owner = owner.as_str();
        let asked = self.shards().map(|shard| async move {
            match of_primary(shard, &METADATA, &[&owner]).await {
                Ok(rows) => rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()),
                Err(error) => {
                    tracing::debug!(%error, "can't count a user's metadata on a shard");
                    0
                }
            }
        });
        let stored: u64 = join_all(asked).await.into_iter().sum();
        if stored + more as u64 > most { Err(too_much_metadata_in_all(most).into()) } else { Ok(()) }
    }
}
