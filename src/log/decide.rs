//! What a batch of submits does: every conflict rule of the wire, as one pure
//! function from the locked rows to what is written and answered.
//!
//! Rules are tried in this order, and the first that fails is the answer: the
//! room exists; the op is known, or rejected before; the room isn't archived; the
//! role may write; then, for shapes, unknown id, deleted, existing id, `base`;
//! last the shape itself. A reject has no effect, stops nothing and is not recorded.

use std::sync::Arc;

use super::merge::merge_patch;
use super::{
    Ack, Authority, Before, Current, Decision, Event, KnownOp, Outcome, Rejection, Role, RoomBounds,
    RoomState, ShapeData, ShapeState, Submit,
};
use crate::clock::UnixMillis;
use crate::ids::{RoomId, ShapeId};
use crate::position::{Position, Seq};
use crate::protocol::{Code, Exact, Object, Operation, Refusal, Shape, Version, strict};

/// Decides a batch in order. Each submit sees what those before it did.
pub fn decide(before: Before, submits: &[Submit], now: UnixMillis, bounds: RoomBounds) -> Decision {
    let mut batch = Batch {
        state: before,
        events: Vec::with_capacity(submits.len()),
        touched_shapes: Vec::new(),
        touched_rooms: Vec::new(),
        now,
        bounds,
    };
    let outcomes = submits
        .iter()
        .map(|submit| match batch.submit(submit) {
            Ok(ack) => Outcome::Accepted(ack),
            Err(rejection) => Outcome::Rejected(*rejection),
        })
        .collect();
    batch.decision(outcomes)
}

/// How a shape stands, a `room.clear` since its last event included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Standing<'a> {
    Never,
    Live { version: Version, data: &'a ShapeData },
    Deleted { version: Version },
}

impl<'a> Standing<'a> {
    pub(super) fn of(state: Option<&'a ShapeState>, cleared: Seq) -> Self {
        match state {
            None => Self::Never,
            Some(ShapeState { version, data: None, .. }) => Self::Deleted { version: *version },
            Some(state) if state.last_seq <= cleared => Self::Deleted { version: state.version.next() },
            Some(ShapeState { version, data: Some(data), .. }) => Self::Live { version: *version, data },
        }
    }

    fn version(&self) -> Version {
        match self {
            Self::Never => Version(0),
            Self::Live { version, .. } | Self::Deleted { version } => *version,
        }
    }

    /// The bytes of a live shape.
    fn bytes(&self) -> Option<u64> {
        match self {
            Self::Live { data, .. } => Some(data.json.len() as u64),
            Self::Never | Self::Deleted { .. } => None,
        }
    }

    fn current(&self) -> Current {
        let shape = match self {
            Self::Live { data, .. } => Some(Arc::clone(&data.json)),
            Self::Never | Self::Deleted { .. } => None,
        };
        Current { version: self.version(), shape }
    }

    fn collides(&self, code: Code, message: &'static str) -> Box<Rejection> {
        Box::new(Rejection { refusal: Refusal::new(code, message), current: Some(self.current()) })
    }

    /// The rules of deleted shapes, existing ids and `base`, in their order.
    fn admit(&self, operation: &Operation) -> Result<(), Box<Rejection>> {
        let (adds, puts, base) = match operation {
            Operation::ShapeAdd { .. } => (true, false, None),
            Operation::ShapePut { base, .. } => (false, true, *base),
            Operation::ShapeUpdate { base, .. } | Operation::ShapeDelete { base, .. } => {
                (false, false, *base)
            }
            Operation::RoomClear | Operation::Message { .. } => return Ok(()),
        };
        match self {
            Self::Never if !adds && !puts => {
                return Err(refused(Code::ShapeUnknown, "there is no shape with this id"));
            }
            Self::Deleted { version } if !(puts && base == Some(*version)) => {
                let message = "the shape is deleted; only a shape.put whose base is its version revives it";
                return Err(self.collides(Code::ShapeDeleted, message));
            }
            Self::Live { .. } if adds => {
                return Err(self.collides(Code::ShapeExists, "there is a shape with this id"));
            }
            _ => {}
        }
        match base {
            Some(base) if base != self.version() => {
                Err(self.collides(Code::VersionConflict, "the shape's version is not the base"))
            }
            _ => Ok(()),
        }
    }
}

