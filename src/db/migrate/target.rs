//! The databases to migrate, and the way to the primary of each.

use std::time::Duration;

use super::{MigrateError, Schema};
use crate::config::{Config, Endpoint};
use crate::db::{Connection, Connector, SessionSettings, Sql};
use crate::tasks::Tasks;

/// One database with its servers.
#[derive(Clone)]
pub struct Target {
    /// The shard's name, or `directory`.
    pub name: String,
    pub schema: Schema,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) settings: crate::config::Migrations,
    connect_timeout: Duration,
    tasks: Tasks,
}

/// The directory and every shard, as configured.
pub fn targets(config: &Config, tasks: &Tasks) -> Vec<Target> {
    let target = |name: &str, schema, endpoints: &[Endpoint]| Target {
        name: name.to_owned(),
        schema,
        endpoints: endpoints.to_vec(),
        settings: config.migrations.clone(),
        connect_timeout: config.pool.connect_timeout,
        tasks: tasks.clone(),
    };
    let directory = target("directory", Schema::Directory, &config.directory.endpoints);
    let shards = config.shards.iter().map(|s| target(s.name.as_str(), Schema::Shard, &s.endpoints));
    std::iter::once(directory).chain(shards).collect()
}

static IN_RECOVERY: Sql = Sql { name: "in_recovery", text: "SELECT pg_is_in_recovery()" };

impl Target {
    /// A connection to the primary, in the right schema, with the migrating
    /// role. Servers that don't answer are passed over.
    pub(super) async fn primary(&self) -> Result<Connection, MigrateError> {
        let mut primary: Option<(&str, Connection)> = None;
        let mut tried = Vec::new();
        for endpoint in &self.endpoints {
            match self.role_of(endpoint).await {
                Ok((true, _)) => tried.push(format!("{}: a replica", endpoint.name)),
                Ok((false, connection)) => {
                    if let Some((first, _)) = &primary {
                        let (first, second) = ((*first).to_owned(), endpoint.name.clone());
                        return Err(MigrateError::TwoPrimaries { target: self.name.clone(), first, second });
                    }
                    primary = Some((&endpoint.name, connection));
                }
                Err(error) => tried.push(format!("{}: {error}", endpoint.name)),
            }
        }
        let absent = || MigrateError::NoPrimary { target: self.name.clone(), tried: tried.join("; ") };
        primary.map(|(_, connection)| connection).ok_or_else(absent)
    }

    async fn role_of(&self, endpoint: &Endpoint) -> Result<(bool, Connection), crate::db::DbError> {
        let endpoint = endpoint.as_migrator(&self.settings);
        let settings = SessionSettings {
            application_name: "roomgate/migrate".to_owned(),
            connect_timeout: self.connect_timeout,
            // A backfill takes as long as it takes.
            statement_timeout: Duration::ZERO,
            lock_timeout: self.settings.lock_timeout,
            search_path: self.schema.namespace(),
        };
        let connection = Connector::new(&endpoint, settings, &self.tasks).connect().await?;
        let in_recovery = connection.query_one(&IN_RECOVERY, &[]).await?.get(0);
        Ok((in_recovery, connection))
    }
}
