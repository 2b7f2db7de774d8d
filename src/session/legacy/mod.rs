//! The drawing app's first protocol, translated to and from `roomgate.v1`.
//!
//! Pure: text in, messages out. Its clients know whole shapes only, and neither
//! versions nor sequence numbers, so the translator keeps what the client sees
//! of each joined room (a [`Picture`]) and tells it every change as `chat` and
//! `delete_shape`.

mod incoming;
mod picture;
mod said;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use picture::{Change, Picture, id_of};
use said::Said;
use uuid::Uuid;

use crate::ids::{OpId, RoomId, ShapeId};
use crate::log::app_shapes;
use crate::position::Seq;
use crate::protocol::{Code, Json, ObjectWriter, push_string};

/// One client's side of the translation.
#[derive(Default)]
pub struct Translator {
    rooms: HashMap<RoomId, Room>,
    /// Of a join that isn't answered yet.
    expected: HashMap<RoomId, View>,
    /// Names the next join until one succeeds: a join that is sent again after a
    /// refusal is the same one.
    next_join: Option<Uuid>,
    /// Rooms that were named but not joined, for the answer's `roomId`.
    named: HashMap<RoomId, RoomName>,
    /// Deletions under way: a refusal because the shape is deleted is none.
    deletes: HashMap<OpId, ShapeId>,
}

/// `roomId` as the client wrote it: a JSON number or string.
type RoomName = Arc<str>;

struct Room {
    name: RoomName,
    view: View,
}

/// The view of a room that the client shows.
#[derive(Default)]
struct View {
    picture: Picture,
    /// The client may have the events up to this one.
    unsure_to: Seq,
}

/// The view that a client has before it joins a room.
pub struct Known<'a> {
    /// The state, as `snapshot` messages; empty if it can't be known.
    pub pages: &'a [Json],
    /// The client may have the events after that state up to this one.
    pub unsure_to: Seq,
}

/// Names kept of rooms that aren't joined.
const NAMED_MAX: usize = 128;

impl Translator {
    /// An id for the next join, the same one until a join succeeds.
    pub fn next_join(&mut self) -> Uuid {
        *self.next_join.get_or_insert_with(Uuid::new_v4)
    }

    /// To be called before `joined`.
    pub fn expect(&mut self, room: RoomId, known: &Known<'_>) {
        let mut picture = Picture::default();
        for said in known.pages.iter().flat_map(said::read) {
            picture.snapshot(&said, &mut |_| {});
        }
        self.expected.insert(room, View { picture, unsure_to: known.unsure_to });
    }

    /// Adds to `out` what the client is told of `json`, one or more messages.
    pub fn outgoing(&mut self, json: &Json, out: &mut VecDeque<Json>) {
        for said in said::read(json) {
            self.tell(&said, out);
        }
    }

    fn tell(&mut self, said: &Said<'_>, out: &mut VecDeque<Json>) {
        match said.message_type.as_ref() {
            "joined" => self.joined(said),
            "left" => self.left(said),
            "resync" => self.resync(said, out),
            "snapshot" => self.with_room(said, out, |view, tell| view.picture.snapshot(said, tell)),
            "events" => self.with_room(said, out, |view, tell| {
                said.events.iter().for_each(|event| view.event(event, tell));
            }),
            "event" => self.with_room(said, out, |view, tell| view.event(said, tell)),
            "ack" => drop(self.answered(said)),
            "reject" => self.rejected(said, out),
            "error" => out.push_back(self.error(said)),
            // Presence, signals, tokens: nothing that this protocol has words for.
            _ => {}
        }
    }

    fn joined(&mut self, said: &Said<'_>) {
        let Some(id) = said.room else { return };
        let name = self.name_of(id);
        let view = self.expected.remove(&id).unwrap_or_default();
        self.rooms.insert(id, Room { name, view });
        self.next_join = None;
    }

