//! Beside the moves: which nodes know a shard, what a slot holds, and what is left
//! behind of one that went.

use thiserror::Error;

use super::copy::{ONE_SNAPSHOT, Proof, heads, proof, rooms, wipe};
use super::statements as sql;
use super::survey::{State, state};
use super::{Mover, STEP_PATIENCE, alone};
use crate::db::{Connection, DbError, Lease};
use crate::ids::{RoomId, Slot};
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
    pub log_digest: i128,
    pub shapes_digest: i128,
    /// Whose logs have holes, or don't end where their head says.
    pub broken: Vec<RoomId>,
}

impl Contents {
    fn add(&mut self, room: RoomId, head: i64, proof: &Proof) {
        let (events, shapes) = (&proof.log.events, &proof.shapes);
        self.rooms += 1;
        self.events += events.count;
        self.shapes += shapes.count;
        self.log_digest += events.digest;
        self.shapes_digest += shapes.digest;
        let (first, last) = proof.log.span.unwrap_or((1, 0));
        if last != head || events.count != last - first + 1 {
            self.broken.push(room);
        }
    }
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
            let rows = connect(shard).await?.query(&sql::NODES, &[]).await?;
            Ok::<Vec<String>, CleanupError>(rows.iter().map(|row| row.get(0)).collect())
        };
        let (here, there) = (nodes(known).await?, nodes(unknown).await?);
        Ok(here.into_iter().filter(|node| !there.contains(node)).collect())
    }

    pub async fn contents(&self, shard: &Shard, slot: Slot) -> Result<Contents, CleanupError> {
        let connection = connect(shard).await?;
        connection.begin().await?;
        connection.batch(ONE_SNAPSHOT).await?;
        let mut contents = Contents::default();
        for some in rooms(&connection, slot).await?.chunks(ROOMS_AT_ONCE) {
            let heads = heads(&connection, some).await?;
            let all: Vec<_> = some.iter().map(|room| (*room, 0, i64::MAX)).collect();
            for (room, proof) in proof(&connection, &all).await? {
                contents.add(room, heads.get(&room).map_or(0, |head| head.seq), &proof);
            }
        }
        connection.rollback().await?;
        contents.broken.sort_unstable();
        Ok(contents)
    }

    /// Deletes what is left of a slot that went from `shard`: how many rooms. May be
    /// stopped at any time, and run again.
    pub async fn clean_up(&self, shard: ShardIndex, slot: Slot) -> Result<usize, CleanupError> {
        let shard = self.shards.get(shard).ok_or(CleanupError::NotMoved)?;
        let here = connect(shard).await?;
        // Nobody brings it back meanwhile.
        alone(&here, slot, CleanupError::Busy, self.clean_up_alone(&here, slot)).await
    }

    async fn clean_up_alone(&self, here: &Connection, slot: Slot) -> Result<usize, CleanupError> {
        let number = i32::from(slot.0);
        let Some(State::Moved(owner)) = state(here, slot).await? else {
            return Err(CleanupError::NotMoved);
        };
        self.is_owner(&owner, slot).await?;
        let all = rooms(here, slot).await?;
        for some in all.chunks(ROOMS_AT_ONCE) {
            here.begin().await?;
            wipe(here, some).await?;
            here.commit().await?;
        }
        here.execute(&sql::FORGET_SLOT, &[&number]).await?;
        Ok(all.len())
    }

    async fn is_owner(&self, owner: &str, slot: Slot) -> Result<(), CleanupError> {
        let there = self.index(owner).and_then(|index| self.shards.get(index));
        let there = there.ok_or_else(|| CleanupError::NotArrived(owner.to_owned()))?;
        if state(&*connect(there).await?, slot).await? != Some(State::Active) {
            return Err(CleanupError::NotArrived(owner.to_owned()));
        }
        let directory = connect(&self.directory).await?;
        let row = directory.query_opt(&sql::OWNER, &[&i32::from(slot.0)]).await?;
        if row.is_none_or(|row| row.get::<_, &str>(0) != owner) {
            return Err(CleanupError::NotRecorded(owner.to_owned()));
        }
        Ok(())
    }
}

async fn connect(shard: &Shard) -> Result<Lease, CleanupError> {
    super::connect(shard, STEP_PATIENCE).await
}
