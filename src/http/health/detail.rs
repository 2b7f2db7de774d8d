//! `/health/detailed`: everything this node depends on, how it is, and why.
//! From memory; no database is asked.

use std::time::Instant;

use serde::Serialize;

use super::levels::{self, Level, Load, Verdict};
use crate::bus::Bus;
use crate::config::Durability;
use crate::db::migrate::Schema;
use crate::ids::NodeName;
use crate::routing::{Endpoint, Facts, Shard, Shards, Standing};

/// Where the details come from.
#[derive(Clone)]
pub struct Watched {
    pub node: NodeName,
    pub shards: Shards,
    pub directory: Shard,
    pub bus: Bus,
    pub durability: Durability,
}

#[derive(Serialize)]
pub struct Detail {
    status: Level,
    node: String,
    version: &'static str,
    /// The migrations this program needs, by database; a node doesn't start on
    /// older ones.
    schema: Versions,
    bus: Verdict,
    directory: ShardDetail,
    shards: Vec<ShardDetail>,
}

#[derive(Serialize)]
struct Versions {
    directory: i64,
    shard: i64,
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
        if !self.bus.is_up() {
            bus.note(Level::Warn, "Redis doesn't answer: events of other nodes arrive through the log");
        }
        let is_sync = self.durability == Durability::Sync;
        let shards: Vec<_> = self.shards.iter().map(|(_, shard)| shard_detail(shard, is_sync)).collect();
        // Its durability is its own server's affair.
        let directory = shard_detail(&self.directory, false);
        let levels = shards.iter().chain([&directory]).map(|shard| shard.verdict.status);
        Detail {
            status: levels.fold(bus.status, Level::max),
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            schema: Versions { directory: Schema::Directory.latest(), shard: Schema::Shard.latest() },
            bus,
            directory,
            shards,
        }
    }
}

fn shard_detail(shard: &Shard, is_sync: bool) -> ShardDetail {
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
    verdict.status = verdict.status.max(worst);
    ShardDetail {
        name: shard.name().to_string(),
        verdict,
        primary: shard.primary_now().map(|primary| primary.name().to_owned()),
        claimed_timeline: shard.claim().map(|claim| claim.timeline.0),
        synchronous_standbys,
        endpoints,
    }
}

fn endpoint_detail(endpoint: &Endpoint, facts: &Facts, now: Instant) -> EndpointDetail {
    let pool = endpoint.pool().state();
    let breaker = endpoint.breaker_state();
    let staleness = facts.staleness(now);
    let (in_use, max) = (pool.size.saturating_sub(pool.idle), endpoint.capacity());
    let load = Load { in_use, max, waiting: pool.waiting, breaker_closed: breaker == "closed" };
    let lag = staleness.filter(|_| facts.standing == Standing::Replica);
    EndpointDetail {
        name: endpoint.name().to_owned(),
        role: role(facts.standing),
        verdict: levels::endpoint(facts, staleness, load),
        timeline: facts.timeline.map(|timeline| timeline.0),
        lsn: facts.lsn.map(|lsn| lsn.to_string()),
        lag_ms: lag.map(|late| u64::try_from(late.as_millis()).unwrap_or(u64::MAX)),
        lag_bytes: facts.lag_bytes.filter(|_| facts.standing == Standing::Replica),
        receiver: facts.receiver.clone(),
        pool: PoolDetail { in_use, idle: pool.idle, waiting: pool.waiting, max },
        breaker,
        active_connections: facts.active_connections,
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