    /// The difference to the new state follows. Without a known view there is no
    /// difference, so the client must load the room again.
    fn resync(&self, said: &Said<'_>, out: &mut VecDeque<Json>) {
        let Some(id) = said.room else { return };
        if self.rooms.get(&id).is_some_and(|room| room.view.picture.is_unknown()) {
            let message = "the log does not hold the history that was read; load the room again";
            out.push_back(error(Code::PositionLost.as_str(), message, &self.name_of(id)));
        }
    }

    fn left(&mut self, said: &Said<'_>) {
        if let Some(room) = said.room {
            self.rooms.remove(&room);
        }
    }

    fn with_room(
        &mut self,
        said: &Said<'_>,
        out: &mut VecDeque<Json>,
        update: impl FnOnce(&mut View, &mut dyn FnMut(Change<'_>)),
    ) {
        let Some(room) = said.room.and_then(|id| self.rooms.get_mut(&id)) else { return };
        let name = room.name.clone();
        update(&mut room.view, &mut |change| out.push_back(encode(&name, change)));
    }

    fn answered(&mut self, said: &Said<'_>) -> Option<ShapeId> {
        said.op.as_ref().and_then(|op| self.deletes.remove(op))
    }

    fn rejected(&mut self, said: &Said<'_>, out: &mut VecDeque<Json>) {
        let deleted = self.answered(said);
        match (deleted, said.room) {
            (Some(shape), Some(room)) if said.code.as_deref() == Some(Code::ShapeDeleted.as_str()) => {
                out.push_back(encode(&self.name_of(room), Change::Deleted(shape.as_str())));
            }
            _ => out.push_back(self.error(said)),
        }
    }

    fn error(&self, said: &Said<'_>) -> Json {
        let code = said.code.as_deref().unwrap_or(Code::Internal.as_str());
        let room = said.room.map_or_else(|| "null".into(), |room| self.name_of(room));
        error(code, said.message.as_deref().unwrap_or_default(), &room)
    }

    fn name_of(&self, room: RoomId) -> RoomName {
        let joined = self.rooms.get(&room).map(|room| &room.name);
        joined.or_else(|| self.named.get(&room)).cloned().unwrap_or_else(|| room.to_string().into())
    }

    /// Remembers how the client writes this room.
    fn name(&mut self, room: RoomId, name: &str) {
        if let Some(room) = self.rooms.get_mut(&room) {
            if &*room.name != name {
                room.name = name.into();
            }
            return;
        }
        if self.named.len() >= NAMED_MAX {
            self.named.clear();
        }
        self.named.insert(room, name.into());
    }
}

impl View {
    /// A shape that the client may have is deleted before it is drawn, because a
    /// client appends what is drawn.
    fn event(&mut self, event: &Said<'_>, tell: &mut dyn FnMut(Change<'_>)) {
        let is_unsure = event.seq.is_some_and(|seq| seq <= self.unsure_to.0);
        self.picture.event(event, &mut |change| {
            if let Change::Drawn(shape) = change
                && is_unsure
                && let Some(id) = id_of(shape)
            {
                tell(Change::Deleted(&id));
            }
            tell(change);
        });
    }
}

fn error(code: &str, message: &str, room: &str) -> Json {
    ObjectWriter::message("error", 160)
        .string("code", code)
        .string("message", message)
        .raw("roomId", room)
        .json()
}

fn encode(room: &str, change: Change<'_>) -> Json {
    match change {
        Change::Drawn(shape) => {
            let shape = app_shapes::to_app(shape);
            chat(room, &ObjectWriter::object(shape.len() + 16).raw("shape", &shape).end())
        }
        Change::Said(text) => chat(room, text),
        Change::Deleted(shape_id) => {
            ObjectWriter::message("delete_shape", 128).string("shapeId", shape_id).raw("roomId", room).json()
        }
    }
}

/// `message` is a text that holds JSON, by the protocol's old custom.
fn chat(room: &str, message: &str) -> Json {
    let mut quoted = String::with_capacity(message.len() + message.len() / 8 + 2);
    push_string(&mut quoted, message);
    ObjectWriter::message("chat", quoted.len() + 64).raw("message", &quoted).raw("roomId", room).json()
}
