//! `/health/detailed`: everything this node depends on, how it is, and why.
//! From memory; no database is asked.

use std::time::Instant;

use serde::Serialize;

use super::levels::{self, Level, Load, Traffic, Verdict};
use super::thresholds::{self, Threshold};
use crate::bus::Bus;
use crate::clock::Ahead;
use crate::config::Durability;
use crate::db::migrate::Schema;
use crate::ids::NodeName;
use crate::metrics::{Lately, lately};
use crate::routing::{Clocks, Endpoint, Facts, Shard, Shards, Standing};

/// Where the details come from.
#[derive(Clone)]
pub struct Watched {
    pub node: NodeName,
    pub shards: Shards,
    pub directory: Shard,
    pub bus: Bus,
    pub durability: Durability,
    pub clocks: Clocks,
}

#[derive(Serialize)]
pub struct Detail {
    status: Level,
    node: String,
    version: &'static str,
    /// The migrations this program needs, by database; a node doesn't start on
    /// older ones.
    schema: Versions,
    /// Of the last five minutes, like the traffic of the shards.
    work: Verdict,
    bus: Verdict,
    clock: ClockDetail,
    directory: ShardDetail,
    shards: Vec<ShardDetail>,
    thresholds: [Threshold; thresholds::ALL.len()],
}

#[derive(Serialize)]
struct Versions {
    directory: i64,
    shard: i64,
}

#[derive(Serialize)]
struct ClockDetail {
    #[serde(flatten)]
    verdict: Verdict,
    /// Over the databases' clocks; none while none of them answers.
    ahead_ms: Option<Ahead>,
}

#[derive(Serialize)]
struct ShardDetail {
    name: String,
    #[serde(flatten)]
    verdict: Verdict,
    primary: Option<String>,
    /// Under which it may be written to.
    claimed_timeline: Option<u32>,
    synchronous_standbys: i64,
    traffic: Verdict,
    endpoints: Vec<EndpointDetail>,
}

#[derive(Serialize)]
struct EndpointDetail {
    name: String,
    role: &'static str,
    #[serde(flatten)]
    verdict: Verdict,
    timeline: Option<u32>,
    lsn: Option<String>,
    lag_ms: Option<u64>,
    lag_bytes: Option<u64>,
    receiver: Option<String>,
    pool: PoolDetail,
    breaker: &'static str,
    active_connections: i64,
    connections_allowed: u32,
    disk_used_ratio: Option<f64>,
    /// Of this node's clock, over the server's.
    clock_ahead_ms: Option<Ahead>,
}

#[derive(Serialize)]
struct PoolDetail {
    in_use: u32,
    idle: u32,
    waiting: u64,
    max: u32,
}

impl Watched {
    pub fn look(&self) -> Detail {
        let mut bus = Verdict::default();
        self.bus.problems().into_iter().for_each(|problem| bus.note(Level::Warn, problem));
        let is_sync = self.durability == Durability::Sync;
        let lately = lately();
        let shards: Vec<_> =
            self.shards.iter().map(|(_, shard)| shard_detail(shard, is_sync, &lately)).collect();
        // Its durability is its own server's affair.
        let directory = shard_detail(&self.directory, false, &lately);
        let submit_p99 = lately.quantile("roomgate_submit_seconds_bucket", "", 0.99);
        let work = levels::work(submit_p99, lately.per_minute("db_slow_queries_total"));
        let ahead = self.clocks.ahead();
        let clock = ClockDetail { verdict: levels::clock(ahead), ahead_ms: ahead };
        let own = bus.status.max(work.status).max(clock.verdict.status);
        let levels = shards.iter().chain([&directory]).map(|shard| shard.verdict.status);
        Detail {
            status: levels.fold(own, Level::max),
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            schema: Versions { directory: Schema::Directory.latest(), shard: Schema::Shard.latest() },
            work,
            bus,
            clock,
            directory,
            shards,
            thresholds: thresholds::ALL,
        }
    }
}

