//! The janitor: finishes what a crash left half done, and sweeps out what has
//! had its time.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::half_made;
use crate::config;
use crate::directory::{Directory, DirectoryError};
use crate::store::rooms::Rooms;
use crate::tasks::Stop;

/// What is looked at in one round.
const ROOMS_A_ROUND: i64 = 100;
/// A shard that is away must not hold up the others.
const SHARD_PATIENCE: Duration = Duration::from_secs(5);

pub struct Janitor {
    directory: Directory,
    rooms: Rooms,
    config: config::Jobs,
}

impl Janitor {
    pub fn new(directory: Directory, rooms: Rooms, config: config::Jobs) -> Self {
        Self { directory, rooms, config }
    }

    /// Until it is told to stop, which may be in the middle.
    pub async fn run(self, mut stop: Stop) {
        let mut ticks = interval(self.config.janitor_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let round = async {
                ticks.tick().await;
                self.round().await;
            };
            tokio::select! {
                () = round => {}
                () = stop.wait() => return,
            }
        }
    }

    /// All that is due. What fails is tried again in the next round.
    async fn round(&self) {
        if let Err(error) = self.finish_rooms().await {
            tracing::warn!(%error, "the janitor can't look for rooms that are half made");
        }
        match self.directory.sweep().await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, "swept the directory"),
            Err(error) => tracing::warn!(%error, "the janitor can't sweep the directory"),
        }
        self.trim_trails().await;
        for shard in self.rooms.shards() {
            match self.rooms.sweep_invites(shard, Instant::now() + SHARD_PATIENCE).await {
                Ok(0) => {}
                Ok(invites) => tracing::debug!(shard = %shard.name(), invites, "swept out invites"),
                Err(error) => tracing::debug!(shard = %shard.name(), %error, "invites are swept out later"),
            }
            match self.rooms.sweep_legacy_reads(shard, Instant::now() + SHARD_PATIENCE).await {
                Ok(0) => {}
                Ok(rooms) => tracing::debug!(shard = %shard.name(), rooms, "legacy history reads expired"),
                Err(error) => {
                    tracing::debug!(shard = %shard.name(), %error, "expired legacy history reads stay for now");
                }
            }
        }
    }

    /// Removes the notes of the audit trails that have had their time.
    async fn trim_trails(&self) {
        let kept = self.config.audit_keep;
        if kept.is_zero() {
            return;
        }
        if let Err(error) = self.directory.trim_audit(kept).await {
            tracing::debug!(%error, "old audit notes of the directory stay for now");
        }
        for shard in self.rooms.shards() {
            if let Err(error) = self.rooms.trim_trail(shard, kept).await {
                tracing::debug!(shard = %shard.name(), %error, "old audit notes stay for now");
            }
        }
    }

    async fn finish_rooms(&self) -> Result<(), DirectoryError> {
        let unfinished = self.directory.unfinished_rooms(self.config.unfinished_room, ROOMS_A_ROUND).await?;
        for begun in unfinished {
            if let Err(error) = half_made::finish(&self.directory, &self.rooms, &begun).await {
                tracing::warn!(room = %begun.room, %error, "a room that is half made can't be finished now");
            }
        }
        Ok(())
    }
}
