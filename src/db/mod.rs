//! PostgreSQL plumbing: pools, connections, errors by class, migrations.
//!
//! Owns every `tokio_postgres` connection of the process. Knows no table of
//! ours: room SQL lives in `store/`, people in `directory/`.

mod budget;
mod connect;
mod connection;
mod error;
mod json_text;
pub mod migrate;
mod notices;
mod pool;
mod probe;
mod settings;
mod statements;

pub use bb8_postgres::tokio_postgres::Row;
pub use bb8_postgres::tokio_postgres::types::{FromSql, Json, ToSql};
pub use budget::{Budget, ConnectionLimit, Demand, OverBudget};
pub use connect::Connector;
pub use connection::{Connection, Sql};
pub use error::{Class, DbError};
pub use json_text::JsonText;
pub use pool::{Lease, Pool, PoolState};
pub use probe::{ServerFacts, tables_without_privileges};
pub use settings::{CHECKED, PINNED, PLANNER, SessionSettings, Setting};
