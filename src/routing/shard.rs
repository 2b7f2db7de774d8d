//! The handles that the rest of the program holds: all shards, one shard, and
//! what is known of its endpoints.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::time::timeout_at;

use super::choose::Reason;
use super::disk;
use super::endpoint::Endpoint;
use super::monitor::Monitor;
use super::roles::{Claim, Fence, Standing, SystemId};
use super::route::{Freshness, Route};
use super::staleness::{Lsn, Timeline};
use crate::clock::Ahead;
use crate::config;
use crate::db::{Budget, Class, DbError, OverBudget, Pool, SessionSettings, Sql};
use crate::ids::{NodeName, ShardName};
use crate::metrics::{EndpointMetrics, ShardMetrics};
use crate::placement::ShardIndex;
use crate::tasks::Tasks;

/// How this node connects, the same for every shard.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    pub node: &'a config::Node,
    pub pool: &'a config::Pool,
    pub budget: &'a Budget,
    pub reads: &'a config::Reads,
    pub lock_timeout: Duration,
    /// `directory` for the directory's tables, else the server's default.
    pub search_path: &'static str,
    /// Prepared on every pooled connection when it is made.
    pub statements: &'static [&'static [&'static Sql]],
}

/// All shards, in the order in which this node came to know them: one may join,
/// none leaves before the node ends. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    shards: Arc<boxcar::Vec<Shard>>,
}

impl Shards {
    /// Starts a monitor for each. Servers that are away are no error.
    pub fn start(shards: &[config::Shard], setup: Setup<'_>, tasks: &Tasks) -> Self {
        let start = |shard: &config::Shard| Shard::start(shard, setup, tasks);
        Self { shards: Arc::new(shards.iter().map(start).collect()) }
    }

    pub fn get(&self, index: ShardIndex) -> Option<&Shard> {
        self.shards.get(usize::from(index.0))
    }

    pub fn iter(&self) -> impl Iterator<Item = (ShardIndex, &Shard)> {
        self.shards.iter().map(|(index, shard)| (ShardIndex(index as u16), shard))
    }

    /// From now on everybody who holds these has one more.
    pub fn join(&self, shard: Shard) -> ShardIndex {
        ShardIndex(self.shards.push(shard) as u16)
    }

    /// Of the shard that joins next.
    pub fn next_index(&self) -> ShardIndex {
        ShardIndex(self.shards.count() as u16)
    }

    pub fn len(&self) -> usize {
        self.shards.count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One PostgreSQL cluster: a primary, if it has one now, and replicas. Cheap to
/// clone. The directory is one as well.
#[derive(Clone)]
pub struct Shard {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) name: ShardName,
    pub(super) weight: u32,
    pub(super) node: NodeName,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) reads: config::Reads,
    pub(super) settings: SessionSettings,
    pub(super) metrics: ShardMetrics,
    pub(super) known: watch::Sender<Arc<Known>>,
    pub(super) primary: watch::Sender<Option<Arc<Endpoint>>>,
    pub(super) claim: watch::Sender<Option<Claim>>,
    /// Reads on the primary, bounded so that lost replicas don't sink it.
    pub(super) primary_reads: Arc<Semaphore>,
    pub(super) primary_readers: std::sync::atomic::AtomicUsize,
}

/// What the monitor last published, in the order of the endpoints.
#[derive(Debug, Default)]
pub struct Known {
    pub facts: Vec<Facts>,
    /// Of the accepted primary, now or when there last was one.
    pub timeline: Timeline,
}

impl Known {
    /// See [`Shard::contested`].
    pub(super) fn contested(&self, claim: Option<&Claim>) -> Option<Timeline> {
        let claimed = claim.map(|claim| claim.timeline);
        let rivals = self.facts.iter().filter(|facts| {
            facts.standing == Standing::Fenced(Fence::SameTimeline) && facts.timeline > claimed
        });
        rivals.filter_map(|rival| rival.timeline).max()
    }
}

