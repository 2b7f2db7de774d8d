//! The composition root: builds a node from its configuration, serves, drains.
//!
//! Everything is made here, once, and handed down; nothing else knows how the
//! pieces fit. Servers that are away when a node starts are waited for only
//! where nothing can be done without them: the directory, once, to learn who
//! owns what.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::auth::{HashBudget, KeyError, LEEWAY, Origins, Passwords, Payer, Sealer, Verifier};
use crate::bus::{Away, Bus, NodeId};
use crate::config::{Config, Durability};
use crate::databases::{DatabaseError, Databases};
use crate::directory::Directory;
use crate::http;
use crate::jobs::{DailyCounts, Erasures, Janitor, Retention, RevocationWatch, Snapshots};
use crate::limits::{Connections, Limits};
use crate::mail::Mailer;
use crate::memory::Memory;
use crate::metrics;
use crate::reload::{Followers, Reload, Sources};
use crate::room::access::{self, Access};
use crate::room::{Context, Hub, States, tell_presence, watch};
use crate::routing::{Clocks, Shard, Shards};
use crate::session::{self, Sessions};
use crate::store;
use crate::store::append::Appender;
use crate::store::history::History;
use crate::store::imports::Imports;
use crate::store::rooms::{Rooms, Visits};
use crate::store::slots::Slots;
use crate::tasks::Tasks;
use crate::traces::Traces;

/// What a submit may wait beyond `failover_wait` before its fate is unknown.
const SUBMIT_GRACE: Duration = Duration::from_secs(5);
/// Pages of logs that are kept, over all rooms.
const PAGE_CACHE_BYTES: u64 = 64 << 20;
/// How long what is left may take once the sessions have gone.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Why a node can't start.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("can't use the configured Redis: {0}")]
    Redis(#[from] Away),
    #[error("can't listen on {address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("{0}")]
    Traces(String),
    #[error("can't listen for signals: {0}")]
    Signals(std::io::Error),
}

/// Runs a node until it is told to stop, and then until it has drained. At every
/// SIGHUP it takes over what is live of the configuration that `again` reads.
pub async fn serve(config: &Config, again: Sources) -> Result<(), NodeError> {
    let tasks = Tasks::new();
    // From the beginning: what nobody waits for ends the process.
    let hangup = signal(SignalKind::hangup()).map_err(NodeError::Signals)?;
    metrics::init();
    let mut stop = tasks.stop_signal();
    tasks.spawn("metrics-upkeep", metrics::upkeep(async move { stop.wait().await }));
    let traces = Traces::start(&config.traces, &config.node.name, &tasks).map_err(NodeError::Traces)?;
    let node = Node::build(config, &traces, &tasks).await?;
    let live = Reload::new(config, again, node.followers.clone());
    tasks.spawn("reload", live.run(hangup, tasks.stop_signal()));
    stopped_by_signal().await?;
    node.drain(config).await;
    tokio::task::block_in_place(|| traces.finish());
    Ok(())
}

/// A running node.
struct Node {
    sessions: Sessions,
    /// The public listener and its connections: ends before the rest.
    accepting: Tasks,
    tasks: Tasks,
    draining: Arc<AtomicBool>,
    followers: Followers,
}

