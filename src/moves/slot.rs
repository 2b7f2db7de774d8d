//! One slot, from its owner to another shard.
//!
//! ```text
//! destination: importing
//! rooms, then what was added to them meanwhile, until that is little; compared
//! ── fence: the slot's lock on the source; writers wait ──
//!    the rest; commit on the destination, and on its standbys
//!    source: moved; commit, and on its standbys     the point of no return
//!    directory: who owns it now, if the source's claim still stands
//!    destination: active, with a new epoch
//! ── writers that find it moved go there ──
//! ```
//!
//! Guarantees: the slot is `active` on one shard at most, whenever whoever moves
//! it, a primary or the directory dies; before the point of no return nothing has
//! happened; after it anybody can finish, and first compares every row again.

use std::time::{Duration, Instant};

use futures_util::future::try_join;
use thiserror::Error;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::copy::{ONE_SNAPSHOT, Pair, heads, prepare, rooms, wipe};
use super::pace::Pace;
use super::statements as sql;
use super::survey::{State, state};
use super::{Observer, Step, alone, connect};
use crate::clock::UnixMillis;
use crate::db::{Class, Connection, DbError, Lease};
use crate::ids::{RoomId, ShardName, Slot};
use crate::routing::{NoPrimary, Shard};
use crate::store::slots::SLOT_LOCKS;

/// How long the slot's lock is waited for at a time: writers queue up behind who
/// waits for it.
const LOCK_WAIT: &str = "SET LOCAL lock_timeout = '30ms'";
/// Between two tries for it.
const LOCK_PAUSE_MS: std::ops::Range<u64> = 5..40;
/// Rooms that are copied in one transaction.
const ROOMS_AT_ONCE: usize = 100;
/// The same while writers wait: little of them is left to copy, and each round trip
/// counts.
const FENCED_AT_ONCE: usize = 1_000;
/// Writers are not made to wait for more than so many rows.
const FEW_ROWS: u64 = 200;
/// Rounds after which a slot that keeps growing is fenced all the same.
const ROUNDS: usize = 8;
/// How long writers may be kept waiting before the slot is given back.
const FENCE_LIMIT: Duration = Duration::from_secs(3);
/// How long what was committed is waited for on the standbys.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
const FLUSH_ROUND: Duration = Duration::from_millis(2);

/// Why a slot did not move, or not to the end. Running it again is always safe.
#[derive(Debug, Error)]
pub enum MoveError {
    #[error("somebody else is moving it")]
    Busy,
    #[error("{0} does not own it")]
    NotThere(ShardName),
    #[error("two owners are suspected: {0} and {1} both have it active; see the runbook")]
    TwoOwners(ShardName, ShardName),
    #[error("its copy on {0} differs from the source after it was copied anew")]
    Differs(ShardName),
    #[error("its lock was not to be had within {0:?}")]
    Locked(Duration),
    #[error("writers waited for {FENCE_LIMIT:?}, so it was given back to them")]
    TooSlow,
    #[error("a standby of {0} did not have it on disk within {FLUSH_LIMIT:?}")]
    StandbyBehind(ShardName),
    #[error("{0} has another primary since it was fenced")]
    SourceChanged(ShardName),
    #[error("{0} is not cleared for writing")]
    NotClaimed(ShardName),
    #[error(transparent)]
    NoPrimary(#[from] NoPrimary),
    #[error(transparent)]
    Database(#[from] DbError),
}

impl MoveError {
    /// Trying again may do.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Busy | Self::Locked(_) | Self::TooSlow | Self::StandbyBehind(_) => true,
            Self::SourceChanged(_) | Self::NotClaimed(_) | Self::NoPrimary(_) => true,
            Self::Database(error) => error.class().is_worth_another_transaction(),
            Self::NotThere(_) | Self::TwoOwners(..) | Self::Differs(_) => false,
        }
    }
}

/// A slot that arrived.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moved {
    pub rooms: usize,
    pub rows: u64,
    /// How long its writers waited; none of one that was only finished.
    pub pause: Option<Duration>,
}

