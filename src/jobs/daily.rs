//! Counts of days, made from the log a while after it was written.
//!
//! Looks through the shards' rooms, and counts the new events of those that have
//! some. A node that is stopped, or finds another one at the same room, has lost
//! nothing: what was counted is noted with the counts.

use std::time::{Duration, Instant};

use crate::db::Class;
use crate::ids::RoomId;
use crate::placement::ShardIndex;
use crate::store::guard::WriteError;
use crate::store::history::{Freshness, History};
use crate::tasks::Stop;

use super::{pause, rest};

/// Rooms that are looked at in one statement.
const LOOK_ROOMS: i64 = 1000;

/// What a replica doesn't know yet is found the next time.
const FRESHNESS: Freshness = Freshness::MaxStale(Duration::from_secs(1));

pub struct DailyCounts {
    history: History,
    shards: u16,
    interval: Duration,
}

impl DailyCounts {
    /// Of the rooms on so many shards.
    pub fn new(history: &History, shards: usize, interval: Duration) -> Self {
        Self { history: history.clone(), shards: u16::try_from(shards).unwrap_or(u16::MAX), interval }
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
            let looked = self.history.uncounted(shard, after, LOOK_ROOMS, FRESHNESS).await;
            let took = begun.elapsed();
            let (rooms, last) = match looked {
                Ok(looked) => looked,
                Err(error) => {
                    tracing::debug!(%error, "days are counted later");
                    return;
                }
            };
            // What has moved away is left to its owner.
            for room in rooms.into_iter().filter(|room| self.history.shard_of(*room) == Some(shard)) {
                match self.count(room, stop).await {
                    Ok(()) => {}
                    // Another node is at it.
                    Err(WriteError::Database(error)) if error.class() == Class::LockTimeout => {}
                    Err(error) => tracing::warn!(%room, %error, "a room's days are counted later"),
                }
            }
            match last {
                Some(last) if rest(took, stop).await => after = last,
                _ => return,
            }
        }
    }

    async fn count(&self, room: RoomId, stop: &mut Stop) -> Result<(), WriteError> {
        loop {
            let begun = Instant::now();
            match self.history.count(room).await? {
                Some(counted) if counted.seq < counted.head => {}
                _ => return Ok(()),
            }
            if !rest(begun.elapsed(), stop).await {
                return Ok(());
            }
        }
    }
}