impl Node {
    async fn build(config: &Config, traces: &Traces, tasks: &Tasks) -> Result<Self, NodeError> {
        let verifier = Verifier::load(&config.auth)?;
        let signer = verifier.signer(config.auth.access_token)?;
        let databases = Databases::open(config, tasks).await?;
        let Databases { directory, shards, slots, .. } = databases.clone();
        let (memory, max_stale) = (Memory::new(&config.memory), config.reads.max_stale);
        let (history, imports) = past(config, (&shards, &slots), &memory, tasks);
        let rooms = Rooms::new(shards.clone(), slots.clone(), config.writes.durability == Durability::Sync);
        let logs = (history.clone(), rooms.clone());
        let (hub, bus, limits) = hub(config, verifier.sealer()?, logs, &memory, traces, tasks)?;
        let appender = appender(config, (&shards, &slots), &hub, traces, tasks);

        let origins = Origins::new(&config.listen.allowed_origins);
        let passwords = Passwords::new(hashing_threads(), hash_budget(&limits));
        let access = doors(config, &rooms, &directory, &passwords, &limits, tasks);
        let submit_timeout = config.writes.failover_wait + SUBMIT_GRACE;
        let sessions = Sessions::new(session::Parts {
            node: config.node.name.clone(),
            hub: hub.clone(),
            access: access.clone(),
            appender: appender.clone(),
            verifier: verifier.clone(),
            limits: limits.clone(),
            origins: origins.clone(),
            tasks: tasks.clone(),
            config: config.sessions.clone(),
            legacy_protocol: config.listen.legacy_protocol,
            submit_timeout,
        });
        let draining = Arc::new(AtomicBool::new(false));
        let jobs = Jobs::new(config, &directory, &rooms, &bus);
        let eraser = jobs.start(config, &verifier, &sessions, tasks);
        let clocks = clocks(&shards, directory.database(), tasks);
        let probe = probe(&draining, &slots, &shards, directory.database(), &clocks);
        let watched = watched(config, &shards, &directory, &bus, clocks);
        let public = http::Parts {
            sessions: sessions.clone(),
            access,
            rooms: rooms.clone(),
            history,
            imports,
            appender,
            bus,
            hub,
            directory: directory.clone(),
            passwords,
            sealer: verifier.sealer()?,
            mailer: Mailer::new(&config.mail),
            tasks: tasks.clone(),
            verifier,
            signer,
            limits,
            memory,
            origins,
            probe: probe.clone(),
            eraser,
            refresh_token: config.auth.refresh_token,
            max_stale,
            submit_timeout,
            trusted_proxies: config.listen.trusted_proxies.clone(),
            legacy_protocol: config.listen.legacy_protocol,
        };
        let followers = followers(&public, databases);
        let operators = operators(config, probe, watched, directory, rooms);
        let accepting = listen(config, public, operators, tasks)?;
        Ok(Self { sessions, accepting, tasks: tasks.clone(), draining, followers })
    }

    /// Not ready; then a pause in which the balancer notices; then everybody is
    /// sent away, paced; then what is under way ends.
    async fn drain(self, config: &Config) {
        let hard_stop = Instant::now() + config.listen.drain_timeout;
        tracing::info!(sessions = self.sessions.count(), "draining");
        self.draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(config.listen.drain_notice).await;
        self.accepting.stop();
        let left = hard_stop.saturating_duration_since(Instant::now());
        // Half of the time to say goodbye, the rest to let them go.
        self.sessions.drain(left / 2, left).await;
        self.tasks.stop();
        let patience = hard_stop.saturating_duration_since(Instant::now()).max(END_PATIENCE);
        match self.tasks.ended(patience).await {
            Ok(()) => tracing::info!("drained"),
            Err(running) => tracing::warn!(?running, "tasks were still running at the end of the drain"),
        }
    }
}

fn clocks(shards: &Shards, directory: &Shard, tasks: &Tasks) -> Clocks {
    let clocks = Clocks::new(shards.clone(), directory.clone(), LEEWAY);
    tasks.spawn("clocks", clocks.clone().watch(tasks.stop_signal()));
    clocks
}

fn operators(
    config: &Config,
    probe: http::Probe,
    watched: http::Watched,
    directory: Directory,
    rooms: Rooms,
) -> http::AdminParts {
    http::AdminParts { probe, watched, directory, rooms, hosts: config.listen.admin_hosts.clone().into() }
}

/// Returns the tasks of the public listener.
fn listen(
    config: &Config,
    public: http::Parts,
    operators: http::AdminParts,
    tasks: &Tasks,
) -> Result<Tasks, NodeError> {
    let accepting = Tasks::new();
    let (listener, admin) = (bind(config.listen.public)?, bind(config.listen.admin)?);
    let connections = Connections::new(&public.limits, descriptors_for_clients(config));
    let trusted_proxies = config.listen.trusted_proxies.clone();
    let admission = Some(http::Admission { connections, trusted_proxies });
    accepting.spawn("http-accept", http::serve(listener, http::router(public), admission, accepting.clone()));
    tasks.spawn("http-admin", http::serve(admin, http::admin_router(operators), None, tasks.clone()));
    tracing::info!(
        node = %config.node.name, public = %config.listen.public, admin = %config.listen.admin, "listening"
    );
    Ok(accepting)
}

