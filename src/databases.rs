//! The databases of a node: opened at its start, and shards that join later.
//!
//! Guarantees: a database that answers is used only if it allows the connections
//! of all nodes and has the schema that this program needs; a shard that joins a
//! running node is checked whole before anybody hears of it, or leaves no trace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::config::{self, Config, Durability};
use crate::db::migrate::{self, MigrateError, Schema};
use crate::db::{Budget, OverBudget, Sql};
use crate::directory::{self, Directory};
use crate::ids::ShardName;
use crate::placement::SlotMap;
use crate::routing::{Setup, Shard, Shards};
use crate::store;
use crate::store::append::Appender;
use crate::store::slots::Slots;
use crate::store::topology::{Topology, TopologyError};
use crate::tasks::Tasks;

/// How long a node waits for the directory and the shards.
const PATIENCE: Duration = Duration::from_secs(30);
/// Servers that take longer to answer are judged when they do.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);

/// Why a database can't be used.
#[derive(Debug, Error)]
pub enum DatabaseError {
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("{0}: no primary was found in {PATIENCE:?}; is it running, and can it be reached?")]
    NoPrimary(ShardName),
    #[error("{server}: too few connections: {over}")]
    OverBudget { server: String, over: OverBudget },
}

impl DatabaseError {
    /// A server is slow, or has no connection free; a moment later it may be otherwise.
    fn may_pass(&self) -> bool {
        match self {
            Self::Migrate(MigrateError::Database { error, .. }) => error.class().may_pass(),
            Self::Topology(TopologyError::Database(error)) => error.class().may_pass(),
            _ => false,
        }
    }
}

/// What a node has its data from. Cheap to clone.
#[derive(Clone)]
pub struct Databases {
    pub directory: Directory,
    pub shards: Shards,
    pub slots: Slots,
    topology: Topology,
    config: Arc<Config>,
    tasks: Tasks,
}

impl Databases {
    /// Waits for the directory, checks schemas, claims what is to be claimed,
    /// and learns who owns which slot.
    pub async fn open(config: &Config, tasks: &Tasks) -> Result<Self, DatabaseError> {
        let budget = Budget::of(config);
        let directory = Directory::new(directory_cluster(config, &budget, tasks));
        let shards = Shards::start(&config.shards, setup(config, &budget, None, store::STATEMENTS), tasks);
        shards.iter().for_each(|(_, shard)| tell_durability(config, shard));
        patiently(async |until| check(directory.database(), Schema::Directory, until).await).await?;
        for (_, shard) in shards.iter() {
            match patiently(async |until| check(shard, Schema::Shard, until).await).await {
                // The others can be served; this one is checked by whoever writes to it.
                Err(DatabaseError::NoPrimary(shard)) => {
                    tracing::warn!(%shard, "no primary was found; its rooms can't be written to now");
                }
                checked => checked?,
            }
        }
        let slots = Slots::new(SlotMap::default(), shards.clone());
        let topology = Topology::new(shards.clone(), directory.database().clone(), slots.clone());
        patiently(async |until| Ok(topology.open(until).await?)).await?;
        topology.keep_claims(tasks);
        Ok(Self {
            directory,
            shards,
            slots,
            topology,
            config: Arc::new(config.clone()),
            tasks: tasks.clone(),
        })
    }

    /// Takes one more shard in, of the configuration `all`: its primary must be
    /// there. Then this node may be told of slots that move to it.
    pub async fn join(
        &self,
        shard: &config::Shard,
        all: &Config,
        appender: &Appender,
    ) -> Result<(), DatabaseError> {
        let tasks = Tasks::new();
        let budget = Budget::of(all);
        let joining = Shard::start(shard, setup(&self.config, &budget, None, store::STATEMENTS), &tasks);
        tell_durability(&self.config, &joining);
        let checked = async {
            let until = Instant::now() + PATIENCE;
            check(&joining, Schema::Shard, until).await?;
            self.topology.admit_newcomer(&joining, until).await?;
            Ok(())
        };
        if let Err(error) = checked.await {
            tasks.stop();
            return Err(error);
        }
        let mut stop = self.tasks.stop_signal();
        self.tasks.spawn("joined-shard", async move {
            stop.wait().await;
            tasks.stop();
        });
        // Lanes first: a submit may come as soon as the shard is among the others.
        appender.join(self.shards.next_index(), &joining);
        let index = self.shards.join(joining);
        self.topology.keep_claim_of(index, &self.tasks);
        Ok(())
    }
}

fn tell_durability(config: &Config, shard: &Shard) {
    shard.metrics().synchronous_standbys_required(config.writes.durability == Durability::Sync);
}

fn directory_cluster(config: &Config, budget: &Budget, tasks: &Tasks) -> Shard {
    let setup = setup(config, budget, Some("directory"), &[directory::STATEMENTS]);
    Shard::start(&config.directory.as_shard(), setup, tasks)
}

fn setup<'a>(
    config: &'a Config,
    budget: &'a Budget,
    search_path: Option<&'static str>,
    statements: &'static [&'static [&'static Sql]],
) -> Setup<'a> {
    Setup {
        node: &config.node,
        pool: &config.pool,
        budget,
        reads: &config.reads,
        lock_timeout: config.writes.lock_timeout,
        search_path,
        statements,
    }
}

/// Tries again what may pass, within [`PATIENCE`].
async fn patiently(step: impl AsyncFn(Instant) -> Result<(), DatabaseError>) -> Result<(), DatabaseError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match step(until).await {
            Err(error) if error.may_pass() && Instant::now() < until => {
                tracing::warn!(%error, "a database can't be used yet; trying again");
            }
            ended => return ended,
        }
    }
}

/// Every server that answers must allow the connections of all nodes, and the
/// database have the schema that this program needs.
async fn check(database: &Shard, schema: Schema, until: Instant) -> Result<(), DatabaseError> {
    let name = database.name();
    let primary = database.primary(until).await;
    database.asked(Instant::now() + FIRST_ANSWERS).await;
    // Before connections are opened that others may need.
    check_budget(database)?;
    let Ok(primary) = primary else { return Err(DatabaseError::NoPrimary(name.clone())) };
    let failed = |error| migrate::not_connected(error, name.as_str());
    let connection = primary.pool().get().await.map_err(failed)?;
    Ok(migrate::require(&connection, schema, name.as_str()).await?)
}

fn check_budget(database: &Shard) -> Result<(), DatabaseError> {
    let known = database.known();
    let over = database.endpoints().iter().zip(&known.facts).find_map(|(endpoint, facts)| {
        let over = facts.over_budget.clone()?;
        let config::Endpoint { host, port, .. } = endpoint.config();
        Some(DatabaseError::OverBudget { server: format!("{endpoint:?} ({host}:{port})"), over })
    });
    over.map_or(Ok(()), Err)
}
