//! Handles for one shard and for one endpoint, made once by who owns them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::database as db;
use super::registry::{ByLabel, series};

/// A statement above this counts as slow.
const SLOW_QUERY: Duration = Duration::from_millis(100);

/// What an endpoint was when it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
    Unknown,
}

impl Role {
    const ALL: [Self; 3] = [Self::Primary, Self::Replica, Self::Unknown];

    fn label(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Unknown => "unknown",
        }
    }
}

/// How an append transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    Committed,
    /// Everything in it was refused by the rules or known already.
    Empty,
    RolledBack,
    /// The answer to COMMIT was lost.
    Unknown,
}

impl Transaction {
    const ALL: [Self; 4] = [Self::Committed, Self::Empty, Self::RolledBack, Self::Unknown];

    fn label(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Empty => "empty",
            Self::RolledBack => "rolled_back",
            Self::Unknown => "unknown",
        }
    }
}

/// What concerns a shard as a whole. Cheap to clone.
#[derive(Clone)]
pub struct ShardMetrics(Arc<Shard>);

struct Shard {
    /// In the order of [`Role::ALL`].
    queries: [ByLabel<Histogram>; 3],
    errors: ByLabel<Counter>,
    transactions: ByLabel<Counter>,
    reads: ByLabel<Counter>,
    fallbacks: ByLabel<Counter>,
    sync_standbys: Gauge,
    sync_required: Gauge,
    contested: Gauge,
    epoch_changes: Counter,
    deadlocks: Counter,
}

impl ShardMetrics {
    /// `shard` is the shard's name, or `directory`.
    pub fn new(shard: &str) -> Self {
        Self(Arc::new(Shard {
            queries: Role::ALL.map(|role| ByLabel::new(&db::QUERY, &[shard, role.label()])),
            errors: ByLabel::new(&db::ERRORS, &[shard]),
            transactions: ByLabel::new(&db::TRANSACTIONS, &[shard]),
            reads: ByLabel::new(&db::READS, &[shard]),
            fallbacks: ByLabel::new(&db::FALLBACKS, &[shard]),
            sync_standbys: series(&db::SYNC_STANDBYS, &[shard]),
            sync_required: series(&db::SYNC_REQUIRED, &[shard]),
            contested: series(&db::CONTESTED, &[shard]),
            epoch_changes: series(&db::EPOCH_CHANGES, &[shard]),
            deadlocks: series(&db::DEADLOCKS, &[shard]),
        }))
    }

    /// Makes the series of these labels at zero.
    pub fn prepare(
        &self,
        classes: impl IntoIterator<Item = &'static str>,
        reasons: impl IntoIterator<Item = &'static str>,
    ) {
        self.0.errors.prepare(classes);
        self.0.fallbacks.prepare(reasons);
        self.0.reads.prepare(["replica", "primary"]);
        self.0.transactions.prepare(Transaction::ALL.map(Transaction::label));
    }

    /// A statement ended, well or not.
    fn query_done(&self, role: Role, statement: &'static str, elapsed: Duration) {
        self.0.queries[role as usize].get(statement).record(elapsed);
        // Those of a new connection are prepared together, each timed from the
        // first: no query of anybody's, and not slow by itself.
        db::query_done(statement, elapsed > SLOW_QUERY && statement != "prepare");
    }

    /// An error of `class`, see the table of error classes in `db`.
    fn error(&self, class: &'static str) {
        self.0.errors.get(class).increment(1);
    }

    pub fn transaction_done(&self, outcome: Transaction) {
        self.0.transactions.get(outcome.label()).increment(1);
    }

    /// A read was served by `replica` or `primary`.
    pub fn read_served(&self, served_by: &'static str) {
        self.0.reads.get(served_by).increment(1);
    }

    /// No replica could serve a read, because of `reason`.
    pub fn fell_back(&self, reason: &'static str) {
        self.0.fallbacks.get(reason).increment(1);
    }

    pub fn synchronous_standbys(&self, count: u32) {
        self.0.sync_standbys.set(f64::from(count));
    }

    /// Whether a commit must be confirmed by a standby.
    pub fn synchronous_standbys_required(&self, required: bool) {
        self.0.sync_required.set(f64::from(u8::from(required)));
    }

    pub fn contested(&self, contested: bool) {
        self.0.contested.set(f64::from(u8::from(contested)));
    }

    /// This node claimed a new primary, and the epochs of the shard's slots rose.
    pub fn epoch_changed(&self) {
        self.0.epoch_changes.increment(1);
    }

    fn deadlock(&self) {
        self.0.deadlocks.increment(1);
    }
}

/// What concerns one server of a shard. Cheap to clone.
#[derive(Clone)]
pub struct EndpointMetrics(Arc<Endpoint>);

struct Endpoint {
    /// Of its shard, and its own.
    names: [String; 2],
    shard: ShardMetrics,
    /// Index into [`Role::ALL`]: what the server was when last seen.
    role: AtomicU8,
    /// In the order of [`Role::ALL`]: size, available, waiting, max.
    pools: [[Gauge; 4]; 3],
    pool_wait: Histogram,
    held: Histogram,
    connect_errors: Counter,
    lag_seconds: Gauge,
    lag_bytes: Gauge,
    up: Gauge,
    is_primary: Gauge,
    fenced: Gauge,
    timeline: Gauge,
    active: Gauge,
    allowed: Gauge,
    breaker: Gauge,
    clock_offset: Gauge,
}