/// What is known of one endpoint.
#[derive(Debug, Clone)]
pub struct Facts {
    pub standing: Standing,
    pub timeline: Option<Timeline>,
    pub system_id: Option<SystemId>,
    /// Flushed on a primary, replayed on a replica.
    pub lsn: Option<Lsn>,
    /// It has everything that was committed before this instant.
    pub fresh_at: Option<Instant>,
    pub settled: bool,
    pub lag_bytes: Option<u64>,
    /// A replica's WAL receiver, e.g. `streaming`.
    pub receiver: Option<String>,
    pub synchronous_standbys: i64,
    pub active_connections: i64,
    pub connections_allowed: u32,
    /// Of this node's clock, over the server's.
    pub clock_ahead: Option<Ahead>,
    /// The server allows fewer connections than all nodes may open.
    pub over_budget: Option<OverBudget>,
    /// Why it is down.
    pub error: Option<DbError>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            standing: Standing::Down,
            timeline: None,
            system_id: None,
            lsn: None,
            fresh_at: None,
            settled: false,
            lag_bytes: None,
            receiver: None,
            synchronous_standbys: 0,
            active_connections: 0,
            connections_allowed: 0,
            clock_ahead: None,
            over_budget: None,
            error: None,
        }
    }
}

impl Facts {
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        self.fresh_at.map(|instant| now.saturating_duration_since(instant))
    }
}

/// The deadline passed without a primary being seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard} has no writable primary")]
pub struct NoPrimary {
    pub shard: ShardName,
}

impl Shard {
    pub fn start(shard: &config::Shard, setup: Setup<'_>, tasks: &Tasks) -> Self {
        let config::Shard { name, weight, endpoints } = shard;
        let settings = SessionSettings {
            application_name: format!("roomgate/{}", setup.node.name),
            connect_timeout: setup.pool.connect_timeout,
            statement_timeout: setup.pool.statement_timeout,
            lock_timeout: setup.lock_timeout,
            search_path: setup.search_path,
        };
        let endpoint = |(index, config): (usize, &config::Endpoint)| {
            let metrics = EndpointMetrics::new(name.as_str(), &config.name);
            let pool = Pool::new(config, setup.pool, settings.clone(), setup.statements, metrics, tasks);
            let capacity = setup.pool.max_connections as usize;
            let zone = setup.node.zone.as_deref();
            let demand = setup.budget.demand(config);
            Arc::new(Endpoint::new(name.clone(), config.clone(), pool, demand, index, capacity, zone))
        };
        let metrics = ShardMetrics::new(name.as_str());
        metrics.prepare(Class::ALL.map(Class::as_str), Reason::ALL.map(Reason::as_str));
        let shared = Arc::new(Shared {
            name: name.clone(),
            weight: *weight,
            node: setup.node.name.clone(),
            endpoints: endpoints.iter().enumerate().map(endpoint).collect(),
            reads: setup.reads.clone(),
            settings,
            metrics,
            known: watch::Sender::new(Arc::new(Known {
                facts: vec![Facts::default(); endpoints.len()],
                timeline: Timeline::default(),
            })),
            primary: watch::Sender::new(None),
            claim: watch::Sender::new(None),
            primary_reads: Arc::new(Semaphore::new(setup.reads.primary_cap.max(1))),
            primary_readers: std::sync::atomic::AtomicUsize::new(0),
        });
        let monitor = Monitor::new(shared.clone());
        tasks.spawn("monitor", monitor.run(tasks.clone(), tasks.stop_signal()));
        for endpoint in &shared.endpoints {
            disk::watch(endpoint, tasks);
        }
        Self { shared }
    }

    pub fn name(&self) -> &ShardName {
        &self.shared.name
    }

    /// Of slots, relative to the other shards.
    pub fn weight(&self) -> u32 {
        self.shared.weight
    }

