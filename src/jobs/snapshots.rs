//! Snapshots of rooms, so that the state at any seq is a few events away.
//!
//! Folds the log of rooms that are due. A node that finds another one's snapshot
//! where it wanted to put its own has lost nothing but time.

use std::time::{Duration, Instant};

use super::rooms::{FRESHNESS, RoomWork, look_through};
use super::{Failed, pause, rest};
use crate::config;
use crate::ids::RoomId;
use crate::log::Fold;
use crate::memory::{Memory, Owner, SMALL_BYTES};
use crate::metrics;
use crate::placement::ShardIndex;
use crate::position::Seq;
use crate::store::history::{Behind, History, ReadError};
use crate::tasks::Stop;

/// Rooms that are looked at in one statement.
const LOOK_ROOMS: i64 = 1000;

/// The most events between two snapshots, however many shapes there are: with
/// the time until the job comes by, less than a reader is ready to replay.
const EVENTS_MAX: u64 = 8000;

pub struct Snapshots {
    history: History,
    memory: Memory,
    every: u64,
    interval: Duration,
}

impl Snapshots {
    pub fn new(history: &History, memory: &Memory, config: &config::History) -> Self {
        let (history, memory) = (history.clone(), memory.clone());
        Self { history, memory, every: config.snapshot_events, interval: config.snapshot_interval }
    }

    pub async fn run(self, mut stop: Stop) {
        while pause(self.interval, &mut stop).await {
            look_through(&self, &mut stop).await;
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

impl RoomWork for Snapshots {
    const NAME: &'static str = "snapshots";

    type Due = Behind;

    fn history(&self) -> &History {
        &self.history
    }

    async fn look(&self, shard: ShardIndex, after: i64) -> Result<(Vec<Behind>, Option<i64>), ReadError> {
        self.history.behind(shard, after, LOOK_ROOMS, self.every, FRESHNESS).await
    }

    fn room(due: &Behind) -> RoomId {
        due.room
    }

    /// From the newest snapshot to the head.
    async fn work(&self, due: &Behind, stop: &mut Stop) -> Result<(), Failed> {
        let Behind { room, head, .. } = *due;
        let mut held = self.memory.reserve(&Owner::Node, SMALL_BYTES).await.map_err(ReadError::NoMemory)?;
        let mut fold = self.history.base(room, head, FRESHNESS, &mut held).await?;
        loop {
            let due = Seq(fold.head.seq.0 + spacing(&fold, self.every));
            if due > head {
                return Ok(());
            }
            while fold.head.seq < due {
                let begun = Instant::now();
                self.history.replay(room, &mut fold, due, FRESHNESS, &mut held).await?;
                if !rest(begun.elapsed(), stop).await {
                    return Ok(());
                }
            }
            fold.forget_deleted();
            self.keep(room, &fold).await?;
        }
    }
}

/// So many events that a snapshot costs at most a shape an event.
fn spacing(fold: &Fold, every: u64) -> u64 {
    (fold.shapes.len() as u64).clamp(every, EVENTS_MAX)
}
