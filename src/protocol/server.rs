//! What the server says, encoded. Shapes and events that are encoded already
//! are spliced in as they are.

use serde::Serialize;

use super::client::{Inbound, MessageId, Refused};
use super::code::{CloseCode, Refusal};
use super::encode::ObjectWriter;
use super::operation::Version;
use super::room::Role;
use super::wire::Json;
use crate::clock::UnixMillis;
use crate::ids::{NodeName, OpId, RoomId, SessionId, Slug, UserId};
use crate::position::{Position, Seq};

/// The limits that `welcome` tells. 0 means none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AnnouncedLimits {
    pub message_bytes: usize,
    pub frame_bytes: usize,
    pub json_depth: usize,
    pub rooms_per_session: u32,
    pub submits_per_second: u32,
    pub submit_burst: u32,
    pub signals_per_second: u32,
    pub sessions_per_user: u32,
}

#[derive(Debug, Clone)]
pub struct Welcome<'a> {
    pub session: &'a SessionId,
    pub node: &'a NodeName,
    pub user: &'a UserId,
    pub name: &'a str,
    pub heartbeat_ms: u64,
    pub limits: &'a AnnouncedLimits,
}

/// A session that is in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Member {
    pub session: SessionId,
    pub user: UserId,
    pub name: String,
    pub role: Role,
}

#[derive(Debug, Clone)]
pub struct Joined<'a> {
    pub room: RoomId,
    pub slug: &'a Slug,
    pub head: Position,
    pub role: Role,
    pub mode: JoinMode,
    pub members: &'a [Member],
    pub count: usize,
}

/// What follows `joined`: the whole state, or the events since a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinMode {
    Snapshot,
    Resume,
}

/// One effect of a submit, in `ack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    pub position: Position,
    pub version: Option<Version>,
    pub duplicate: bool,
    pub cleared: Option<u64>,
}

/// What a rejected submit collided with. `shape` is JSON, `None` when deleted,
/// or when there never was one: then `version` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collision<'a> {
    pub version: Version,
    pub shape: Option<&'a str>,
}

/// Why a session is given a snapshot instead of what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResyncReason {
    PositionLost,
    AheadOfLog,
    BelowRetention,
}

impl ResyncReason {
    pub const ALL: [Self; 3] = [Self::PositionLost, Self::AheadOfLog, Self::BelowRetention];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::PositionLost => "position_lost",
            Self::AheadOfLog => "ahead_of_log",
            Self::BelowRetention => "below_retention",
        }
    }
}

/// A page of a room's shapes, each as [`shape_item`] encodes it.
#[derive(Debug, Clone)]
pub struct SnapshotPage<'a, T> {
    pub room: RoomId,
    pub position: Position,
    pub shapes: &'a [T],
    /// From 1.
    pub page: u64,
    pub last: bool,
}

/// A page of a room's log, each as its `event` message.
#[derive(Debug, Clone)]
pub struct EventsPage<'a, T> {
    pub room: RoomId,
    /// The seq of the first event; on an empty page `to + 1`.
    pub from: Seq,
    pub to: Seq,
    pub head: Position,
    pub events: &'a [T],
    pub last: bool,
}

/// Who came and went since the last one. Above 100 members without names.
#[derive(Debug, Clone)]
pub struct PresenceChange<'a> {
    pub room: RoomId,
    pub joined: &'a [Member],
    pub left: &'a [SessionId],
    pub count: usize,
}

pub fn welcome(id: Option<&MessageId>, welcome: &Welcome<'_>) -> Json {
    answer("welcome", id)
        .string("session", welcome.session.as_str())
        .string("node", welcome.node.as_str())
        .string("user", welcome.user.as_str())
        .string("name", welcome.name)
        .number("heartbeat_ms", welcome.heartbeat_ms)
        .raw("limits", &encoded(welcome.limits))
        .json()
}

pub fn joined(id: Option<&MessageId>, joined: &Joined<'_>) -> Json {
    answer("joined", id)
        .number("room", joined.room.get())
        .string("slug", joined.slug.as_str())
        .number("epoch", joined.head.epoch.0)
        .number("head", joined.head.seq.0)
        .string("role", joined.role.as_str())
        .string(
            "mode",
            match joined.mode {
                JoinMode::Snapshot => "snapshot",
                JoinMode::Resume => "resume",
            },
        )
        .raw("members", &encoded(&joined.members))
        .number("count", joined.count as u64)
        .json()
}

pub fn left(id: Option<&MessageId>, room: RoomId) -> Json {
    answer("left", id).number("room", room.get()).json()
}

pub fn ack(id: Option<&MessageId>, room: RoomId, op: &OpId, effect: &Effect) -> Json {
    answer("ack", id)
        .number("room", room.get())
        .string("op", op.as_str())
        .number("epoch", effect.position.epoch.0)
        .number("seq", effect.position.seq.0)
        .maybe(effect.version, |w, version| w.number("version", version.0))
        .maybe(effect.duplicate.then_some(true), |w, yes| w.boolean("duplicate", yes))
        .maybe(effect.cleared, |w, cleared| w.number("cleared", cleared))
        .json()
}