    pub fn metrics(&self) -> &ShardMetrics {
        &self.shared.metrics
    }

    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.shared.endpoints
    }

    /// What the monitor last saw.
    pub fn known(&self) -> Arc<Known> {
        self.shared.known.borrow().clone()
    }

    /// Resolves its `changed()` at every answer of every endpoint.
    pub fn watch_known(&self) -> watch::Receiver<Arc<Known>> {
        self.shared.known.subscribe()
    }

    pub fn primary_now(&self) -> Option<Arc<Endpoint>> {
        self.shared.primary.borrow().clone()
    }

    pub fn watch_primary(&self) -> watch::Receiver<Option<Arc<Endpoint>>> {
        self.shared.primary.subscribe()
    }

    /// The primary, at once if there is one. Cancel-safe.
    pub async fn primary(&self, deadline: Instant) -> Result<Arc<Endpoint>, NoPrimary> {
        let mut watch = self.watch_primary();
        let seen = timeout_at(deadline.into(), watch.wait_for(Option::is_some)).await;
        let primary = seen.ok().and_then(Result::ok).and_then(|primary| primary.clone());
        primary.ok_or_else(|| NoPrimary { shard: self.name().clone() })
    }

    /// A writer or reader had reason to think that what is known of `endpoint`
    /// is no longer so. If it is the primary, there is none until it has been
    /// seen again, or another has; everyone is asked at once.
    pub fn suspect(&self, endpoint: &Arc<Endpoint>) {
        endpoint.doubt();
        self.shared.primary.send_if_modified(|primary| {
            let doubted = primary.as_ref().is_some_and(|primary| primary.index == endpoint.index);
            if doubted {
                *primary = None;
            }
            doubted
        });
        self.poll();
    }

    /// Asks every endpoint at once, rather than at its time.
    pub fn poll(&self) {
        self.shared.endpoints.iter().for_each(|endpoint| endpoint.nudge.notify_one());
    }

    pub fn claim(&self) -> Option<Claim> {
        self.shared.claim.borrow().clone()
    }

    /// From now on only the claimed primary is accepted. A claim of a lower
    /// timeline than the known one is old news and ignored.
    pub fn accept_claim(&self, claim: Claim) {
        self.shared.claim.send_if_modified(|known| {
            let newer = known.as_ref().is_none_or(|known| {
                known.system_id == claim.system_id && known.timeline <= claim.timeline && *known != claim
            });
            if newer {
                *known = Some(claim);
            }
            newer
        });
    }

    /// The promoted server that waits to be claimed, if there is one.
    pub fn unclaimed(&self) -> Option<Arc<Endpoint>> {
        self.with_standing(Standing::Unclaimed)
    }

    /// The timeline to which several servers were promoted side by side, while
    /// no claim decides between them that is known here.
    pub fn contested(&self) -> Option<Timeline> {
        self.known().contested(self.claim().as_ref())
    }

    /// Waits until every endpoint has answered once, or failed to.
    pub async fn asked(&self, deadline: Instant) {
        let mut watch = self.watch_known();
        let all = watch.wait_for(|known| {
            known.facts.iter().all(|facts| facts.system_id.is_some() || facts.error.is_some())
        });
        // Those that take longer are judged when they answer.
        drop(timeout_at(deadline.into(), all).await);
    }

    /// Picks who answers a read, and the next one if that won't do.
    pub fn read(&self, freshness: Freshness, deadline: Instant) -> Route {
        Route::new(self.clone(), freshness, deadline)
    }

    fn with_standing(&self, standing: Standing) -> Option<Arc<Endpoint>> {
        let index = self.known().facts.iter().position(|facts| facts.standing == standing)?;
        self.endpoints().get(index).cloned()
    }
}

impl Shared {
    pub(super) fn publish(&self, known: Known) {
        let primary = known.facts.iter().position(|facts| facts.standing == Standing::Primary);
        let primary = primary.and_then(|index| self.endpoints.get(index));
        self.known.send_replace(Arc::new(known));
        self.primary.send_if_modified(|published| {
            let same = published.as_ref().map(|p| p.index) == primary.map(|p| p.index);
            if !same {
                *published = primary.cloned();
            }
            !same
        });
    }
}
