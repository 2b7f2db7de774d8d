//! The append against a real PostgreSQL: what an answer promises.

mod classes;
mod decisions;
mod faults;
mod locks;
mod plans;
pub mod proxy;
pub mod replication;
pub mod world;
