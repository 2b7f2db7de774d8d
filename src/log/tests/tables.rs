//! The rows of a shard, in memory: what `append` reads and writes, without it.
#![expect(clippy::unwrap_used, reason = "a test's, also when it is a fuzz target's")]

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::clock::UnixMillis;
use crate::ids::{OpId, RoomId, ShapeId, UserId};
use crate::log::{
    Authority, Before, Current, Event, Fold, KnownOp, Outcome, Role, RoomBounds, RoomState, Schema,
    ShapeState, Submit, decide,
};
use crate::position::{Epoch, Position, Seq};
use crate::protocol::{ClientMessage, Code, FrameLimits, read_message};

pub const LIMITS: FrameLimits = FrameLimits { frame_bytes: 0, message_bytes: 0, json_depth: 32 };

#[derive(Clone)]
pub struct Tables {
    pub rooms: BTreeMap<RoomId, RoomState>,
    pub shapes: HashMap<(RoomId, ShapeId), ShapeState>,
    pub ops: HashMap<(RoomId, UserId, OpId), KnownOp>,
    pub roles: HashMap<(RoomId, UserId), Role>,
    pub log: Vec<Event>,
    pub bounds: RoomBounds,
}

pub fn room(id: u64) -> RoomId {
    RoomId::new(id).unwrap()
}

pub fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// A submit as a client writes it, by `ann` in room 1 unless it says otherwise.
pub fn submit(op: &str, kind: &str, body: Value) -> Submit {
    submit_by("ann", 1, op, kind, body)
}

pub fn submit_by(who: &str, room: u64, op: &str, kind: &str, mut body: Value) -> Submit {
    body["type"] = json!("submit");
    body["room"] = json!(room);
    body["op"] = json!(op);
    body["kind"] = json!(kind);
    from_text(who, &body.to_string())
}

pub fn from_text(who: &str, text: &str) -> Submit {
    match read_message(text, None, LIMITS).message {
        Ok(ClientMessage::Submit { room, op, operation }) => {
            Submit::new(room, user(who), Authority::Member, op, operation)
        }
        other => panic!("not a submit: {text}: {other:?}"),
    }
}

impl Tables {
    /// Rooms 1 and 2, open schema, with ann, bob as editors and vic as viewer.
    pub fn new() -> Self {
        let state = RoomState {
            head: Position::BEGINNING,
            cleared: Seq::ZERO,
            live_shapes: 0,
            live_bytes: 0,
            schema: Schema::Open,
            archived: false,
            epoch: Epoch(7),
        };
        let people = [("ann", Role::Editor), ("bob", Role::Owner), ("vic", Role::Viewer)];
        let roles =
            [1, 2].into_iter().flat_map(|id| people.map(|(name, role)| ((room(id), user(name)), role)));
        Self {
            rooms: [1, 2].into_iter().map(|id| (room(id), state.clone())).collect(),
            shapes: HashMap::new(),
            ops: HashMap::new(),
            roles: roles.collect(),
            log: Vec::new(),
            bounds: RoomBounds::default(),
        }
    }

    pub fn room(&mut self) -> &mut RoomState {
        self.rooms.get_mut(&room(1)).unwrap()
    }

    /// One transaction: reads the rows that are named, decides, writes.
    pub fn append(&mut self, submits: &[Submit]) -> Vec<Outcome> {
        let mut before = Before::default();
        for submit in submits {
            if let Some(state) = self.rooms.get(&submit.room) {
                before.rooms.insert(submit.room, state.clone());
            }
            if let Some(id) = submit.operation.shape_id() {
                let key = (submit.room, id.clone());
                before.shapes.extend(self.shapes.get(&key).map(|state| (key, state.clone())));
            }
            let key = (submit.room, submit.user.clone(), submit.op.clone());
            before.ops.extend(self.ops.get(&key).map(|known| (key, known.clone())));
            let key = (submit.room, submit.user.clone());
            before.roles.extend(self.roles.get(&key).map(|role| (key, *role)));
        }
        let decision = decide(before, submits, UnixMillis(1), self.bounds);
        assert_eq!(decision.outcomes.len(), submits.len(), "one answer a submit");
        for event in decision.events {
            let known = KnownOp {
                position: event.position,
                at: event.at,
                digest: event.digest,
                version: event.version,
                cleared: event.cleared,
            };
            let key = (event.room, event.user.clone(), event.op.clone());
            assert!(self.ops.insert(key, known).is_none(), "the unique index on ops");
            self.log.push(event);
        }
        let mut rows = std::collections::HashSet::new();
        for (room, id, state) in decision.shapes {
            assert!(rows.insert((room, id.clone())), "one row a shape");
            self.shapes.insert((room, id), state);
        }
        for (room, state) in decision.rooms {
            self.rooms.insert(room, state);
        }
        decision.outcomes
    }

    pub fn one(&mut self, submit: Submit) -> Outcome {
        self.append(&[submit]).remove(0)
    }

    /// The log of one room, folded.
    pub fn fold(&self, id: RoomId) -> Fold {
        let mut fold = Fold::default();
        for event in self.log.iter().filter(|event| event.room == id) {
            fold.apply(event).unwrap();
        }
        fold
    }

    pub fn accepts(&mut self, op: &str, kind: &str, body: Value) -> (u64, Option<u64>) {
        match self.one(submit(op, kind, body)) {
            Outcome::Accepted(ack) => (ack.position.seq.0, ack.version.map(|version| version.0)),
            Outcome::Rejected(rejection) => panic!("{op}: {rejection:?}"),
        }
    }

    pub fn rejects(&mut self, op: &str, kind: &str, body: Value) -> (Code, Option<Current>) {
        rejected(self.one(submit(op, kind, body)))
    }
}

pub fn rejected(outcome: Outcome) -> (Code, Option<Current>) {
    match outcome {
        Outcome::Rejected(rejection) => (rejection.refusal.code, rejection.current),
        Outcome::Accepted(ack) => panic!("accepted: {ack:?}"),
    }
}
