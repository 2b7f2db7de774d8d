//! The rules of a room, pure: what a submit does to a log and to its shapes.
//!
//! `decide` turns submits into events under the room's lock; `fold` turns
//! events back into shapes. Append, replay, time travel and the tests share
//! them. No I/O, no clock, no randomness.

pub mod app_shapes;
mod decide;
mod event;
mod fold;
mod merge;
mod schema;
mod submit;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::ids::{OpId, RoomId, ShapeId, UserId};
use crate::position::{Epoch, Position, Seq};
use crate::protocol::{Code, Kind, Operation, Refusal, Version};
pub use crate::protocol::{Role, Schema};
pub use decide::decide;
pub use fold::{Fold, Unreadable};
pub use merge::merge_patch;

/// 128 bits over kind and body as JSON values, to tell a retry from a reused op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 16]);

/// A readable request to change a room, not yet decided.
#[derive(Debug, Clone)]
pub struct Submit {
    pub room: RoomId,
    pub op: OpId,
    pub user: UserId,
    pub authority: Authority,
    pub operation: Operation,
    /// The body's fields as one JSON object, e.g. `{"base":3,"shape":{…}}`.
    pub body: Arc<str>,
    pub digest: Digest,
}

/// By what right a submit is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// As the user, whose role in the room decides.
    Member,
    /// A token with `scope:"server"`: any room, on behalf of the user.
    Server,
}

/// An entry of a room's log.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub room: RoomId,
    pub position: Position,
    pub kind: Kind,
    pub op: OpId,
    pub user: UserId,
    pub at: UnixMillis,
    pub digest: Digest,
    /// As in [`Submit::body`].
    pub body: Arc<str>,
    /// The shape's version after this event; none for events without a shape.
    pub version: Option<Version>,
    /// How many live shapes a `room.clear` cleared.
    pub cleared: Option<u64>,
}

/// A shape as it stands: its text, as it goes out, and what is indexed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeData {
    /// One JSON object.
    pub json: Arc<str>,
    /// The shape's `type`, if it is a string.
    pub shape_type: Option<Arc<str>>,
}

/// A row of the state table: a shape or its tombstone, at the head.
#[derive(Debug, Clone, PartialEq)]
pub struct ShapeState {
    pub version: Version,
    /// `None` is a tombstone.
    pub data: Option<ShapeData>,
    /// The last event that touched it. At or below the room's `cleared` seq, a
    /// live shape reads as deleted, at `version + 1`.
    pub last_seq: Seq,
}

/// The most shapes and bytes of a room; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoomBounds {
    /// Of the shape that a patch results in.
    pub shape_bytes: u64,
    pub room_shapes: u64,
    /// Of the texts of a room's live shapes together.
    pub room_bytes: u64,
}

impl RoomBounds {
    /// Refuses what a room would become, if it would grow beyond its bounds. A room
    /// that is beyond them already may shrink.
    pub fn admit(&self, before: (u64, u64), after: (u64, u64)) -> Result<(), Refusal> {
        let is_over = |most: u64, before: u64, after: u64| most > 0 && after > most && after > before;
        let message = if is_over(self.room_shapes, before.0, after.0) {
            format!("a room may have {} shapes: delete some of this room's {}", self.room_shapes, before.0)
        } else if is_over(self.room_bytes, before.1, after.1) {
            format!(
                "the shapes of a room may have {} bytes; this room's would have {}: delete some",
                self.room_bytes, after.1
            )
        } else {
            return Ok(());
        };
        Err(Refusal::new(Code::TooLarge, message))
    }
}

/// A room as its locked rows describe it, before the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomState {
    pub head: Position,
    pub cleared: Seq,
    pub live_shapes: u64,
    /// Of the texts of the live shapes.
    pub live_bytes: u64,
    pub schema: Schema,
    pub archived: bool,
    /// The slot's epoch: what new events will carry.
    pub epoch: Epoch,
}

/// The original effect of an op that is already in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownOp {
    pub position: Position,
    pub at: UnixMillis,
    pub digest: Digest,
    pub version: Option<Version>,
    pub cleared: Option<u64>,
}

/// Whose op, in which room.
pub type OpKey = (RoomId, UserId, OpId);

/// Everything `decide` may look at. A room, shape, op or role that is not in
/// its map does not exist. `roles` holds what applies to the person now: the
/// member row, else the room's `default_role` where it is open to everyone.
#[derive(Debug, Clone, Default)]
pub struct Before {
    pub rooms: HashMap<RoomId, RoomState>,
    pub shapes: HashMap<(RoomId, ShapeId), ShapeState>,
    pub ops: HashMap<OpKey, KnownOp>,
    pub roles: HashMap<(RoomId, UserId), Role>,
    /// What was rejected together with events that turned out to be in the log:
    /// it stays so, for it must not come behind them.
    pub rejected: HashMap<OpKey, Rejection>,
}

/// What the transaction must write, and what each submitter will be told once
/// it is committed. `outcomes` are in the order of the submits.
#[derive(Debug, Default)]
pub struct Decision {
    pub outcomes: Vec<Outcome>,
    /// In seq order within each room.
    pub events: Vec<Event>,
    /// One row a shape, the last state of the batch.
    pub shapes: Vec<(RoomId, ShapeId, ShapeState)>,
    /// Rooms whose head moves, with their state after the batch.
    pub rooms: Vec<(RoomId, RoomState)>,
}

/// The answer to a submit.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// True only after COMMIT.
    Accepted(Ack),
    Rejected(Rejection),
}

/// One effect in the log, this time or an earlier one.
#[derive(Debug, Clone, PartialEq)]
pub struct Ack {
    pub position: Position,
    /// When the effect was written, as its event says.
    pub at: UnixMillis,
    pub version: Option<Version>,
    pub cleared: Option<u64>,
    pub duplicate: bool,
}

/// No effect. `current` tells what the submit collided with.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    pub refusal: Refusal,
    pub current: Option<Current>,
}

/// The shape as it is, for a client that must decide anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Current {
    pub version: Version,
    /// One JSON object; `None` when deleted, or when there never was one: then
    /// `version` is 0.
    pub shape: Option<Arc<str>>,
}
