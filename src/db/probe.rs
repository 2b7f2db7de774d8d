//! What a server says about itself, for checks before it is used.

use super::{Connection, DbError, Sql};
use crate::config::Config;

static FACTS: Sql = Sql {
    name: "server_facts",
    text: "SELECT pg_is_in_recovery(), current_setting('server_version'),
                  current_setting('max_connections')::int,
                  current_setting('superuser_reserved_connections')::int,
                  pg_has_role(current_user, 'pg_monitor', 'USAGE'),
                  current_setting('synchronous_standby_names') <> ''",
};

/// Monitors and migrations of one node, beside its pools.
const BESIDE_POOLS: u32 = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    pub is_replica: bool,
    pub version: String,
    /// What ordinary roles may open.
    pub connections: u32,
    /// Without it, replication can't be watched.
    pub may_monitor: bool,
    pub synchronous: bool,
}

impl ServerFacts {
    pub async fn ask(connection: &Connection) -> Result<Self, DbError> {
        let row = connection.query_one(&FACTS, &[]).await?;
        let connections = row.get::<_, i32>(2) - row.get::<_, i32>(3);
        Ok(Self {
            is_replica: row.get(0),
            version: row.get(1),
            connections: u32::try_from(connections).unwrap_or(0),
            may_monitor: row.get(4),
            synchronous: row.get(5),
        })
    }
}

/// What all nodes together may open on one server during a rolling restart,
/// when every node may be there twice.
pub fn connections_needed(config: &Config) -> u32 {
    (config.pool.max_connections + BESIDE_POOLS).saturating_mul(config.node.expected_nodes).saturating_mul(2)
}
