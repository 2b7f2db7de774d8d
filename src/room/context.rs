//! What every room of this node shares.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::Notify;

use super::actor::RoomHandle;
use super::announcement::Announcement;
use super::snapshot::SnapshotPages;
use crate::bus::Bus;
use crate::bus::NodeId;
use crate::config;
use crate::ids::RoomId;
use crate::limits::Limits;
use crate::protocol::server::Member;
use crate::store::history::{Freshness, History, ReadError};
use crate::store::rooms::Rooms;
use crate::tasks::Tasks;
use crate::traces::Traces;

/// How many bytes of encoded snapshots are kept, over all rooms.
const SNAPSHOT_CACHE_BYTES: u64 = 64 << 20;

pub struct Context {
    pub node: NodeId,
    pub history: History,
    pub rooms: Rooms,
    pub bus: Bus,
    pub tasks: Tasks,
    pub sessions: config::Sessions,
    /// How old the reads may be that need no position.
    pub max_stale: Duration,
    /// Announcements may have been lost: the heads are compared at once.
    pub heads_due: Notify,
    /// One load for all who wait for the same room; least recently used out.
    pub snapshots: Cache<RoomId, Arc<SnapshotPages>>,
    pub traces: Traces,
    pub limits: Limits,
}

impl Context {
    pub fn new(
        node: NodeId,
        history: History,
        rooms: Rooms,
        bus: Bus,
        tasks: Tasks,
        sessions: config::Sessions,
        max_stale: Duration,
    ) -> Self {
        let snapshots = Cache::builder()
            .weigher(|_, pages: &Arc<SnapshotPages>| u32::try_from(pages.bytes()).unwrap_or(u32::MAX))
            .max_capacity(SNAPSHOT_CACHE_BYTES)
            .build();
        let (heads_due, traces) = (Notify::new(), Traces::default());
        let limits = Limits::new(&config::Limits::default());
        Self { node, history, rooms, bus, tasks, sessions, max_stale, heads_due, snapshots, traces, limits }
    }

    pub fn limited_by(self, limits: &Limits) -> Self {
        Self { limits: limits.clone(), ..self }
    }

    pub fn traced_by(self, traces: &Traces) -> Self {
        Self { traces: traces.clone(), ..self }
    }

    /// Tells the other nodes. Never waits; while Redis is away, or when its queue
    /// is full, it is dropped, and the other nodes find what they miss in the log.
    pub fn announce(&self, room: RoomId, announcement: &Announcement) {
        self.bus.publish(room, announcement.encode(self.node));
    }

    /// Who is in `room` on other nodes; `None` while the bus is away.
    pub async fn remote_members(&self, room: RoomId) -> Option<Vec<(NodeId, Member)>> {
        if !self.bus.shares_presence() {
            return None;
        }
        let stored = self.bus.members(room).await.ok()?;
        let member = |(node, text): &(NodeId, String)| Some((*node, serde_json::from_str(text).ok()?));
        Some(stored.iter().filter_map(member).collect())
    }

    /// A room's state for a joiner: from memory if the events since are there
    /// too, else loaded once for all who wait.
    pub async fn snapshot(
        &self,
        room: RoomId,
        handle: &RoomHandle,
    ) -> Result<Arc<SnapshotPages>, Arc<ReadError>> {
        let freshness = Freshness::MaxStale(self.max_stale);
        if !self.sessions.memory_serving {
            return self.load_snapshot(room, freshness).await.map_err(Arc::new);
        }
        let load = || self.snapshots.try_get_with(room, self.load_snapshot(room, freshness));
        let snapshot = load().await?;
        if handle.covers(snapshot.position).await {
            return Ok(snapshot);
        }
        self.snapshots.invalidate(&room).await;
        load().await
    }

    /// The same for a session that was in the room before: not older than what
    /// it was shown.
    pub async fn snapshot_since(
        &self,
        room: RoomId,
        shown: Freshness,
    ) -> Result<Arc<SnapshotPages>, Arc<ReadError>> {
        if let Freshness::AtLeast(at) = shown
            && self.sessions.memory_serving
        {
            let holds_all =
                |kept: &SnapshotPages| kept.position.epoch >= at.epoch && kept.position.seq >= at.seq;
            if self.snapshots.get(&room).await.is_some_and(|kept| !holds_all(&kept)) {
                self.snapshots.invalidate(&room).await;
            }
            let loaded = self.snapshots.try_get_with(room, self.load_since(room, shown)).await?;
            if holds_all(&loaded) {
                return Ok(loaded);
            }
            // Whoever began to load it wanted less.
        }
        self.load_since(room, shown).await.map_err(Arc::new)
    }

    async fn load_since(&self, room: RoomId, shown: Freshness) -> Result<Arc<SnapshotPages>, ReadError> {
        match self.load_snapshot(room, shown).await {
            // It was of a history that is gone, or its event was deleted.
            Err(ReadError::Lost(_)) => self.load_snapshot(room, Freshness::Primary).await,
            loaded => loaded,
        }
    }

    pub async fn load_snapshot(
        &self,
        room: RoomId,
        freshness: Freshness,
    ) -> Result<Arc<SnapshotPages>, ReadError> {
        let snapshot = self.history.snapshot(room, freshness).await?.value;
        Ok(Arc::new(SnapshotPages::encode(room, snapshot.position, &snapshot.shapes)))
    }
}
