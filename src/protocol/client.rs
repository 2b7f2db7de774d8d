//! What a client says: messages with typed fields, or precise refusals.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::code::{Code, Refusal};
use super::operation::{Exact, Kind, Object, Operation, Shape, Version};
use super::strict;
use crate::ids::{InvalidId, OpId, RoomId, ShapeId, Slug};
use crate::position::{Epoch, Position, Seq};

/// One message of a frame, good or refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    /// To be echoed in the direct answer.
    pub id: Option<MessageId>,
    /// The place in the frame's array, if it was one.
    pub index: Option<usize>,
    pub message: Result<ClientMessage, Refused>,
}

/// A client's own mark on a message: a JSON string or integer, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageId(Arc<str>);

impl MessageId {
    pub fn json(&self) -> &str {
        &self.0
    }
}

/// A refused message, with what could be read of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The `type` it claimed.
    pub of: Option<String>,
    pub room: Option<RoomId>,
    /// Of a submit. With `room` it makes the answer a `reject`.
    pub op: Option<OpId>,
    pub refusal: Refusal,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ClientMessage {
    Hello {
        token: Option<String>,
        client: Option<ClientInfo>,
    },
    Join(Join),
    Leave {
        room: RoomId,
    },
    Submit {
        room: RoomId,
        op: OpId,
        operation: Operation,
    },
    /// `data` is JSON text of at most [`SIGNAL_BYTES`].
    Signal {
        room: RoomId,
        data: Arc<str>,
    },
    Refresh {
        token: String,
    },
    /// `t` is JSON text.
    Ping {
        t: Option<Arc<str>>,
    },
}

/// The program that a client says it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientInfo {
    pub name: Option<String>,
    pub version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    pub room: RoomRef,
    pub password: Option<String>,
    pub invite: Option<String>,
    pub from: Option<Position>,
}

/// How a client names a room. With both fields, `room` counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomRef {
    Id(RoomId),
    /// An id first, if it is one of digits alone.
    Slug(Slug),
}

/// The most bytes of JSON that a signal carries.
pub const SIGNAL_BYTES: usize = 1024;

impl Inbound {
    pub(super) fn refused(index: Option<usize>, refusal: Refusal) -> Self {
        let message = Err(Refused { of: None, room: None, op: None, refusal });
        Self { id: None, index, message }
    }
}

impl Refused {
    /// Reads what is readable of a message that is refused.
    fn of(fields: &Fields<'_>, refusal: Refusal) -> Self {
        let of = fields.string("type", MAX_TYPE).ok().flatten().filter(|_| fields.is_single("type"));
        let room = fields.id("room", as_room).ok().flatten().filter(|_| fields.is_single("room"));
        let op = fields.id("op", as_op).ok().flatten().filter(|_| fields.is_single("op"));
        let is_submit = of.as_deref() == Some("submit");
        Self { of, room, op: op.filter(|_| is_submit), refusal }
    }
}

const MAX_TYPE: usize = 64;
const MAX_TEXT: usize = 128;
const MAX_PASSWORD: usize = 1024;
const MAX_TOKEN: usize = 16 * 1024;

/// The fields of a message object, split but not yet read.
pub(super) struct Fields<'a> {
    fields: BTreeMap<Cow<'a, str>, &'a RawValue>,
    /// A key that came twice, if any.
    duplicate: Option<String>,
    /// How deep a field's value may nest.
    depth: usize,
}

impl<'a> Fields<'a> {
    /// `depth` is the message's own; its object takes one level.
    pub(super) fn split(text: &'a str, depth: usize) -> Result<Self, Refusal> {
        let mut fields = BTreeMap::new();
        let mut duplicate = None;
        for (key, value) in strict::entries(text).map_err(|e| strict::bad_json(&e))? {
            match fields.entry(key) {
                Entry::Occupied(known) => duplicate = Some(known.key().to_string()),
                Entry::Vacant(free) => {
                    free.insert(value);
                }
            }
        }
        Ok(Self { fields, duplicate, depth: depth.saturating_sub(1) })
    }

    fn is_single(&self, name: &str) -> bool {
        self.duplicate.as_deref() != Some(name)
    }

    /// A message that is refused for what it is as a whole.
    pub(super) fn refuse(self, index: Option<usize>, refusal: Refusal) -> Inbound {
        let id = self.message_id().ok().flatten();
        Inbound { id, index, message: Err(Refused::of(&self, refusal)) }
    }

    pub(super) fn read(self, index: Option<usize>) -> Inbound {
        let (id, message) = match self.message_id() {
            Ok(id) => (id, self.message()),
            Err(refusal) => (None, Err(refusal)),
        };
        Inbound { id, index, message: message.map_err(|refusal| Refused::of(&self, refusal)) }
    }

