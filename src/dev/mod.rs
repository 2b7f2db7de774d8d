//! The embedded cluster: real PostgreSQL, Redis and HAProxy processes on free
//! loopback ports. `roomgate dev` runs one, and the tests start theirs with it.
//!
//! Guarantees: what is started here ends with the handle that started it, and
//! with this process, however that dies; any number of clusters run side by side.
//! No passwords: everything listens on loopback only and is for development.
//!
//! May not import `node` or `cli`: nodes are processes of their own.

pub mod report;

mod account;
mod admin;
mod api;
mod binary;
mod cluster;
mod demo;
mod error;
mod gateway;
mod haproxy;
mod keys;
mod layout;
mod migrations;
mod options;
mod pgbouncer;
mod ports;
mod postgres;
mod process;
mod prometheus;
mod redis;
mod scratch;
mod service;
mod shard;
mod supervise;
mod table;
mod tail;
mod template;

pub use admin::{Admin, connect};
pub use api::{Answer, Api};
pub use cluster::Cluster;
pub use error::Error;
pub use gateway::Gateway;
pub use haproxy::Haproxy;
pub use keys::{Breaker, HELP, Keys};
pub use options::Options;
pub use pgbouncer::PgBouncer;
pub use ports::Port;
pub use postgres::Postgres;
pub use process::{Process, Spec};
pub use prometheus::Prometheus;
pub use redis::Redis;
pub use scratch::Scratch;
pub use service::{Probe, Service};
pub use shard::Shard;
pub use supervise::{Notice, Observer};
pub use table::table;
pub use tail::Tail;
