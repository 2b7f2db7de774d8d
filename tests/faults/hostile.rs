//! Settings of the gateway's role that break the promise of a gateway which relies on
//! them: each may be an administrator's ordinary choice.

use roomgate::dev::{Admin, Cluster, connect};

use crate::Failure;

const SETTINGS: [&str; 16] = [
    "synchronous_commit = off",
    "default_transaction_isolation = serializable",
    "default_transaction_read_only = on",
    "default_transaction_deferrable = on",
    "client_min_messages = error",
    "search_path = pg_catalog",
    "statement_timeout = 1",
    "lock_timeout = 1",
    "idle_session_timeout = 1000",
    "idle_in_transaction_session_timeout = 1",
    "exit_on_error = on",
    "transform_null_equals = on",
    "gin_fuzzy_search_limit = 1",
    "\"DateStyle\" = German",
    "extra_float_digits = -15",
    "enable_indexscan = off",
];

/// A warning at every connect, as after an upgrade of the operating system.
const WARNING: &str = "UPDATE pg_database SET datcollversion = '0.1'";
/// Sessions that are open keep the settings that they have.
const END_SESSIONS: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'roomgate'";

/// Gives the role its settings on every shard, and ends the nodes' connections.
pub async fn set(cluster: &Cluster) -> Result<(), Failure> {
    for shard in cluster.shards() {
        let primary: Admin = connect(&shard.primary().admin_dsn()).await?;
        for setting in SETTINGS {
            primary.batch_execute(&format!("ALTER ROLE roomgate SET {setting}")).await?;
        }
        primary.batch_execute(WARNING).await?;
        for server in shard.servers() {
            connect(&server.admin_dsn()).await?.batch_execute(END_SESSIONS).await?;
        }
    }
    Ok(())
}
