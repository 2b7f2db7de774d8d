//! Beside the moves: which nodes know a shard, what a slot holds, and what is left
//! behind of one that went.

use std::time::Instant;

use thiserror::Error;

use super::copy::{rooms, wipe};
use super::statements as sql;
use super::{Mover, STEP_PATIENCE};
use crate::db::{DbError, Lease};
use crate::ids::Slot;
use crate::placement::ShardIndex;
use crate::routing::{NoPrimary, Shard};

/// Rooms that are deleted in one transaction.
const ROOMS_AT_ONCE: usize = 20;

/// What a slot holds on one shard, every row of it read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    pub rooms: i64,
    pub events: i64,
    pub shapes: i64,
    pub log_digest: String,
    pub shapes_digest: String,
    /// Whose logs have holes, or don't end where their head says.
    pub broken: Vec<i64>,
}

/// Why what is left of a slot stays.
#[derive(Debug, Error)]
pub enum CleanupError {
    #[error("it has not moved from there")]
    NotMoved,
    #[error("{0} has it not active: finish the move first")]
    NotArrived(String),
    #[error("the directory doesn't say that {0} owns it")]
    NotRecorded(String),
    #[error("somebody is moving it")]
    Busy,
    #[error(transparent)]
    NoPrimary(#[from] NoPrimary),
    #[error(transparent)]
    Database(#[from] DbError),
}

impl Mover {
    /// Nodes that are connected to `known` and not to `unknown`: they wouldn't find
    /// what moves there.
    pub async fn strangers(&self, known: &Shard, unknown: &Shard) -> Result<Vec<String>, CleanupError> {
        let nodes = async |shard: &Shard| {
            let rows = self.connect(shard).await?.query(&sql::NODES, &[]).await?;
            Ok::<Vec<String>, CleanupError>(rows.iter().map(|row| row.get(0)).collect())
        };
        let (here, there) = (nodes(known).await?, nodes(unknown).await?);
        Ok(here.into_iter().filter(|node| !there.contains(node)).collect())
    }

    pub async fn contents(&self, shard: &Shard, slot: Slot) -> Result<Contents, CleanupError> {
        let row = self.connect(shard).await?.query_one(&sql::VERIFY, &[&i32::from(slot.0)]).await?;
        Ok(Contents {
            rooms: row.get(0),
            events: row.get(1),
            shapes: row.get(2),
            log_digest: row.get(3),
            shapes_digest: row.get(4),
            broken: row.get(5),
        })
    }

    /// Deletes what is left of a slot that went from `shard`: how many rooms. May be
    /// stopped at any time, and run again.
    pub async fn clean_up(&self, shard: ShardIndex, slot: Slot) -> Result<usize, CleanupError> {
        let shard = self.shards.get(shard).ok_or(CleanupError::NotMoved)?;
        let number = i32::from(slot.0);
        let here = self.connect(shard).await?;
        let row = here.query_opt(&sql::STATE, &[&number]).await?;
        let owner = row.and_then(|row| row.get::<_, Option<String>>(2)).ok_or(CleanupError::NotMoved)?;
        self.is_owner(&owner, number).await?;
        // Nobody brings it back meanwhile.
        if !here.query_one(&sql::LOCK_MOVER, &[&sql::MOVER_LOCKS, &number]).await?.get::<_, bool>(0) {
            return Err(CleanupError::Busy);
        }
        let all = rooms(&here, slot).await?;
        for some in all.chunks(ROOMS_AT_ONCE) {
            here.begin().await?;
            wipe(&here, some).await?;
            here.commit().await?;
        }
        here.execute(&sql::FORGET_SLOT, &[&number]).await?;
        here.query_one(&sql::UNLOCK_MOVER, &[&sql::MOVER_LOCKS, &number]).await?;
        Ok(all.len())
    }

    async fn is_owner(&self, owner: &str, slot: i32) -> Result<(), CleanupError> {
        let there = self.index(owner).and_then(|index| self.shards.get(index));
        let there = there.ok_or_else(|| CleanupError::NotArrived(owner.to_owned()))?;
        let row = self.connect(there).await?.query_opt(&sql::STATE, &[&slot]).await?;
        if row.is_none_or(|row| row.get::<_, &str>(0) != "active") {
            return Err(CleanupError::NotArrived(owner.to_owned()));
        }
        let row = self.connect(&self.directory).await?.query_opt(&sql::OWNER, &[&slot]).await?;
        if row.is_none_or(|row| row.get::<_, &str>(0) != owner) {
            return Err(CleanupError::NotRecorded(owner.to_owned()));
        }
        Ok(())
    }

    async fn connect(&self, shard: &Shard) -> Result<Lease, CleanupError> {
        let primary = shard.primary(Instant::now() + STEP_PATIENCE).await?;
        Ok(primary.pool().get().await?)
    }
}
