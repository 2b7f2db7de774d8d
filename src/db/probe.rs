//! What a server says about itself, for checks before it is used.

use super::{Connection, ConnectionLimit, DbError, Sql};

static FACTS: Sql = Sql {
    name: "server_facts",
    text: "SELECT pg_is_in_recovery(), current_setting('server_version'),
                  current_setting('max_connections')::int,
                  current_setting('superuser_reserved_connections')::int
                    + coalesce(current_setting('reserved_connections', true)::int, 0),
                  pg_has_role(current_user, 'pg_monitor', 'USAGE'),
                  current_setting('synchronous_standby_names') <> ''",
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    pub is_replica: bool,
    pub version: String,
    pub connections: ConnectionLimit,
    /// Without it, replication can't be watched.
    pub may_monitor: bool,
    pub synchronous: bool,
}

impl ServerFacts {
    pub async fn ask(connection: &Connection) -> Result<Self, DbError> {
        let row = connection.query_one(&FACTS, &[]).await?;
        let count = |at: usize| u32::try_from(row.get::<_, i32>(at)).unwrap_or(0);
        Ok(Self {
            is_replica: row.get(0),
            version: row.get(1),
            connections: ConnectionLimit { max: count(2), reserved: count(3) },
            may_monitor: row.get(4),
            synchronous: row.get(5),
        })
    }
}

static WITHOUT_PRIVILEGES: Sql = Sql {
    name: "server_privileges",
    text: "SELECT tablename::text FROM pg_tables
            WHERE schemaname = $1 AND tablename <> 'schema_migration'
              AND tableowner = (SELECT tableowner FROM pg_tables
                                 WHERE schemaname = $1 AND tablename = 'schema_migration')
              AND NOT (SELECT bool_and(has_table_privilege(format('%I.%I', schemaname, tablename), privilege))
                         FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
                        WHERE tablename <> 'audit' OR privilege = 'INSERT')
            ORDER BY tablename",
};

/// The tables of a schema, made by migrations, that the role may not read and write.
pub async fn tables_without_privileges(
    connection: &Connection,
    schema: &str,
) -> Result<Vec<String>, DbError> {
    let tables = connection.query(&WITHOUT_PRIVILEGES, &[&schema]).await?;
    Ok(tables.iter().map(|row| row.get(0)).collect())
}