/// What an accepted submit does besides becoming an event.
enum Change {
    /// `live` are the room's shapes and bytes after it.
    Shape {
        id: ShapeId,
        version: Version,
        data: Option<ShapeData>,
        live: (u64, u64),
    },
    Clear,
    Nothing,
}

struct Batch {
    state: Before,
    events: Vec<Event>,
    /// In order of first touch; repeats are dropped at the end.
    touched_shapes: Vec<(RoomId, ShapeId)>,
    touched_rooms: Vec<RoomId>,
    now: UnixMillis,
    bounds: RoomBounds,
}

impl Batch {
    fn submit(&mut self, submit: &Submit) -> Result<Ack, Box<Rejection>> {
        let Some(room) = self.state.rooms.get(&submit.room) else {
            return Err(refused(Code::RoomUnknown, "there is no such room"));
        };
        let op = submit.op_key();
        if let Some(known) = self.state.ops.get(&op) {
            return repeated(known, submit);
        }
        if let Some(rejection) = self.state.rejected.get(&op) {
            return Err(Box::new(rejection.clone()));
        }
        if room.archived {
            return Err(refused(Code::RoomArchived, "the room is archived"));
        }
        self.check_role(submit)?;
        let change = self.change(room, submit)?;
        let ack = self.accept(submit, change);
        let known = KnownOp {
            position: ack.position,
            at: ack.at,
            digest: submit.digest,
            version: ack.version,
            cleared: ack.cleared,
        };
        self.state.ops.insert(op, known);
        Ok(ack)
    }

    fn check_role(&self, submit: &Submit) -> Result<(), Box<Rejection>> {
        if submit.authority == Authority::Server {
            return Ok(());
        }
        match self.state.roles.get(&(submit.room, submit.user.clone())) {
            Some(Role::Editor | Role::Owner) => Ok(()),
            Some(Role::Viewer) => Err(refused(Code::Forbidden, "a viewer may not change the room")),
            None => Err(refused(Code::Forbidden, "not a member of the room")),
        }
    }

    fn change(&self, room: &RoomState, submit: &Submit) -> Result<Change, Box<Rejection>> {
        let id = match (submit.operation.shape_id(), &submit.operation) {
            (Some(id), _) => id.clone(),
            (None, Operation::RoomClear) => return Ok(Change::Clear),
            (None, _) => return Ok(Change::Nothing),
        };
        let state = self.state.shapes.get(&(submit.room, id.clone()));
        let standing = Standing::of(state, room.cleared);
        standing.admit(&submit.operation)?;
        let data = match (&submit.operation, &standing) {
            (Operation::ShapeAdd { shape } | Operation::ShapePut { shape, .. }, _) => {
                Some(whole(room, shape)?)
            }
            (Operation::ShapeUpdate { patch, .. }, Standing::Live { data, .. }) => {
                Some(self.patched(room, data, patch)?)
            }
            _ => None,
        };
        let live = self.live_after(room, standing.bytes(), data.as_ref())?;
        Ok(Change::Shape { id, version: standing.version().next(), data, live })
    }

    /// How many shapes and bytes of them the room will have.
    fn live_after(
        &self,
        room: &RoomState,
        before: Option<u64>,
        after: Option<&ShapeData>,
    ) -> Result<(u64, u64), Box<Rejection>> {
        let others = room.live_shapes.saturating_sub(u64::from(before.is_some()));
        let other_bytes = room.live_bytes.saturating_sub(before.unwrap_or_default());
        let bytes = after.map_or(0, |data| data.json.len() as u64);
        let live = (others + u64::from(after.is_some()), other_bytes + bytes);
        self.bounds.admit((room.live_shapes, room.live_bytes), live).map_err(reject)?;
        Ok(live)
    }

