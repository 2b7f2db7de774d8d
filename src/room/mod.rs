//! The domain: rooms with people in them. Delivers a room's log to its local
//! sessions in order, catches sessions up, and repairs holes.
//!
//! Knows no SQL, no Redis and no sockets: it reads through `store`, announces
//! through `bus`, and feeds outboxes.

pub mod access;
mod announcement;
mod deliver;
mod outbox;
mod presence;

pub use outbox::{Batch, Closed, Full, Outbox};