/// The claim under which the source was fenced.
struct Fenced {
    timeline: i32,
    system_id: i64,
    epoch: i64,
}

pub(super) struct SlotMove<'a> {
    pub slot: Slot,
    pub source: &'a Shard,
    pub destination: &'a Shard,
    pub directory: &'a Shard,
    pub pace: &'a Pace,
    pub fences: &'a Semaphore,
    pub observer: &'a dyn Observer,
    /// How long a lock or a primary is waited for.
    pub patience: Duration,
    /// Bytes that a standby may be behind before copying waits for it.
    pub max_lag: u64,
}

impl SlotMove<'_> {
    pub async fn run(&self) -> Result<Moved, MoveError> {
        let destination = self.connect(self.destination).await?;
        alone(&destination, self.slot, MoveError::Busy, Box::pin(self.run_alone(&destination))).await
    }

    async fn run_alone(&self, destination: &Lease) -> Result<Moved, MoveError> {
        let source = self.connect(self.source).await?;
        prepare(&source, destination).await?;
        let to = |to: &str| to == self.destination.name().as_str();
        match (state(&source, self.slot).await?, state(destination, self.slot).await?) {
            (Some(State::Active), Some(State::Active)) => {
                Err(MoveError::TwoOwners(self.source.name().clone(), self.destination.name().clone()))
            }
            (Some(State::Active), _) => Box::pin(self.go(source, destination)).await,
            (Some(State::Moved(now)), Some(State::Importing)) if to(&now) => {
                Box::pin(self.finish(source, destination)).await
            }
            (Some(State::Moved(now)), Some(State::Active)) if to(&now) => Ok(Moved::default()),
            _ => Err(MoveError::NotThere(self.source.name().clone())),
        }
    }

    async fn go(&self, source: Lease, destination: &Lease) -> Result<Moved, MoveError> {
        destination.execute(&sql::IMPORT, &[&i32::from(self.slot.0)]).await?;
        self.observer.reached(self.slot, Step::Importing).await;
        let mut rows = 0;
        for _ in 0..ROUNDS {
            let copied = self.copy(&source, destination).await?;
            rows += copied;
            self.observer.reached(self.slot, Step::Copied).await;
            if copied <= FEW_ROWS {
                break;
            }
        }
        self.compare(&source, destination).await?;
        self.observer.reached(self.slot, Step::Compared).await;
        let moved = Box::pin(self.fence(source, destination)).await?;
        Ok(Moved { rows: rows + moved.rows, ..moved })
    }

    /// One round over all rooms, in transactions of some each.
    async fn copy(&self, source: &Lease, destination: &Lease) -> Result<u64, MoveError> {
        let all = self.rooms(source).await?;
        // What the source has not, or not any more.
        wipe(destination, &others(&self.rooms(destination).await?, &all)).await?;
        let mut copied = 0;
        for some in all.chunks(ROOMS_AT_ONCE) {
            self.wait_for_standbys().await?;
            copied += self.in_snapshots(source, destination, async |pair| pair.equalize(some).await).await?;
        }
        Ok(copied)
    }

    /// Reads every row of what was copied on both sides; what differs is copied
    /// anew, once.
    async fn compare(&self, source: &Lease, destination: &Lease) -> Result<(), MoveError> {
        for some in self.rooms(source).await?.chunks(ROOMS_AT_ONCE) {
            let compare = async |pair: &Pair<'_>| pair.differing(some).await;
            let differing = self.in_snapshots(source, destination, compare).await?;
            // A room that was made since the last round differs by not being there.
            let there = heads(destination, &differing).await?;
            let differing: Vec<RoomId> =
                differing.into_iter().filter(|room| there.contains_key(room)).collect();
            if differing.is_empty() {
                continue;
            }
            tracing::warn!(
                slot = self.slot.0,
                rooms = differing.len(),
                "what was copied differs; copying it anew"
            );
            wipe(destination, &differing).await?;
            let anew = async |pair: &Pair<'_>| pair.equalize(&differing).await;
            self.in_snapshots(source, destination, anew).await?;
            let compare = async |pair: &Pair<'_>| pair.differing(&differing).await;
            if !self.in_snapshots(source, destination, compare).await?.is_empty() {
                return Err(MoveError::Differs(self.destination.name().clone()));
            }
        }
        Ok(())
    }

    /// Both sides in a transaction each, the source as of one snapshot.
    async fn in_snapshots<T>(
        &self,
        source: &Lease,
        destination: &Lease,
        work: impl AsyncFn(&Pair<'_>) -> Result<T, DbError>,
    ) -> Result<T, MoveError> {
        source.begin().await?;
        source.batch(ONE_SNAPSHOT).await?;
        destination.begin().await?;
        let done = work(&Pair { source, destination, pace: self.pace, is_fenced: false }).await?;
        destination.commit().await?;
        source.rollback().await?;
        Ok(done)
    }

    /// Takes the slot from its writers, and hands it over.
    async fn fence(&self, source: Lease, destination: &Lease) -> Result<Moved, MoveError> {
        let directory = self.directory().await?;
        let _turn = self.lock(&source).await?;
        let begun = Instant::now();
        self.observer.reached(self.slot, Step::Fenced).await;
        // Dropped half way, the connection is closed, and the lock with it.
        let handed = timeout(FENCE_LIMIT, self.hand_over(&source, destination)).await;
        let (fenced, rooms, rows) = handed.map_err(|_| MoveError::TooSlow)??;
        // From here on there is no way back, so nothing may be given up by a timeout.
        source.commit().await?;
        self.observer.reached(self.slot, Step::SourceMoved).await;
        self.flushed(self.source, &source).await?;
        self.activate(&fenced, destination, &directory).await?;
        let pause = begun.elapsed();
        Ok(Moved { rooms, rows, pause: Some(pause) })
    }

    /// The slot's lock, and this mover's turn to keep writers waiting.
    async fn lock(&self, source: &Lease) -> Result<SemaphorePermit<'_>, MoveError> {
        let begun = Instant::now();
        loop {
            let turn = self.fences.acquire().await.expect("it is never closed");
            source.begin().await?;
            source.batch(LOCK_WAIT).await?;
            match source.query_one(&sql::FENCE, &[&SLOT_LOCKS, &i32::from(self.slot.0)]).await {
                Ok(_) => return Ok(turn),
                Err(error) if error.class() == Class::LockTimeout => source.rollback().await?,
                Err(error) => return Err(error.into()),
            }
            if begun.elapsed() > self.patience {
                return Err(MoveError::Locked(self.patience));
            }
            drop(turn);
            sleep(Duration::from_millis(rand::random_range(LOCK_PAUSE_MS))).await;
        }
    }

    /// Everything that is still missing, and the source's word that it is not the
    /// owner any more, not committed yet.
    async fn hand_over(
        &self,
        source: &Lease,
        destination: &Lease,
    ) -> Result<(Fenced, usize, u64), MoveError> {
        // Every round trip is one that writers wait for.
        let here = try_join(self.fenced(source, "active"), self.rooms(source));
        let there = async {
            destination.begin().await?;
            self.rooms(destination).await
        };
        let ((fenced, all), there) = try_join(here, there).await?;
        wipe(destination, &others(&there, &all)).await?;
        let pair = Pair { source, destination, pace: self.pace, is_fenced: true };
        let mut rows = 0;
        for some in all.chunks(FENCED_AT_ONCE) {
            rows += pair.equalize(some).await?;
            if !pair.is_even(some).await? {
                return Err(MoveError::Differs(self.destination.name().clone()));
            }
        }
        destination.commit().await?;
        self.observer.reached(self.slot, Step::TailCopied).await;
        self.flushed(self.destination, destination).await?;
        self.observer.reached(self.slot, Step::DestinationFlushed).await;
        let to = self.destination.name().as_str();
        if source.execute(&sql::GO, &[&i32::from(self.slot.0), &to]).await? != 1 {
            return Err(MoveError::NotThere(self.source.name().clone()));
        }
        Ok((fenced, all.len(), rows))
    }

    /// After the point of no return, by whoever comes.
    async fn finish(&self, source: Lease, destination: &Lease) -> Result<Moved, MoveError> {
        tracing::info!(slot = self.slot.0, "finishing a move that was cut short");
        let fenced = self.fenced(&source, "moved").await?;
        let rows = self.copy(&source, destination).await?;
        self.compare(&source, destination).await?;
        self.flushed(self.destination, destination).await?;
        self.activate(&fenced, destination, &self.directory().await?).await?;
        let rooms = self.rooms(destination).await?.len();
        Ok(Moved { rooms, rows, pause: None })
    }

    async fn fenced(&self, source: &Lease, state: &str) -> Result<Fenced, MoveError> {
        let row = source.query_opt(&sql::FENCED, &[&i32::from(self.slot.0), &state]).await?;
        let row = row.ok_or_else(|| MoveError::NotClaimed(self.source.name().clone()))?;
        Ok(Fenced { timeline: row.get(0), system_id: row.get(1), epoch: row.get(2) })
    }

    /// The directory says so first: who is promoted for the source after this
    /// hears of it before it may be written to.
    async fn activate(
        &self,
        fenced: &Fenced,
        destination: &Lease,
        directory: &Lease,
    ) -> Result<(), MoveError> {
        let slot = i32::from(self.slot.0);
        let (from, to) = (self.source.name().as_str(), self.destination.name().as_str());
        let recorded = directory
            .execute(&sql::RECORD, &[&slot, &to, &from, &fenced.timeline, &fenced.system_id])
            .await?;
        if recorded != 1 {
            return Err(MoveError::SourceChanged(self.source.name().clone()));
        }
        self.observer.reached(self.slot, Step::Recorded).await;
        if destination.execute(&sql::ACTIVATE, &[&slot, &fenced.epoch, &UnixMillis::now().0]).await? != 1 {
            return Err(MoveError::NotClaimed(self.destination.name().clone()));
        }
        self.observer.reached(self.slot, Step::Active).await;
        Ok(())
    }

    /// What was committed on `connection` is on the disks of all standbys that
    /// stream from there.
    async fn flushed(&self, shard: &Shard, connection: &Connection) -> Result<(), MoveError> {
        let mut position: Option<String> = None;
        let begun = Instant::now();
        loop {
            let row = connection.query_one(&sql::STANDBYS, &[&position]).await?;
            if row.get::<_, i64>(1) == row.get::<_, i64>(2) {
                return Ok(());
            }
            if begun.elapsed() > FLUSH_LIMIT {
                return Err(MoveError::StandbyBehind(shard.name().clone()));
            }
            position = row.get(0);
            sleep(FLUSH_ROUND).await;
        }
    }

    /// Copying is not to make replicas late.
    async fn wait_for_standbys(&self) -> Result<(), MoveError> {
        for shard in [self.source, self.destination] {
            let connection = self.connect(shard).await?;
            while connection
                .query_one(&sql::STANDBYS, &[&None::<String>])
                .await?
                .get::<_, i64>(3)
                .unsigned_abs()
                > self.max_lag
            {
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    async fn directory(&self) -> Result<Lease, MoveError> {
        let directory = self.connect(self.directory).await?;
        directory.prepare(&[&sql::RECORD]).await?;
        Ok(directory)
    }

    async fn rooms(&self, connection: &Connection) -> Result<Vec<RoomId>, MoveError> {
        Ok(rooms(connection, self.slot).await?)
    }

    async fn connect(&self, shard: &Shard) -> Result<Lease, MoveError> {
        connect(shard, self.patience).await
    }
}

/// Both in their order.
fn others(there: &[RoomId], here: &[RoomId]) -> Vec<RoomId> {
    there.iter().filter(|room| here.binary_search(room).is_err()).copied().collect()
}