    fn message(&self) -> Result<ClientMessage, Refusal> {
        if let Some(key) = &self.duplicate {
            return Err(Refusal::new(Code::BadJson, strict::duplicate_key(key)));
        }
        let message_type = self.string("type", usize::MAX)?.ok_or_else(|| missing("type"))?;
        let (message, known): (_, &[&str]) = match message_type.as_str() {
            "hello" => (self.hello()?, &["token", "client"]),
            "join" => (self.join()?, &["room", "slug", "password", "invite", "from"]),
            "leave" => (ClientMessage::Leave { room: self.room()? }, &["room"]),
            "submit" => self.submit()?,
            "signal" => (self.signal()?, &["room", "data"]),
            "refresh" => {
                let token = self.string("token", MAX_TOKEN)?.ok_or_else(|| missing("token"))?;
                (ClientMessage::Refresh { token }, &["token"])
            }
            "ping" => (ClientMessage::Ping { t: self.json("t", MAX_TEXT)? }, &["t"]),
            _ => return Err(Refusal::new(Code::UnknownType, "unknown message type")),
        };
        self.check_others(known)?;
        Ok(message)
    }

    fn hello(&self) -> Result<ClientMessage, Refusal> {
        let token = self.string("token", MAX_TOKEN)?;
        let client = match self.value("client")? {
            None => None,
            Some(Value::Object(client)) => {
                let text = |name| match client.get(name) {
                    Some(Value::String(s)) => Some(s.chars().take(MAX_TEXT).collect()),
                    _ => None,
                };
                Some(ClientInfo { name: text("name"), version: text("version") })
            }
            Some(_) => return Err(must_be("client", "an object")),
        };
        Ok(ClientMessage::Hello { token, client })
    }

    fn join(&self) -> Result<ClientMessage, Refusal> {
        let room = match (self.id("room", as_room)?, self.id("slug", as_slug)?) {
            (Some(id), _) => RoomRef::Id(id),
            (None, Some(slug)) => RoomRef::Slug(slug),
            (None, None) => return Err(Refusal::new(Code::BadMessage, "room or slug is missing")),
        };
        Ok(ClientMessage::Join(Join {
            room,
            password: self.string("password", MAX_PASSWORD)?,
            invite: self.string("invite", MAX_TEXT)?,
            from: self.position("from")?,
        }))
    }

