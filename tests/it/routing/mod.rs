//! Reads, routing and claims against a real primary and streaming replicas.

mod claims;
mod connections;
mod plans;
mod positions;
mod sharing;
mod staleness;
pub mod world;
