//! PostgreSQL: names and help texts, and what concerns no single shard. The
//! handles of shards and endpoints are in `shards`.

use std::sync::LazyLock;

use metrics::Counter;

use super::registry::{ByLabel, Family, SECONDS};

pub(super) const POOL_SIZE: Family =
    Family::gauge("db_pool_size", &["shard", "endpoint", "role"], "Open connections in the pool.");
pub(super) const POOL_AVAILABLE: Family =
    Family::gauge("db_pool_available", &["shard", "endpoint", "role"], "Idle connections in the pool.");
pub(super) const POOL_WAITING: Family =
    Family::gauge("db_pool_waiting", &["shard", "endpoint", "role"], "Requests waiting for a connection.");
pub(super) const POOL_MAX: Family = Family::gauge(
    "db_pool_max",
    &["shard", "endpoint", "role"],
    "Connections the pool may open (`pool.max_connections`).",
);
pub(super) const POOL_WAIT: Family = Family::histogram(
    "db_pool_wait_seconds",
    &["shard", "endpoint"],
    SECONDS,
    "From asking for a connection to having one, or to giving up.",
);
pub(super) const HELD: Family = Family::histogram(
    "db_connection_held_seconds",
    &["shard", "endpoint"],
    SECONDS,
    "How long a connection was kept from the pool.",
);
pub(super) const QUERY: Family = Family::histogram(
    "db_query_duration_seconds",
    &["shard", "role", "statement"],
    SECONDS,
    "From sending a statement to its last row; pipelined ones overlap.",
);
const SLOW: Family =
    Family::counter("db_slow_queries_total", &["statement"], "Statements that took over 100 ms.");
pub(super) const ERRORS: Family =
    Family::counter("db_errors_total", &["shard", "class"], "Errors by what is done about them.");
pub(super) const CONNECT_ERRORS: Family =
    Family::counter("db_connection_errors_total", &["shard", "endpoint"], "Connections that failed to open.");
pub(super) const TRANSACTIONS: Family = Family::counter(
    "db_transactions_total",
    &["shard", "outcome"],
    "Append transactions: committed; empty, where nothing was left to write; rolled_back, after an error; unknown, the answer to COMMIT being lost.",
);
const RETRIES: Family = Family::counter(
    "db_transaction_retries_total",
    &["class"],
    "Append transactions run again, by why: a class of errors, timed_out, superseded, not_claimed, no_standby.",
);
pub(super) const READS: Family = Family::counter(
    "db_reads_total",
    &["shard", "served_by"],
    "Reads by who served them: replica or primary.",
);
pub(super) const FALLBACKS: Family = Family::counter(
    "db_replica_fallbacks_total",
    &["shard", "reason"],
    "Reads that no replica could serve, by reason.",
);
pub(super) const LAG_SECONDS: Family = Family::gauge(
    "db_replication_lag_seconds",
    &["shard", "endpoint"],
    "At most how stale a replica is, by samples of the primary.",
);
pub(super) const LAG_BYTES: Family =
    Family::gauge("db_replication_lag_bytes", &["shard", "endpoint"], "WAL a replica has yet to replay.");
pub(super) const ENDPOINT_UP: Family =
    Family::gauge("db_endpoint_up", &["shard", "endpoint"], "1 if the endpoint answers its monitor.");
pub(super) const IS_PRIMARY: Family =
    Family::gauge("db_endpoint_is_primary", &["shard", "endpoint"], "1 if the endpoint is written to.");
pub(super) const TIMELINE: Family =
    Family::gauge("db_timeline", &["shard", "endpoint"], "The timeline the endpoint is on.");
pub(super) const ACTIVE: Family = Family::gauge(
    "db_active_connections",
    &["shard", "endpoint"],
    "Connections of all clients, of other programs too, that the server is at work for.",
);
pub(super) const ALLOWED: Family = Family::gauge(
    "db_connections_allowed",
    &["shard", "endpoint"],
    "Connections the server allows ordinary roles: max_connections less the reserved ones.",
);
pub(super) const DISK_USED: Family = Family::gauge(
    "db_disk_used_ratio",
    &["shard", "endpoint"],
    "Tables and WAL as a share of the endpoint's `disk_bytes`; absent where that is not configured, and until it was asked for.",
);
pub(super) const BREAKER: Family = Family::gauge(
    "db_breaker_state",
    &["shard", "endpoint"],
    "The endpoint's breaker: 0 closed, 1 half-open, 2 open.",
);
pub(super) const CLOCK_OFFSET: Family = Family::gauge(
    "db_clock_offset_seconds",
    &["shard", "endpoint"],
    "Seconds by which this node's clock is ahead of the endpoint's, at least; negative if it is behind.",
);
pub(super) const SYNC_STANDBYS: Family =
    Family::gauge("db_synchronous_standbys", &["shard"], "Standbys that a commit may wait for.");
pub(super) const SYNC_REQUIRED: Family = Family::gauge(
    "db_synchronous_standbys_required",
    &["shard"],
    "Standbys that must confirm a commit: 1 where durability is sync, else 0.",
);
pub(super) const FENCED: Family = Family::gauge(
    "db_endpoint_fenced",
    &["shard", "endpoint"],
    "1 while this node keeps away from the endpoint: an old primary, a second one, or another cluster.",
);
pub(super) const CONTESTED: Family = Family::gauge(
    "db_shard_contested",
    &["shard"],
    "1 while several servers were promoted side by side and no claim decides between them.",
);
pub(super) const EPOCH_CHANGES: Family = Family::counter(
    "roomgate_epoch_changes_total",
    &["shard"],
    "Times this node raised the epochs of a shard's slots because it claimed a new primary.",
);
pub(super) const DEADLOCKS: Family =
    Family::counter("db_deadlocks_total", &["shard"], "Deadlocks that ended a transaction of this node.");

pub(super) const FAMILIES: &[&Family] = &[
    &POOL_SIZE,
    &POOL_AVAILABLE,
    &POOL_WAITING,
    &POOL_MAX,
    &POOL_WAIT,
    &HELD,
    &QUERY,
    &SLOW,
    &ERRORS,
    &CONNECT_ERRORS,
    &TRANSACTIONS,
    &RETRIES,
    &READS,
    &FALLBACKS,
    &LAG_SECONDS,
    &LAG_BYTES,
    &ENDPOINT_UP,
    &IS_PRIMARY,
    &TIMELINE,
    &ACTIVE,
    &ALLOWED,
    &DISK_USED,
    &BREAKER,
    &CLOCK_OFFSET,
    &SYNC_STANDBYS,
    &SYNC_REQUIRED,
    &FENCED,
    &CONTESTED,
    &EPOCH_CHANGES,
    &DEADLOCKS,
];

static SLOW_QUERIES: LazyLock<ByLabel<Counter>> = LazyLock::new(|| ByLabel::new(&SLOW, &[]));
static TRANSACTION_RETRIES: LazyLock<ByLabel<Counter>> = LazyLock::new(|| ByLabel::new(&RETRIES, &[]));

/// A statement ended. Its series begins with its first run, slow or not.
pub(super) fn query_done(statement: &'static str, is_slow: bool) {
    SLOW_QUERIES.get(statement).increment(u64::from(is_slow));
}

/// Before the first transaction is run again.
pub fn prepare_retries(classes: impl IntoIterator<Item = &'static str>) {
    TRANSACTION_RETRIES.prepare(classes);
}

/// A transaction is run again because of an error of `class`.
pub fn transaction_retried(class: &'static str) {
    TRANSACTION_RETRIES.get(class).increment(1);
}