/// A warning at the start tells of fewer.
const FEW_CONNECTIONS: usize = 1000;

/// Raises the limit as far as the process may. Shells keep it low for programs that call
/// `select`, which this one does not.
fn raised_descriptor_limit() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    Ok(if raised.is_ok() { hard } else { soft })
}

/// The descriptors that remain for clients. The other ones must be free whenever a pool
/// opens a connection.
fn descriptors_for_clients(config: &Config) -> usize {
    let limit = match raised_descriptor_limit() {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "can't read the descriptor limit: connections are not limited by it");
            usize::MAX
        }
    };
    let reserved = config.reserved_descriptors();
    let left = limit.saturating_sub(reserved).max(1);
    let wanted = config.limits.connections;
    if left < FEW_CONNECTIONS || left < wanted as usize {
        tracing::warn!(
            limit,
            reserved,
            left,
            wanted,
            "the descriptor limit leaves few connections for clients: raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    left
}

/// Reads and bulk writes of logs, and the jobs that keep them small.
fn past(
    config: &Config,
    (shards, slots): (&Shards, &Slots),
    memory: &Memory,
    tasks: &Tasks,
) -> (History, Imports) {
    let history = History::new(shards.clone(), slots.clone(), PAGE_CACHE_BYTES);
    let snapshots = Snapshots::new(&history, memory, &config.history);
    tasks.spawn("snapshots", snapshots.run(tasks.stop_signal()));
    let is_sync = config.writes.durability == Durability::Sync;
    let imports = Imports::new(shards.clone(), slots.clone(), is_sync);
    let retention = Retention::new(&history, &imports, &config.history);
    tasks.spawn("retention", retention.run(tasks.stop_signal()));
    let daily = DailyCounts::new(&history, config.jobs.stats_interval);
    tasks.spawn("daily-counts", daily.run(tasks.stop_signal()));
    (history, imports)
}

/// What every node does by itself.
struct Jobs {
    janitor: Janitor,
    erasures: Erasures,
}

impl Jobs {
    fn new(config: &Config, directory: &Directory, rooms: &Rooms, bus: &Bus) -> Self {
        let (directory, rooms) = (directory.clone(), rooms.clone());
        let jobs = config.jobs.clone();
        let janitor = Janitor::new(directory.clone(), rooms.clone(), jobs);
        let erasures = Erasures { directory, rooms, bus: bus.clone() };
        Self { janitor, erasures }
    }

    fn eraser(&self) -> http::Eraser {
        let erasures = self.erasures.clone();
        Arc::new(move |user| {
            let erasures = erasures.clone();
            Box::pin(async move {
                let erased = erasures.erase(&user).await;
                erased
                    .inspect_err(|error| tracing::warn!(%user, %error, "an erasure is not done yet"))
                    .is_ok()
            })
        })
    }

    /// Returns the way to an erasure at once.
    fn start(self, config: &Config, verifier: &Verifier, sessions: &Sessions, tasks: &Tasks) -> http::Eraser {
        let eraser = self.eraser();
        let Erasures { directory, bus, .. } = self.erasures.clone();
        let (verifier, sessions) = (verifier.clone(), sessions.clone());
        let watch = RevocationWatch { directory, verifier, sessions, bus, kept: config.auth.token_max };
        tasks.spawn("revocations", watch.run(tasks.stop_signal()));
        tasks.spawn("erasures", self.erasures.run(config.jobs.janitor_interval, tasks.stop_signal()));
        tasks.spawn("janitor", self.janitor.run(tasks.stop_signal()));
        eraser
    }
}

fn hub(
    config: &Config,
    sealer: Sealer,
    (history, rooms): (History, Rooms),
    memory: &Memory,
    traces: &Traces,
    tasks: &Tasks,
) -> Result<(Hub, Bus, Limits), NodeError> {
    let node = NodeId(rand::random());
    let (bus, incoming) = Bus::start(&config.redis, node, sealer, tell_presence, tasks)?;
    let limits = Limits::new(&config.limits).tallied_by(Arc::new(bus.clone()), tasks);
    let sessions = config.sessions.clone();
    let max_stale = config.reads.max_stale;
    let states = States::new(history.clone(), memory.clone(), max_stale, sessions.memory_serving);
    let context = Context::new(node, history, rooms, bus.clone(), tasks.clone(), sessions, states);
    let hub = Hub::new(Arc::new(context.traced_by(traces).limited_by(&limits)));
    watch::start(&hub, incoming);
    Ok((hub, bus, limits))
}

fn appender(
    config: &Config,
    (shards, slots): (&Shards, &Slots),
    hub: &Hub,
    traces: &Traces,
    tasks: &Tasks,
) -> Appender {
    let (announce, bounds) = (Arc::new(hub.clone()), store::bounds(&config.limits));
    Appender::start(&config.writes, shards, slots, announce, bounds, traces, tasks)
}

/// The way into rooms.
fn doors(
    config: &Config,
    rooms: &Rooms,
    directory: &Directory,
    passwords: &Passwords,
    limits: &Limits,
    tasks: &Tasks,
) -> Access {
    Access::new(access::Parts {
        rooms: rooms.clone(),
        directory: directory.clone(),
        passwords: passwords.clone(),
        limits: limits.clone(),
        visits: visits(rooms, tasks),
        max_stale: config.reads.max_stale,
    })
}

fn visits(rooms: &Rooms, tasks: &Tasks) -> Visits {
    let visits = Visits::new(rooms.clone());
    tasks.spawn("visits", visits.clone().run(tasks.stop_signal()));
    visits
}

fn followers(public: &http::Parts, databases: Databases) -> Followers {
    let (limits, verifier) = (public.limits.clone(), public.verifier.clone());
    Followers { limits, verifier, appender: public.appender.clone(), databases }
}

fn bind(address: SocketAddr) -> Result<TcpListener, NodeError> {
    http::bind(address).map_err(|error| NodeError::Listen { address, error })
}

/// What `/health` tells, from memory.
fn probe(
    draining: &Arc<AtomicBool>,
    slots: &Slots,
    shards: &Shards,
    directory: &Shard,
    clocks: &Clocks,
) -> http::Probe {
    let (draining, slots, shards, directory, clocks) =
        (draining.clone(), slots.clone(), shards.clone(), directory.clone(), clocks.clone());
    Arc::new(move || http::Facts {
        draining: draining.load(Ordering::Relaxed),
        slots_known: slots.are_known(),
        directory: directory.primary_now().is_some(),
        shards: shards.len(),
        writable_shards: shards.iter().filter(|(_, shard)| shard.primary_now().is_some()).count(),
        clock_wrong: clocks.is_wrong(),
    })
}

/// What `/health/detailed` looks at.
fn watched(
    config: &Config,
    shards: &Shards,
    directory: &Directory,
    bus: &Bus,
    clocks: Clocks,
) -> http::Watched {
    http::Watched {
        node: config.node.name.clone(),
        shards: shards.clone(),
        directory: directory.database().clone(),
        bus: bus.clone(),
        durability: config.writes.durability,
        clocks,
    }
}

/// Hashing is heavy on memory and a core for tens of milliseconds: never so much
/// of it that sockets starve.
/// Failed sign-ins are counted by address and account before.
fn hash_budget(limits: &Limits) -> HashBudget {
    let limits = limits.clone();
    Box::new(move |payer| match payer {
        Payer::User(user) => limits.room_password(user),
        Payer::Address(_) => Ok(()),
    })
}

fn hashing_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

async fn stopped_by_signal() -> Result<(), NodeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(NodeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(NodeError::Signals)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