fn shard_detail(shard: &Shard, is_sync: bool, lately: &Lately) -> ShardDetail {
    let known = shard.known();
    let now = Instant::now();
    let endpoints: Vec<EndpointDetail> = shard
        .endpoints()
        .iter()
        .zip(&known.facts)
        .map(|(endpoint, facts)| endpoint_detail(endpoint, facts, now))
        .collect();
    let standings: Vec<Standing> = known.facts.iter().map(|facts| facts.standing).collect();
    let primary = known.facts.iter().find(|facts| facts.standing == Standing::Primary);
    let synchronous_standbys = primary.map_or(0, |facts| facts.synchronous_standbys);
    let contested = shard.contested().is_some();
    let mut verdict = levels::shard(&standings, is_sync, synchronous_standbys, contested);
    let worst = endpoints.iter().map(|endpoint| endpoint.verdict.status).fold(Level::Ok, Level::max);
    let traffic = levels::traffic(traffic(shard.name().as_str(), lately));
    verdict.status = verdict.status.max(worst).max(traffic.status);
    ShardDetail {
        name: shard.name().to_string(),
        verdict,
        primary: shard.primary_now().map(|primary| primary.name().to_owned()),
        claimed_timeline: shard.claim().map(|claim| claim.timeline.0),
        synchronous_standbys,
        traffic,
        endpoints,
    }
}

/// As the recording rules define it.
fn traffic(shard: &str, lately: &Lately) -> Traffic {
    let share = |part: f64, all: f64| Some(part / all).filter(|_| all > 0.0);
    let transactions = lately.increase("db_transactions_total", shard, |_| true);
    let good = |outcome: &str| matches!(outcome, "committed" | "empty");
    let fallbacks = lately.increase("db_replica_fallbacks_total", shard, |reason| reason != "asked");
    Traffic {
        query_p95_seconds: lately.quantile("db_query_duration_seconds_bucket", shard, 0.95),
        transactions_good: share(lately.increase("db_transactions_total", shard, good), transactions),
        fallbacks: share(fallbacks, lately.increase("db_reads_total", shard, |_| true)),
    }
}

fn endpoint_detail(endpoint: &Endpoint, facts: &Facts, now: Instant) -> EndpointDetail {
    let pool = endpoint.pool().state();
    let breaker = endpoint.breaker_state();
    let staleness = facts.staleness(now);
    let (in_use, max) = (pool.size.saturating_sub(pool.idle), endpoint.capacity());
    let disk_used_ratio = endpoint.disk_used_ratio();
    let load =
        Load { in_use, max, waiting: pool.waiting, breaker_closed: breaker == "closed", disk_used_ratio };
    let mut verdict = levels::endpoint(facts, staleness, load);
    if let Some(error) = endpoint.pool().misconfigured() {
        verdict.note(Level::Critical, format!("its pool can't connect: {error}"));
    }
    let lag = staleness.filter(|_| facts.standing == Standing::Replica);
    EndpointDetail {
        name: endpoint.name().to_owned(),
        role: role(facts.standing),
        verdict,
        timeline: facts.timeline.map(|timeline| timeline.0),
        lsn: facts.lsn.map(|lsn| lsn.to_string()),
        lag_ms: lag.map(|late| u64::try_from(late.as_millis()).unwrap_or(u64::MAX)),
        lag_bytes: facts.lag_bytes.filter(|_| facts.standing == Standing::Replica),
        receiver: facts.receiver.clone(),
        pool: PoolDetail { in_use, idle: pool.idle, waiting: pool.waiting, max },
        breaker,
        active_connections: facts.active_connections,
        connections_allowed: facts.connections_allowed,
        disk_used_ratio,
        clock_ahead_ms: facts.clock_ahead,
    }
}

fn role(standing: Standing) -> &'static str {
    match standing {
        Standing::Primary => "primary",
        Standing::Replica => "replica",
        Standing::Unclaimed => "unclaimed",
        Standing::Fenced(_) => "fenced",
        Standing::Down => "unknown",
    }
}
