//! The append against a real PostgreSQL: what an answer promises.

mod decisions;
mod faults;
mod locks;
mod plans;
mod proxy;
mod replication;
mod world;