pub fn reject(
    id: Option<&MessageId>,
    room: RoomId,
    op: &OpId,
    refusal: &Refusal,
    current: Option<Collision<'_>>,
) -> Json {
    let writer = answer("reject", id).number("room", room.get()).string("op", op.as_str());
    refused(writer, refusal)
        .maybe(current, |w, current| {
            let object = ObjectWriter::object(64)
                .number("version", current.version.0)
                .maybe(current.shape, |w, shape| w.raw("shape", shape))
                .boolean("deleted", current.shape.is_none() && current.version > Version(0));
            w.raw("current", &object.end())
        })
        .json()
}

/// Answers a refused message: a `reject` for a submit whose room and op could
/// be read, an `error` for everything else.
pub fn refusal(inbound: &Inbound, refused: &Refused) -> Json {
    match (refused.room, &refused.op) {
        (Some(room), Some(op)) => reject(inbound.id.as_ref(), room, op, &refused.refusal, None),
        _ => error(inbound.id.as_ref(), inbound.index, refused.of.as_deref(), refused.room, &refused.refusal),
    }
}

/// `of` is the type of the message that is refused, `index` its place in the
/// frame's array.
pub fn error(
    id: Option<&MessageId>,
    index: Option<usize>,
    of: Option<&str>,
    room: Option<RoomId>,
    refusal: &Refusal,
) -> Json {
    let writer = answer("error", id)
        .maybe(index, |w, index| w.number("index", index as u64))
        .maybe(of, |w, of| w.string("of", of))
        .maybe(room, |w, room| w.number("room", room.get()));
    refused(writer, refusal).json()
}

pub fn refreshed(id: Option<&MessageId>, expires_at: UnixMillis) -> Json {
    answer("refreshed", id).number("expires_at", expires_at.0).json()
}

/// `t` is the JSON text that came with the `ping`.
pub fn pong(id: Option<&MessageId>, t: Option<&str>, now: UnixMillis) -> Json {
    answer("pong", id).maybe(t, |w, t| w.raw("t", t)).number("server_time", now.0).json()
}

/// An item of a snapshot: `{"version":…,"shape":{…}}`.
pub fn shape_item(version: Version, shape: &str) -> String {
    ObjectWriter::object(shape.len() + 40).number("version", version.0).raw("shape", shape).end()
}

pub fn snapshot<T: AsRef<str>>(page: &SnapshotPage<'_, T>) -> Json {
    let length: usize = page.shapes.iter().map(|shape| shape.as_ref().len() + 1).sum();
    ObjectWriter::message("snapshot", length + 160)
        .number("room", page.room.get())
        .number("epoch", page.position.epoch.0)
        .number("seq", page.position.seq.0)
        .array("shapes", page.shapes)
        .number("page", page.page)
        .boolean("last", page.last)
        .json()
}

pub fn events<T: AsRef<str>>(page: &EventsPage<'_, T>) -> Json {
    let length: usize = page.events.iter().map(|event| event.as_ref().len() + 1).sum();
    ObjectWriter::message("events", length + 160)
        .number("room", page.room.get())
        .number("epoch", page.head.epoch.0)
        .number("from", page.from.0)
        .number("to", page.to.0)
        .number("head", page.head.seq.0)
        .array("events", page.events)
        .boolean("last", page.last)
        .json()
}

pub fn resync(room: RoomId, reason: ResyncReason) -> Json {
    ObjectWriter::message("resync", 80).number("room", room.get()).string("reason", reason.as_str()).json()
}

pub fn presence(change: &PresenceChange<'_>) -> Json {
    ObjectWriter::message("presence", 160)
        .number("room", change.room.get())
        .raw("joined", &encoded(&change.joined))
        .raw("left", &encoded(&change.left))
        .number("count", change.count as u64)
        .json()
}

/// `data` is the JSON text that came with the `signal`.
pub fn signal(room: RoomId, session: &SessionId, user: &UserId, data: &str) -> Json {
    ObjectWriter::message("signal", data.len() + 120)
        .number("room", room.get())
        .string("session", session.as_str())
        .string("user", user.as_str())
        .raw("data", data)
        .json()
}

pub fn token_expiring(expires_at: UnixMillis) -> Json {
    ObjectWriter::message("token_expiring", 64).number("expires_at", expires_at.0).json()
}

pub fn goodbye(reason: CloseCode, reconnect_after_ms: u64) -> Json {
    ObjectWriter::message("goodbye", 80)
        .string("reason", reason.reason())
        .number("reconnect_after_ms", reconnect_after_ms)
        .json()
}

fn answer(message_type: &str, id: Option<&MessageId>) -> ObjectWriter {
    ObjectWriter::message(message_type, 192).maybe(id, |w, id| w.raw("id", id.json()))
}

fn refused(writer: ObjectWriter, refusal: &Refusal) -> ObjectWriter {
    writer
        .string("code", refusal.code.as_str())
        .string("message", &refusal.message)
        .maybe(refusal.retry_after_ms, |w, ms| w.number("retry_after_ms", ms))
}

fn encoded(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("our own messages always encode")
}
