//! The domain: rooms with people in them. Delivers a room's log to its local
//! sessions in order, catches sessions up, and repairs holes.
//!
//! Knows no SQL, no Redis and no sockets: it reads through `store`, announces
//! through `bus`, and feeds outboxes.

pub mod access;
mod actor;
mod announcement;
mod catch_up;
mod context;
mod deliver;
mod feeding;
mod hub;
mod outbox;
mod presence;
mod signals;
mod snapshot;
mod states;
pub mod watch;

#[cfg(fuzzing)]
pub use feeding::model::run as feeding_model;

pub use announcement::tell_presence;
pub use context::Context;
pub use hub::{Hub, Join};
pub use outbox::{Batch, Closed, Full, Outbox};
pub use snapshot::SnapshotPages;
pub use states::States;
