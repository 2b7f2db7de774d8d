//! Old events, deleted behind a snapshot while everybody goes on drawing.
//!
//! In small batches, with a rest after each as long as it took. Where an archive
//! is configured, what is deleted was written there before, and synced.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::archive::Archive;
use super::daily::count;
use super::rooms::{FRESHNESS, RoomWork, look_through};
use super::{Failed, pause, rest};
use crate::config;
use crate::ids::RoomId;
use crate::metrics;
use crate::placement::ShardIndex;
use crate::position::Seq;
use crate::store::history::{Expired, History, ReadError};
use crate::store::imports::Imports;
use crate::tasks::Stop;

/// Rooms that are looked at in one statement.
const LOOK_ROOMS: i64 = 500;
/// Events in one transaction.
const BATCH_EVENTS: u64 = 1000;
/// After so many events it is logged how far a room has come.
const LOG_EVENTS: u64 = 100_000;

pub struct Retention {
    history: History,
    imports: Imports,
    /// Of rooms that don't say; 0 is for ever.
    retention_ms: i64,
    interval: Duration,
    archive_dir: Option<PathBuf>,
}

impl Retention {
    pub fn new(history: &History, imports: &Imports, config: &config::History) -> Self {
        Self {
            history: history.clone(),
            imports: imports.clone(),
            retention_ms: i64::try_from(config.retention.as_millis()).unwrap_or(i64::MAX),
            interval: config.retention_interval,
            archive_dir: config.archive_dir.clone(),
        }
    }

    pub async fn run(self, mut stop: Stop) {
        while pause(self.interval, &mut stop).await {
            self.imports.sweep().await;
            look_through(&self, &mut stop).await;
        }
    }

    /// False: told to stop before it was done.
    async fn archive(&self, folder: PathBuf, expired: &Expired, stop: &mut Stop) -> Result<bool, Failed> {
        let Expired { room, oldest, last } = *expired;
        let mut archive = Archive::create(folder, oldest, last).await?;
        let mut after = Seq(oldest.0.saturating_sub(1));
        while after < last {
            let begun = Instant::now();
            after = self.archive_page(&mut archive, room, after, last).await?;
            if !rest(begun.elapsed(), stop).await {
                archive.discard().await?;
                return Ok(false);
            }
        }
        let path = archive.finish().await?;
        tracing::info!(%room, from = %oldest, to = %last, path = %path.display(), "old events were archived");
        Ok(true)
    }

    async fn archive_page(
        &self,
        archive: &mut Archive,
        room: RoomId,
        after: Seq,
        last: Seq,
    ) -> Result<Seq, Failed> {
        let page = self.history.log(room, after, FRESHNESS).await?;
        let mut to = after;
        for event in page.value.iter().take_while(|event| event.position.seq <= last) {
            archive.line(event.to_json().as_str())?;
            to = event.position.seq;
        }
        archive.flush().await?;
        Ok(to)
    }
}

impl RoomWork for Retention {
    const NAME: &'static str = "retention";

    type Due = Expired;

    fn history(&self) -> &History {
        &self.history
    }

    async fn look(&self, shard: ShardIndex, after: i64) -> Result<(Vec<Expired>, Option<i64>), ReadError> {
        self.history.expired(shard, after, LOOK_ROOMS, self.retention_ms, FRESHNESS).await
    }

    fn room(due: &Expired) -> RoomId {
        due.room
    }

    /// What is stopped half-way is gone on with from the first event left.
    async fn work(&self, expired: &Expired, stop: &mut Stop) -> Result<(), Failed> {
        let Expired { room, oldest, last } = *expired;
        if let Some(folder) = &self.archive_dir
            && !self.archive(folder.join(room.to_string()), expired, stop).await?
        {
            return Ok(());
        }
        // Days count what is deleted.
        if !count(&self.history, room, Some(last), stop).await? {
            return Ok(());
        }
        let (mut from, mut deleted) = (oldest, 0);
        while from <= last {
            let begun = Instant::now();
            let batch = self.history.delete_expired(expired, from, BATCH_EVENTS).await?;
            metrics::gateway::events_expired(batch);
            from = Seq(from.0 + BATCH_EVENTS);
            if deleted / LOG_EVENTS < (deleted + batch) / LOG_EVENTS {
                tracing::info!(%room, %from, %last, "old events are being deleted");
            }
            deleted += batch;
            if !rest(begun.elapsed(), stop).await {
                return Ok(());
            }
        }
        self.history.delete_snapshots(expired).await?;
        tracing::info!(%room, first = %last.next(), deleted, "old events were deleted");
        Ok(())
    }
}