    fn submit(&self) -> Result<(ClientMessage, &'static [&'static str]), Refusal> {
        let room = self.room()?;
        let op = self.id("op", as_op)?.ok_or_else(|| missing("op"))?;
        let kind = self.string("kind", usize::MAX)?.ok_or_else(|| missing("kind"))?;
        let kind = Kind::parse(&kind).ok_or_else(|| {
            must_be("kind", "shape.add, shape.update, shape.put, shape.delete, room.clear or message")
        })?;
        let (operation, known): (_, &[&str]) = match kind {
            Kind::ShapeAdd => {
                (Operation::ShapeAdd { shape: self.shape()? }, &["room", "op", "kind", "shape"])
            }
            Kind::ShapePut => (
                Operation::ShapePut { shape: self.shape()?, base: self.base()? },
                &["room", "op", "kind", "shape", "base"],
            ),
            Kind::ShapeUpdate => (
                Operation::ShapeUpdate {
                    shape_id: self.shape_id()?,
                    base: self.base()?,
                    patch: self.exact_object("patch", Code::BadMessage)?,
                },
                &["room", "op", "kind", "shape_id", "base", "patch"],
            ),
            Kind::ShapeDelete => (
                Operation::ShapeDelete { shape_id: self.shape_id()?, base: self.base()? },
                &["room", "op", "kind", "shape_id", "base"],
            ),
            Kind::RoomClear => (Operation::RoomClear, &["room", "op", "kind"]),
            Kind::Message => {
                let data = self.exact("data")?.ok_or_else(|| missing("data"))?;
                (Operation::Message { data }, &["room", "op", "kind", "data"])
            }
        };
        Ok((ClientMessage::Submit { room, op, operation }, known))
    }

    fn signal(&self) -> Result<ClientMessage, Refusal> {
        let room = self.room()?;
        let data = self.json("data", usize::MAX)?.ok_or_else(|| missing("data"))?;
        if data.len() > SIGNAL_BYTES {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("signal data may have {SIGNAL_BYTES} bytes; this has {}", data.len()),
            ));
        }
        Ok(ClientMessage::Signal { room, data })
    }

    fn shape(&self) -> Result<Shape, Refusal> {
        Shape::new(self.exact_object("shape", Code::InvalidShape)?)
    }

    fn shape_id(&self) -> Result<ShapeId, Refusal> {
        self.id("shape_id", as_shape)?.ok_or_else(|| missing("shape_id"))
    }

    fn base(&self) -> Result<Option<Version>, Refusal> {
        match self.value("base")? {
            None => Ok(None),
            Some(value) => {
                value.as_u64().map(|v| Some(Version(v))).ok_or_else(|| must_be("base", "an integer ≥ 0"))
            }
        }
    }

    fn room(&self) -> Result<RoomId, Refusal> {
        self.id("room", as_room)?.ok_or_else(|| missing("room"))
    }

    fn position(&self, name: &'static str) -> Result<Option<Position>, Refusal> {
        let Some(value) = self.value(name)? else { return Ok(None) };
        let part = |part| value.get(part).and_then(Value::as_u64);
        match (part("epoch"), part("seq")) {
            (Some(epoch), Some(seq)) => Ok(Some(Position::new(Epoch(epoch), Seq(seq)))),
            _ => Err(must_be(name, "{epoch, seq}, two integers ≥ 0")),
        }
    }

    fn message_id(&self) -> Result<Option<MessageId>, Refusal> {
        let valid = match self.value("id")? {
            None => return Ok(None),
            Some(Value::String(text)) => text.len() <= MAX_TEXT,
            Some(Value::Number(number)) => number.is_u64() || number.is_i64(),
            Some(_) => false,
        };
        match self.fields.get("id").filter(|_| valid) {
            Some(raw) => Ok(Some(MessageId(raw.get().into()))),
            None => Err(must_be("id", "an integer or a string of at most 128 bytes")),
        }
    }

    fn id<T>(&self, name: &str, read: Read<T>) -> Result<Option<T>, Refusal> {
        match self.value(name)? {
            None => Ok(None),
            Some(value) => {
                read(&value).map(Some).map_err(|invalid| Refusal::new(Code::BadMessage, invalid.to_string()))
            }
        }
    }

    fn string(&self, name: &'static str, most: usize) -> Result<Option<String>, Refusal> {
        match self.value(name)? {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= most => Ok(Some(text)),
            Some(Value::String(_)) => {
                Err(Refusal::new(Code::BadMessage, format!("{name} may have {most} bytes")))
            }
            Some(_) => Err(must_be(name, "a string")),
        }
    }

    fn json(&self, name: &'static str, most: usize) -> Result<Option<Arc<str>>, Refusal> {
        match self.exact(name)? {
            Some(Exact { json, .. }) if json.len() > most => {
                Err(Refusal::new(Code::BadMessage, format!("{name} may have {most} bytes")))
            }
            exact => Ok(exact.map(|exact| exact.json)),
        }
    }

    fn exact_object(&self, name: &'static str, code: Code) -> Result<Exact<Object>, Refusal> {
        let exact = self.exact(name)?.ok_or_else(|| missing(name))?;
        match exact.value {
            Value::Object(value) => Ok(Exact { value, json: exact.json }),
            _ => Err(Refusal::new(code, format!("{name} must be an object"))),
        }
    }

    fn exact(&self, name: &str) -> Result<Option<Exact<Value>>, Refusal> {
        let Some(raw) = self.fields.get(name) else { return Ok(None) };
        let value = self.strict(name, raw)?;
        let text = raw.get();
        let is_compact = !text.bytes().any(|b| matches!(b, b'\n' | b'\r' | b'\t'));
        let json = if is_compact { text.into() } else { strict::compact(text).into() };
        Ok(Some(Exact { value, json }))
    }

    /// The value of a field; a `null` counts as absent.
    fn value(&self, name: &str) -> Result<Option<Value>, Refusal> {
        match self.fields.get(name) {
            None => Ok(None),
            Some(raw) => Ok(Some(self.strict(name, raw)?).filter(|value| !value.is_null())),
        }
    }

    /// Unknown fields are ignored, but not what makes them bad JSON.
    fn check_others(&self, known: &[&str]) -> Result<(), Refusal> {
        for (name, raw) in &self.fields {
            if name.contains('\0') {
                return Err(Refusal::new(Code::BadJson, "U+0000 is not allowed"));
            }
            if !known.contains(&name.as_ref()) && !["type", "id"].contains(&name.as_ref()) {
                self.strict(name, raw)?;
            }
        }
        Ok(())
    }

    fn strict(&self, name: &str, raw: &RawValue) -> Result<Value, Refusal> {
        strict::value(raw.get(), self.depth).map_err(|refusal| {
            let shown: String = name.chars().take(40).collect();
            Refusal { message: format!("in {shown:?}: {}", refusal.message).into(), ..refusal }
        })
    }
}

type Read<T> = fn(&Value) -> Result<T, InvalidId>;

fn as_room(value: &Value) -> Result<RoomId, InvalidId> {
    RoomId::new(value.as_u64().unwrap_or(0))
}

fn as_op(value: &Value) -> Result<OpId, InvalidId> {
    OpId::new(value.as_str().unwrap_or_default())
}

fn as_slug(value: &Value) -> Result<Slug, InvalidId> {
    Slug::new(value.as_str().unwrap_or_default())
}

fn as_shape(value: &Value) -> Result<ShapeId, InvalidId> {
    ShapeId::new(value.as_str().unwrap_or_default())
}

fn missing(name: &str) -> Refusal {
    Refusal::new(Code::BadMessage, format!("{name} is missing"))
}

fn must_be(name: &str, rule: &str) -> Refusal {
    Refusal::new(Code::BadMessage, format!("{name} must be {rule}"))
}
