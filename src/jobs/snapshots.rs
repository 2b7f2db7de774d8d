//! Snapshots of rooms, so that the state at any seq is a few events away.
//!
//! Looks through the shards' rooms, and folds the log of those that are due. A
//! node that is stopped, or finds another one's snapshot where it wanted to put
//! its own, has lost nothing but time.

use std::time::{Duration, Instant};

use crate::config;
use crate::ids::RoomId;
use crate::log::Fold;
use crate::metrics;
use crate::placement::ShardIndex;
use crate::position::Seq;
use crate::store::guard::WriteError;
use crate::store::history::{Behind, Freshness, History, ReadError};
use crate::tasks::Stop;

use super::{pause, rest};

/// Rooms that are looked at in one statement.
const LOOK_ROOMS: i64 = 1000;

/// The most events between two snapshots, however many shapes there are: with
/// the time until the job comes by, less than a reader is ready to replay.
const EVENTS_MAX: u64 = 8000;

/// What is a little old is made of the same log.
const FRESHNESS: Freshness = Freshness::MaxStale(Duration::from_secs(1));

pub struct Snapshots {
    history: History,
    shards: u16,
    every: u64,
    interval: Duration,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Snapshots {
    /// Of the rooms on so many shards.
    pub fn new(history: &History, shards: usize, config: &config::History) -> Self {
        Self {
            history: history.clone(),
            shards: u16::try_from(shards).unwrap_or(u16::MAX),
            every: config.snapshot_events,
            interval: config.snapshot_interval,
        }
    }

    pub async fn run(self, mut stop: Stop) {
        while pause(self.interval, &mut stop).await {
            for shard in (0..self.shards).map(ShardIndex) {
                self.look_through(shard, &mut stop).await;
            }
        }
    }

    async fn look_through(&self, shard: ShardIndex, stop: &mut Stop) {
        let mut after = 0;
        loop {
            let begun = Instant::now();
            let looked = self.history.behind(shard, after, LOOK_ROOMS, self.every, FRESHNESS).await;
            let took = begun.elapsed();
            let (behind, last) = match looked {
                Ok(looked) => looked,
                Err(error) => {
                    tracing::debug!(%error, "snapshots are made later");
                    return;
                }
            };
            // What has moved away is left to its owner.
            for room in behind.iter().filter(|room| self.history.shard_of(room.room) == Some(shard)) {
                if let Err(error) = self.catch_up(*room, stop).await {
                    tracing::warn!(room = %room.room, %error, "a room's snapshot is made later");
                }
            }
            match last {
                Some(last) if rest(took, stop).await => after = last,
                _ => return,
            }
        }
    }

    /// From the newest snapshot to the head.
    async fn catch_up(&self, room: Behind, stop: &mut Stop) -> Result<(), Failed> {
        let Behind { room, head, .. } = room;
        let mut fold = self.history.base(room, head, FRESHNESS).await?;
        loop {
            let due = Seq(fold.head.seq.0 + spacing(&fold, self.every));
            if due > head {
                return Ok(());
            }
            while fold.head.seq < due {
                let begun = Instant::now();
                self.history.replay(room, &mut fold, due, FRESHNESS).await?;
                if !rest(begun.elapsed(), stop).await {
                    return Ok(());
                }
            }
            fold.forget_deleted();
            self.keep(room, &fold).await?;
        }
    }

    async fn keep(&self, room: RoomId, fold: &Fold) -> Result<(), Failed> {
        if self.history.keep_snapshot(room, fold).await? {
            metrics::gateway::snapshot_written();
            tracing::debug!(%room, seq = %fold.head.seq, shapes = fold.shapes.len(), "a snapshot was made");
        }
        Ok(())
    }
}

/// So many events that a snapshot costs at most a shape an event.
fn spacing(fold: &Fold, every: u64) -> u64 {
    (fold.shapes.len() as u64).clamp(every, EVENTS_MAX)
}