    fn patched(
        &self,
        room: &RoomState,
        old: &ShapeData,
        patch: &Exact<Object>,
    ) -> Result<ShapeData, Box<Rejection>> {
        keeps_identity(old, patch)?;
        let json = merge_patch(&old.json, &patch.json).map_err(|_| unreadable())?;
        let most = self.bounds.shape_bytes;
        if most > 0 && json.len() as u64 > most {
            let message = format!("a shape may have {most} bytes; with this patch it has {}", json.len());
            return Err(Box::new(Rejection {
                refusal: Refusal::new(Code::TooLarge, message),
                current: None,
            }));
        }
        if room.schema == super::Schema::Drawing {
            room.schema.check(&stored(&json)?).map_err(reject)?;
        }
        Ok(ShapeData { json: json.into(), shape_type: old.shape_type.clone() })
    }

    /// Writes the event and what it changes.
    fn accept(&mut self, submit: &Submit, change: Change) -> Ack {
        let room = self.state.rooms.get_mut(&submit.room).expect("a room was found before its change");
        self.touched_rooms.push(submit.room);
        let position = Position::new(room.epoch, room.head.seq.next());
        room.head = position;
        let mut ack = Ack { position, at: self.now, version: None, cleared: None, duplicate: false };
        match change {
            Change::Shape { id, version, data, live } => {
                (room.live_shapes, room.live_bytes) = live;
                let key = (submit.room, id);
                let state = ShapeState { version, data, last_seq: position.seq };
                self.state.shapes.insert(key.clone(), state);
                self.touched_shapes.push(key);
                ack.version = Some(version);
            }
            Change::Clear => {
                ack.cleared = Some(std::mem::take(&mut room.live_shapes));
                room.live_bytes = 0;
                room.cleared = position.seq;
            }
            Change::Nothing => {}
        }
        self.events.push(event(submit, &ack, self.now));
        ack
    }

    fn decision(mut self, outcomes: Vec<Outcome>) -> Decision {
        let shapes = self
            .touched_shapes
            .into_iter()
            .filter_map(|key| self.state.shapes.remove(&key).map(|state| (key.0, key.1, state)))
            .collect();
        let rooms = self
            .touched_rooms
            .into_iter()
            .filter_map(|id| self.state.rooms.remove(&id).map(|room| (id, room)))
            .collect();
        Decision { outcomes, events: self.events, shapes, rooms }
    }
}

fn event(submit: &Submit, ack: &Ack, now: UnixMillis) -> Event {
    Event {
        room: submit.room,
        position: ack.position,
        kind: submit.operation.kind(),
        op: submit.op.clone(),
        user: submit.user.clone(),
        at: now,
        digest: submit.digest,
        body: Arc::clone(&submit.body),
        version: ack.version,
        cleared: ack.cleared,
    }
}

/// A known op: the same again has its one effect already, another is refused.
fn repeated(known: &KnownOp, submit: &Submit) -> Result<Ack, Box<Rejection>> {
    if known.digest != submit.digest {
        return Err(refused(Code::OpReused, "this op was used for something else"));
    }
    Ok(Ack {
        position: known.position,
        at: known.at,
        version: known.version,
        cleared: known.cleared,
        duplicate: true,
    })
}

fn whole(room: &RoomState, shape: &Shape) -> Result<ShapeData, Box<Rejection>> {
    room.schema.check(&shape.body.value).map_err(reject)?;
    let shape_type = shape.body.value.get("type").and_then(|value| value.as_str());
    Ok(ShapeData { json: Arc::clone(&shape.body.json), shape_type: shape_type.map(Into::into) })
}

/// A patch may name `id` and `type`, but not change them.
fn keeps_identity(old: &ShapeData, patch: &Exact<Object>) -> Result<(), Box<Rejection>> {
    for field in ["id", "type"] {
        let Some(new) = patch.value.get(field) else { continue };
        if stored(&old.json)?.get(field) != Some(new) {
            let message = format!("a patch may not change shape.{field}");
            return Err(reject(Refusal::new(Code::InvalidShape, message)));
        }
    }
    Ok(())
}

fn stored(json: &str) -> Result<Object, Box<Rejection>> {
    strict::object(json, usize::MAX).map_err(|_| unreadable())
}

fn unreadable() -> Box<Rejection> {
    refused(Code::Internal, "the stored shape cannot be read")
}

fn refused(code: Code, message: &'static str) -> Box<Rejection> {
    reject(Refusal::new(code, message))
}

fn reject(refusal: Refusal) -> Box<Rejection> {
    Box::new(Rejection { refusal, current: None })
}
