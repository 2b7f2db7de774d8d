//! Which endpoint of a shard is read from or written to.
//!
//! Owns what is known about every endpoint (role, timeline, lag), the choice of
//! a replica or the primary, and the bound on reads that the primary takes over.
//! Guarantees: at most one endpoint of a shard is ever offered for writing, and
//! a replica is offered only if it is provably fresh enough, or to a read whose
//! answer proves itself. Knows no room SQL.

pub mod choose;
pub mod roles;
pub mod staleness;

mod breaker;
mod clocks;
mod disk;
mod endpoint;
mod monitor;
mod route;
mod shard;

pub use choose::Reason;
pub use clocks::Clocks;
pub use endpoint::Endpoint;
pub use roles::{Claim, Fence, Standing, SystemId};
pub use route::{Freshness, Route, ServedBy, Target, Unavailable};
pub use shard::{Facts, Known, NoPrimary, Setup, Shard, Shards};
pub use staleness::{Lsn, Timeline};
