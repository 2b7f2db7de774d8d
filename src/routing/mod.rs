//! Which endpoint of a shard is read from or written to.
//!
//! Owns what is known about every endpoint (role, timeline, lag), the choice of
//! a replica or the primary, and the bound on reads that the primary takes over.
//! Guarantees: at most one endpoint of a shard is ever offered for writing, and
//! a replica is offered only if it is provably fresh enough. Knows no room SQL.

pub mod choose;
pub mod roles;
pub mod staleness;

pub use choose::Reason;
pub use roles::{Claim, Fence, Standing, SystemId};
pub use staleness::{InvalidLsn, Lsn, Timeline};
