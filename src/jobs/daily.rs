//! Counts of days, made from the log a while after it was written.
//!
//! What was counted is noted with the counts.

use std::time::{Duration, Instant};

use super::rooms::{FRESHNESS, RoomWork, look_through};
use super::{Failed, pause, rest};
use crate::db::Class;
use crate::ids::RoomId;
use crate::placement::ShardIndex;
use crate::position::Seq;
use crate::store::guard::WriteError;
use crate::store::history::{History, ReadError};
use crate::tasks::Stop;

/// Rooms that are looked at in one statement.
const LOOK_ROOMS: i64 = 1000;

pub struct DailyCounts {
    history: History,
    interval: Duration,
}

impl DailyCounts {
    pub fn new(history: &History, interval: Duration) -> Self {
        Self { history: history.clone(), interval }
    }

    pub async fn run(self, mut stop: Stop) {
        while pause(self.interval, &mut stop).await {
            look_through(&self, &mut stop).await;
        }
    }
}

impl RoomWork for DailyCounts {
    const NAME: &'static str = "daily counts";

    type Due = RoomId;

    fn history(&self) -> &History {
        &self.history
    }

    async fn look(&self, shard: ShardIndex, after: i64) -> Result<(Vec<RoomId>, Option<i64>), ReadError> {
        self.history.uncounted(shard, after, LOOK_ROOMS, FRESHNESS).await
    }

    fn room(due: &RoomId) -> RoomId {
        *due
    }

    async fn work(&self, due: &RoomId, stop: &mut Stop) -> Result<(), Failed> {
        match count(&self.history, *due, None, stop).await {
            Ok(_) => Ok(()),
            // Another node is at it.
            Err(WriteError::Database(error)) if error.class() == Class::LockTimeout => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Counts a room's events up to `last`, else to its head. False: told to stop
/// before it was done.
pub(super) async fn count(
    history: &History,
    room: RoomId,
    last: Option<Seq>,
    stop: &mut Stop,
) -> Result<bool, WriteError> {
    loop {
        let begun = Instant::now();
        match history.count(room).await? {
            Some(counted) if counted.seq < last.unwrap_or(counted.head) => {}
            _ => return Ok(true),
        }
        if !rest(begun.elapsed(), stop).await {
            return Ok(false);
        }
    }
}
