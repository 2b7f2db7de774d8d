//! The janitor: finishes what a crash left half done, and sweeps out what has
//! had its time.
//!
//! A room whose making began and did not end is finished: its plan is in the
//! directory, and every step may be repeated, also beside a slow node that is at
//! the same.

use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};

use crate::config;
use crate::directory::{Directory, DirectoryError, Unfinished};
use crate::routing::Freshness;
use crate::store::rooms::{Rooms, RoomsError, Wanted};
use crate::tasks::Stop;

/// What is looked at in one round.
const ROOMS_A_ROUND: i64 = 100;
/// How long one room may take: a shard that is away must not hold up the others.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Janitor {
    directory: Directory,
    rooms: Rooms,
    config: config::Jobs,
}

#[derive(Debug, Error)]
enum Failed {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Rooms(#[from] RoomsError),
}

impl Janitor {
    pub fn new(directory: Directory, rooms: Rooms, config: config::Jobs) -> Self {
        Self { directory, rooms, config }
    }

    pub async fn run(self, mut stop: Stop) {
        let mut ticks = interval(self.config.janitor_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.wait() => return,
            }
            tokio::select! {
                () = self.round() => {}
                () = stop.wait() => return,
            }
        }
    }

    /// All that is due. What fails is tried again in the next round.
    pub async fn round(&self) {
        if let Err(error) = self.finish_rooms().await {
            tracing::warn!(%error, "the janitor can't look for rooms that are half made");
        }
        match self.directory.sweep().await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, "swept the directory"),
            Err(error) => tracing::warn!(%error, "the janitor can't sweep the directory"),
        }
    }

    async fn finish_rooms(&self) -> Result<(), DirectoryError> {
        let unfinished = self.directory.unfinished_rooms(self.config.unfinished_room, ROOMS_A_ROUND).await?;
        for room in unfinished {
            match self.finish(&room).await {
                Ok(done) => tracing::info!(room = %room.room, slug = %room.slug, done, "a half made room"),
                Err(error) => {
                    tracing::warn!(room = %room.room, %error, "a half made room can't be finished now");
                }
            }
        }
        Ok(())
    }

    async fn finish(&self, begun: &Unfinished) -> Result<&'static str, Failed> {
        let deadline = Instant::now() + PATIENCE;
        match &begun.plan {
            Some(plan) => self.rooms.insert(plan, deadline).await?,
            None if self.exists(begun, deadline).await? => {}
            None => {
                self.directory.forget_slug(&begun.slug, begun.room).await?;
                return Ok("undone");
            }
        }
        self.directory.activate_slug(&begun.slug, begun.room).await?;
        Ok("finished")
    }

    async fn exists(&self, begun: &Unfinished, deadline: Instant) -> Result<bool, RoomsError> {
        let wanted = Wanted { room: begun.room, user: None, freshness: Freshness::Primary, deadline };
        match self.rooms.find(wanted).await {
            Ok(_) => Ok(true),
            Err(RoomsError::Unknown) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