/// How full the disk of `endpoint` is. A series of its own, because most
/// endpoints don't say how large their disk is.
#[derive(Clone)]
pub struct DiskMetrics(Gauge);

impl DiskMetrics {
    pub fn new(shard: &str, endpoint: &str) -> Self {
        Self(series(&db::DISK_USED, &[shard, endpoint]))
    }

    pub fn used(&self, ratio: f64) {
        self.0.set(ratio);
    }
}

/// A pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUse {
    pub size: u32,
    pub available: u32,
    pub waiting: u32,
    pub max: u32,
}

impl EndpointMetrics {
    pub fn new(shard: &str, endpoint: &str) -> Self {
        let names = [shard, endpoint];
        let pool = |role: Role| {
            let labels = [shard, endpoint, role.label()];
            let families = [&db::POOL_SIZE, &db::POOL_AVAILABLE, &db::POOL_WAITING, &db::POOL_MAX];
            families.map(|family| series(family, &labels))
        };
        Self(Arc::new(Endpoint {
            names: names.map(str::to_owned),
            shard: ShardMetrics::new(shard),
            role: AtomicU8::new(Role::Unknown as u8),
            pools: Role::ALL.map(pool),
            pool_wait: series(&db::POOL_WAIT, &names),
            held: series(&db::HELD, &names),
            connect_errors: series(&db::CONNECT_ERRORS, &names),
            lag_seconds: series(&db::LAG_SECONDS, &names),
            lag_bytes: series(&db::LAG_BYTES, &names),
            up: series(&db::ENDPOINT_UP, &names),
            is_primary: series(&db::IS_PRIMARY, &names),
            fenced: series(&db::FENCED, &names),
            timeline: series(&db::TIMELINE, &names),
            active: series(&db::ACTIVE, &names),
            allowed: series(&db::ALLOWED, &names),
            breaker: series(&db::BREAKER, &names),
            clock_offset: series(&db::CLOCK_OFFSET, &names),
        }))
    }

    /// The name of the shard, and of the endpoint.
    pub fn names(&self) -> [&str; 2] {
        self.0.names.each_ref().map(String::as_str)
    }

    /// The pool as it is, in the role the server has now. The series of its
    /// other roles fall to zero, so that a sum over roles stays right.
    pub fn pool(&self, role: Role, now: PoolUse) {
        self.0.role.store(role as u8, Ordering::Relaxed);
        for each in Role::ALL {
            let now = if each == role { now } else { PoolUse::default() };
            let [size, available, waiting, max] = &self.0.pools[each as usize];
            size.set(f64::from(now.size));
            available.set(f64::from(now.available));
            waiting.set(f64::from(now.waiting));
            max.set(f64::from(now.max));
        }
    }

    /// A statement ended here, well or not; counted under the server's role.
    pub fn query_done(&self, statement: &'static str, elapsed: Duration) {
        let role = Role::ALL[usize::from(self.0.role.load(Ordering::Relaxed))];
        self.0.shard.query_done(role, statement, elapsed);
    }

    /// An error of `class` came from here.
    pub fn error(&self, class: &'static str) {
        self.0.shard.error(class);
        if class == "deadlock" {
            self.0.shard.deadlock();
        }
    }

    pub fn pool_waited(&self, elapsed: Duration) {
        self.0.pool_wait.record(elapsed);
    }

    pub fn connection_held(&self, elapsed: Duration) {
        self.0.held.record(elapsed);
    }

    pub fn connect_failed(&self) {
        self.0.connect_errors.increment(1);
    }

    /// How far a replica is behind; zero for a primary.
    #[allow(clippy::cast_precision_loss, reason = "exact up to 9 PB of WAL")]
    pub fn replication_lag(&self, time: Duration, bytes: u64) {
        self.0.lag_seconds.set(time.as_secs_f64());
        self.0.lag_bytes.set(bytes as f64);
    }

    pub fn up(&self, up: bool) {
        self.0.up.set(f64::from(u8::from(up)));
    }

    pub fn is_primary(&self, primary: bool) {
        self.0.is_primary.set(f64::from(u8::from(primary)));
    }

    pub fn fenced(&self, fenced: bool) {
        self.0.fenced.set(f64::from(u8::from(fenced)));
    }

    pub fn timeline(&self, timeline: u32) {
        self.0.timeline.set(f64::from(timeline));
    }

    pub fn active_connections(&self, count: u32) {
        self.0.active.set(f64::from(count));
    }

    pub fn connections_allowed(&self, count: u32) {
        self.0.allowed.set(f64::from(count));
    }

    /// By how much this node's clock is ahead of the server's.
    pub fn clock_offset(&self, seconds: f64) {
        self.0.clock_offset.set(seconds);
    }

    /// 0 closed, 1 half-open, 2 open.
    pub fn breaker(&self, state: u8) {
        self.0.breaker.set(f64::from(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_counts_once_when_its_server_is_promoted() {
        let endpoint = EndpointMetrics::new("test-promoted", "a-1");
        let pool = PoolUse { size: 7, available: 3, waiting: 1, max: 20 };
        endpoint.pool(Role::Replica, pool);
        endpoint.pool(Role::Primary, pool);
        let text = super::super::render();
        let series =
            |role| format!("db_pool_size{{shard=\"test-promoted\",endpoint=\"a-1\",role=\"{role}\"}} ");
        assert!(text.contains(&(series("replica") + "0\n")), "{text}");
        assert!(text.contains(&(series("primary") + "7\n")), "{text}");
    }
}
