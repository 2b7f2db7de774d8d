//! The embedded cluster: real PostgreSQL, Redis and HAProxy processes on free
//! loopback ports. `roomgate dev` runs one, and the tests start theirs with it.
//!
//! Guarantees: what is started here ends with the handle that started it, and
//! with this process, however that dies; any number of clusters run side by side.
//! No passwords: everything listens on loopback only and is for development.
//!
//! May not import `node` or `cli`: nodes are processes of their own.

mod account;
mod admin;
mod binary;
mod error;
mod ports;
mod postgres;
mod process;
mod redis;
mod scratch;
mod service;
mod template;

pub use admin::{Admin, connect};
pub use error::Error;
pub use ports::Port;
pub use postgres::Postgres;
pub use process::{Process, Spec};
pub use redis::Redis;
pub use scratch::Scratch;
pub use service::{Probe, Service};
