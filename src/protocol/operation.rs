//! What a submit asks for.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::code::{Code, Refusal};
use crate::ids::ShapeId;

/// A JSON object that passed the strict reader (no duplicate keys, no U+0000,
/// finite numbers). Keys are kept sorted, so equal values have equal text.
pub type Object = serde_json::Map<String, Value>;

/// How often a shape has been changed; the first change makes it 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    pub fn from_i64(value: i64) -> Self {
        Self(u64::try_from(value).unwrap_or(0))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A JSON value beside the text it was sent as.
///
/// The text goes into the log and out again byte for byte; the value is what
/// the rules look at. So no number or string changes on its way, and a body is
/// never encoded twice. The text has no line breaks outside of strings, which
/// JSON escapes: it always fits one line.
#[derive(Debug, Clone, PartialEq)]
pub struct Exact<T> {
    pub value: T,
    pub json: Arc<str>,
}

impl<T: Serialize> Exact<T> {
    /// From a value that was made here.
    pub fn encode(value: T) -> Self {
        let json = serde_json::to_string(&value).expect("JSON values always encode");
        Self { value, json: json.into() }
    }
}

/// A shape as a client sent it: an object with a valid `id`. Whether the rest
/// fits the room's schema is decided where the schema is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub id: ShapeId,
    pub body: Exact<Object>,
}

impl Shape {
    /// Checks the one thing that every schema asks for: a valid `id`.
    pub fn new(body: Exact<Object>) -> Result<Self, Refusal> {
        let id = body.value.get("id").and_then(Value::as_str).unwrap_or_default();
        match ShapeId::new(id) {
            Ok(id) => Ok(Self { id, body }),
            Err(_) => Err(Refusal::new(
                Code::InvalidShape,
                "shape.id must be a string of 1 to 128 characters without control characters",
            )),
        }
    }
}

/// The body of a submit.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    ShapeAdd { shape: Shape },
    ShapeUpdate { shape_id: ShapeId, base: Option<Version>, patch: Exact<Object> },
    ShapePut { shape: Shape, base: Option<Version> },
    ShapeDelete { shape_id: ShapeId, base: Option<Version> },
    RoomClear,
    Message { data: Exact<Value> },
}

/// The `kind` of a submit and of the event it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    ShapeAdd,
    ShapeUpdate,
    ShapePut,
    ShapeDelete,
    RoomClear,
    Message,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::ShapeAdd,
        Self::ShapeUpdate,
        Self::ShapePut,
        Self::ShapeDelete,
        Self::RoomClear,
        Self::Message,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ShapeAdd => "shape.add",
            Self::ShapeUpdate => "shape.update",
            Self::ShapePut => "shape.put",
            Self::ShapeDelete => "shape.delete",
            Self::RoomClear => "room.clear",
            Self::Message => "message",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl Operation {
    pub fn kind(&self) -> Kind {
        match self {
            Self::ShapeAdd { .. } => Kind::ShapeAdd,
            Self::ShapeUpdate { .. } => Kind::ShapeUpdate,
            Self::ShapePut { .. } => Kind::ShapePut,
            Self::ShapeDelete { .. } => Kind::ShapeDelete,
            Self::RoomClear => Kind::RoomClear,
            Self::Message { .. } => Kind::Message,
        }
    }

    /// The one shape that this operation reads and writes, if it is of that kind.
    pub fn shape_id(&self) -> Option<&ShapeId> {
        match self {
            Self::ShapeAdd { shape } | Self::ShapePut { shape, .. } => Some(&shape.id),
            Self::ShapeUpdate { shape_id, .. } | Self::ShapeDelete { shape_id, .. } => Some(shape_id),
            Self::RoomClear | Self::Message { .. } => None,
        }
    }
}
