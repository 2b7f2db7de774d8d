//! Settings that a database administrator may change for a role, a database or a
//! server: none of them breaks the promise.

mod classes;
mod durable;
mod every;
mod lacking;
mod stale;
mod unsafe_servers;

use std::time::Duration;

use roomgate::db::{Connector, SessionSettings};
use roomgate::dev::Postgres;
use roomgate::tasks::Tasks;

/// Opens connections as a pool of a shard does.
fn connector(server: &Postgres) -> Connector {
    let settings = SessionSettings {
        application_name: "roomgate/settings".to_owned(),
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(10),
        lock_timeout: Duration::from_millis(250),
        search_path: "public",
    };
    Connector::new(&server.endpoint(), settings, &Tasks::new())
}
