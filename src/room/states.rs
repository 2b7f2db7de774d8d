//! States of rooms for joiners: read once for all that wait, and in memory once for all
//! that are being sent the same one.
//!
//! A state that is being sent serves new joiners too, for a while: they read the events
//! since from the log. So slow clients of a busy room share one state, where each would
//! keep one of its own in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache;

use super::actor::RoomHandle;
use super::snapshot::SnapshotPages;
use crate::ids::RoomId;
use crate::memory::{Memory, Owner, Reservation, SMALL_BYTES};
use crate::store::history::{Freshness, History, ReadError};

/// How many bytes of encoded snapshots are kept, over all rooms.
const CACHE_BYTES: u64 = 64 << 20;

/// How old a state may be that is still being sent, for a joiner to get it too.
const SHARED_FOR: Duration = Duration::from_secs(60);

pub struct States {
    history: History,
    pub(super) memory: Memory,
    /// How old the reads may be that need no position.
    pub(super) max_stale: Duration,
    /// Whether joiners are served from memory.
    serves_memory: bool,
    /// One load for all who wait for the same room; least recently used out.
    kept: Cache<RoomId, Arc<SnapshotPages>>,
}

/// A state that is being sent, with its place in the memory budget.
#[derive(Clone)]
pub struct SentState {
    pub pages: Arc<SnapshotPages>,
    _paid: Arc<Reservation>,
}

impl States {
    pub fn new(history: History, memory: Memory, max_stale: Duration, serves_memory: bool) -> Self {
        let kept = Cache::builder()
            .weigher(|_, pages: &Arc<SnapshotPages>| u32::try_from(pages.bytes()).unwrap_or(u32::MAX))
            .max_capacity(CACHE_BYTES)
            .build();
        Self { history, memory, max_stale, serves_memory, kept }
    }

    /// A room's state for a joiner: from memory if the events since are there
    /// too, else loaded once for all who wait.
    pub async fn now(
        &self,
        room: RoomId,
        owner: &Owner,
        handle: &RoomHandle,
    ) -> Result<SentState, Arc<ReadError>> {
        let freshness = Freshness::MaxStale(self.max_stale);
        let load = || self.kept.try_get_with(room, self.load(room, owner, freshness));
        if !self.serves_memory {
            return self.send(owner, self.load(room, owner, freshness).await?).await;
        }
        let kept = load().await?;
        let is_shared = kept.shared.are_paid() && kept.as_of.elapsed() < SHARED_FOR;
        if is_shared || handle.covers(kept.position).await {
            return self.send(owner, kept).await;
        }
        self.kept.invalidate(&room).await;
        self.send(owner, load().await?).await
    }

    /// The same for a session that was in the room before: not older than the events
    /// that the session was sent.
    pub async fn since(
        &self,
        room: RoomId,
        owner: &Owner,
        shown: Freshness,
    ) -> Result<SentState, Arc<ReadError>> {
        if let Freshness::AtLeast(at) = shown
            && self.serves_memory
        {
            let holds_all =
                |kept: &SnapshotPages| kept.position.epoch >= at.epoch && kept.position.seq >= at.seq;
            if self.kept.get(&room).await.is_some_and(|kept| !holds_all(&kept)) {
                self.kept.invalidate(&room).await;
            }
            let loaded = self.kept.try_get_with(room, self.load_since(room, owner, shown)).await?;
            if holds_all(&loaded) {
                return self.send(owner, loaded).await;
            }
            // The joiner that began to load it wanted less.
        }
        self.send(owner, self.load_since(room, owner, shown).await?).await
    }

    /// The primary's state, for a session whose history was lost by `lost_at`.
    pub async fn after_loss(
        &self,
        room: RoomId,
        owner: &Owner,
        lost_at: Instant,
    ) -> Result<SentState, Arc<ReadError>> {
        // An older state in memory may belong to the lost history.
        let is_new = |kept: &Arc<SnapshotPages>| kept.as_of >= lost_at;
        if self.kept.get(&room).await.is_some_and(|kept| !is_new(&kept)) {
            self.kept.invalidate(&room).await;
        }
        let load = self.load(room, owner, Freshness::Primary);
        let loaded = self.kept.try_get_with(room, load).await?;
        let loaded = match is_new(&loaded) {
            true => loaded,
            false => self.load(room, owner, Freshness::Primary).await?,
        };
        self.send(owner, loaded).await
    }

    async fn load_since(
        &self,
        room: RoomId,
        owner: &Owner,
        shown: Freshness,
    ) -> Result<Arc<SnapshotPages>, ReadError> {
        match self.load(room, owner, shown).await {
            // It was of a history that is gone, or its event was deleted.
            Err(ReadError::Lost(_)) => self.load(room, owner, Freshness::Primary).await,
            loaded => loaded,
        }
    }

    async fn load(
        &self,
        room: RoomId,
        owner: &Owner,
        freshness: Freshness,
    ) -> Result<Arc<SnapshotPages>, ReadError> {
        let as_of = Instant::now();
        let mut held = self.memory.reserve(owner, SMALL_BYTES).await.map_err(ReadError::NoMemory)?;
        let state = self.history.snapshot(room, freshness, &mut held).await?.value;
        let pages = SnapshotPages::encode(room, state.position, state.shapes);
        Ok(Arc::new(SnapshotPages { as_of, ..pages }))
    }

    async fn send(&self, owner: &Owner, pages: Arc<SnapshotPages>) -> Result<SentState, Arc<ReadError>> {
        let paid = pages.shared.pay(&self.memory, owner, pages.bytes()).await;
        let paid = paid.map_err(|refusal| Arc::new(ReadError::NoMemory(refusal)))?;
        Ok(SentState { pages, _paid: paid })
    }
}
