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
use crate::db::{Budget, Class, DbError, OverBudget, Sql};
use crate::directory::{self, Directory, RevocationsKept};
use crate::ids::ShardName;
use crate::placement::SlotMap;
use crate::routing::{Endpoint, Setup, Shard, Shards};
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
    #[error("{database}: {error}")]
    Misconfigured { database: ShardName, error: Box<DbError> },
    #[error("{server}: too few connections: {over}")]
    OverBudget { server: String, over: OverBudget },
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
        let directory =
            Directory::new(directory_cluster(config, &budget, tasks)).keeping_revocations(kept(&config.auth));
        let shards =
            Shards::start(&config.shards, setup(config, &budget, Schema::Shard, store::STATEMENTS), tasks);
        shards.iter().for_each(|(_, shard)| tell_durability(config, shard));
        check(directory.database(), Schema::Directory).await?;
        for (_, shard) in shards.iter() {
            match check(shard, Schema::Shard).await {
                // The others can be served; this one is checked by whoever writes to it.
                Err(DatabaseError::NoPrimary(shard)) => {
                    tracing::warn!(%shard, "no primary was found; its rooms can't be written to now");
                }
                checked => checked?,
            }
        }
        let slots = Slots::new(SlotMap::default(), shards.clone());
        let topology = Topology::new(shards.clone(), directory.database().clone(), slots.clone());
        topology.open(Instant::now() + PATIENCE).await?;
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
        let joining =
            Shard::start(shard, setup(&self.config, &budget, Schema::Shard, store::STATEMENTS), &tasks);
        tell_durability(&self.config, &joining);
        let checked = async {
            check(&joining, Schema::Shard).await?;
            self.topology.admit_newcomer(&joining, Instant::now() + PATIENCE).await?;
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

/// A token of a sign-in was made here, so its life is known.
fn kept(auth: &config::Auth) -> RevocationsKept {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    RevocationsKept { of_login: auth.access_token.max(DAY), of_any: auth.token_max }
}

fn directory_cluster(config: &Config, budget: &Budget, tasks: &Tasks) -> Shard {
    let setup = setup(config, budget, Schema::Directory, &[directory::STATEMENTS]);
    Shard::start(&config.directory.as_shard(), setup, tasks)
}

fn setup<'a>(
    config: &'a Config,
    budget: &'a Budget,
    schema: Schema,
    statements: &'static [&'static [&'static Sql]],
) -> Setup<'a> {
    Setup {
        node: &config.node,
        pool: &config.pool,
        budget,
        reads: &config.reads,
        lock_timeout: config.writes.lock_timeout,
        search_path: schema.namespace(),
        statements,
    }
}

/// Every server that answers must allow the connections of all nodes, and the
/// database have the schema that this program needs. One that is slow is asked again.
async fn check(database: &Shard, schema: Schema) -> Result<(), DatabaseError> {
    let until = Instant::now() + PATIENCE;
    let name = database.name();
    database.asked(Instant::now() + FIRST_ANSWERS).await;
    refuse_misconfigured(database)?;
    let found = database.primary(until).await;
    // Before connections are opened that others may need.
    check_budget(database)?;
    let absent = |_| DatabaseError::NoPrimary(name.clone());
    let mut primary = found.map_err(absent)?;
    loop {
        match check_schema(name, &primary, schema).await {
            Err(MigrateError::Database { error, .. })
                if error.class().may_pass() && Instant::now() < until =>
            {
                tracing::warn!(database = %name, %error, "a database can't be used yet; trying again");
                primary = database.primary(until).await.map_err(absent)?;
            }
            ended => return Ok(ended?),
        }
    }
}

async fn check_schema(name: &ShardName, primary: &Endpoint, schema: Schema) -> Result<(), MigrateError> {
    let connection = primary.pool().get().await;
    let connection = connection.map_err(|error| migrate::not_connected(error, name.as_str()))?;
    migrate::require(&connection, schema, name.as_str()).await
}

/// Without a usable primary, a node reports a wrong setting at once. Waiting would not
/// mend the setting.
fn refuse_misconfigured(database: &Shard) -> Result<(), DatabaseError> {
    if database.primary_now().is_some() {
        return Ok(());
    }
    let known = database.known();
    let mut errors = known.facts.iter().filter_map(|facts| facts.error.as_ref());
    let wrong = errors.find(|error| error.class() == Class::Misconfigured);
    wrong.map_or(Ok(()), |error| {
        let (database, error) = (database.name().clone(), Box::new(error.clone()));
        Err(DatabaseError::Misconfigured { database, error })
    })
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
