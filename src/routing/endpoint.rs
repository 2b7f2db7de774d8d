//! One server of a shard, as this node uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};

use super::breaker::Breaker;
use crate::config;
use crate::db::{Demand, Pool};
use crate::ids::ShardName;
use crate::metrics::EndpointMetrics;

/// A PostgreSQL server with its pool. Its role is known to the [`super::Shard`].
pub struct Endpoint {
    shard: ShardName,
    config: config::Endpoint,
    pool: Pool,
    /// What all nodes may open there.
    pub(super) demand: Demand,
    pub(super) index: usize,
    pub(super) same_zone: bool,
    pub(super) capacity: usize,
    pub(super) breaker: Breaker,
    pub(super) metrics: EndpointMetrics,
    /// Wakes its monitor at once.
    pub(super) nudge: Notify,
    /// One a connection; who waits for one is served in turn.
    pub(super) places: Arc<Semaphore>,
    reads: AtomicUsize,
    /// Bytes of its tables and WAL; zero while nobody knows.
    pub(super) disk_used_bytes: AtomicU64,
    /// Rises when somebody doubts what the monitor last saw.
    doubts: AtomicU64,
}

impl Endpoint {
    pub(super) fn new(
        shard: ShardName,
        config: config::Endpoint,
        pool: Pool,
        demand: Demand,
        index: usize,
        capacity: usize,
        zone: Option<&str>,
    ) -> Self {
        let metrics = pool.metrics().clone();
        let same_zone = zone.is_some() && config.zone.as_deref() == zone;
        Self {
            shard,
            config,
            pool,
            demand,
            index,
            same_zone,
            capacity,
            breaker: Breaker::default(),
            metrics,
            nudge: Notify::new(),
            places: Arc::new(Semaphore::new(capacity)),
            reads: AtomicUsize::new(0),
            disk_used_bytes: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
        }
    }

    pub fn shard(&self) -> &ShardName {
        &self.shard
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Where it is, for connections outside the pool.
    pub fn config(&self) -> &config::Endpoint {
        &self.config
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Reads this node has under way there, and those that wait for a place.
    pub fn in_flight(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    /// Connections this node may have to it.
    pub fn capacity(&self) -> u32 {
        u32::try_from(self.capacity).unwrap_or(u32::MAX)
    }

    /// `closed`, `half_open` or `open`: whether reads stay away.
    pub fn breaker_state(&self) -> &'static str {
        match self.breaker.level() {
            0 => "closed",
            1 => "half_open",
            _ => "open",
        }
    }

    /// How full its disk is, if that is known.
    pub fn disk_used_ratio(&self) -> Option<f64> {
        let used = self.disk_used_bytes.load(Ordering::Relaxed);
        let size = self.config.disk_bytes.filter(|_| used > 0)?;
        Some(used as f64 / size.max(1) as f64)
    }

    pub(super) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::SeqCst);
        self.nudge.notify_one();
    }

    /// An observation counts only if nobody has doubted the endpoint since it
    /// was begun.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.shard, self.config.name)
    }
}

/// A read under way on an endpoint.
pub(super) struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub(super) fn start(endpoint: Arc<Endpoint>) -> Self {
        endpoint.reads.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.reads.fetch_sub(1, Ordering::Relaxed);
    }
}
