//! What a client of the first protocol says.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::Translator;
use crate::ids::{OpId, RoomId, ShapeId};
use crate::log::app_shapes;
use crate::protocol::{
    ClientMessage, Code, Exact, FrameLimits, Inbound, Join, Object, Operation, Refusal, Refused, RoomRef,
    Shape, strict,
};

impl Translator {
    /// One frame is one message.
    pub fn incoming(&mut self, text: &str, limits: FrameLimits) -> Inbound {
        let message = self.read(text, limits);
        Inbound { id: None, index: None, message }
    }

    fn read(&mut self, text: &str, limits: FrameLimits) -> Result<ClientMessage, Refused> {
        let mut heard = Heard::default();
        self.read_fields(text, limits, &mut heard).map_err(|refusal| Refused {
            of: heard.message_type,
            room: heard.room,
            op: None,
            refusal,
        })
    }

    fn read_fields(
        &mut self,
        text: &str,
        limits: FrameLimits,
        heard: &mut Heard,
    ) -> Result<ClientMessage, Refusal> {
        if limits.message_bytes > 0 && text.len() > limits.message_bytes {
            let message =
                format!("a message may have {} bytes; this one has {}", limits.message_bytes, text.len());
            return Err(Refusal::new(Code::TooLarge, message));
        }
        let depth = if limits.json_depth == 0 { usize::MAX } else { limits.json_depth };
        let fields = match strict::value(text, depth)? {
            Value::Object(fields) => fields,
            _ => return Err(Refusal::new(Code::BadMessage, "a message is a JSON object")),
        };
        let message_type = fields.get("type").and_then(Value::as_str).unwrap_or_default();
        heard.message_type = Some(message_type.chars().take(64).collect());
        if !["join_room", "leave_room", "chat", "delete_shape"].contains(&message_type) {
            return Err(Refusal::new(Code::UnknownType, "unknown message type"));
        }
        let room = self.room(&fields)?;
        heard.room = Some(room);
        match message_type {
            "join_room" => Ok(ClientMessage::Join(Join {
                room: RoomRef::Id(room),
                password: None,
                invite: None,
                from: None,
            })),
            "leave_room" => Ok(ClientMessage::Leave { room }),
            "chat" => Ok(submit(room, fresh_op(), chat(&fields, depth)?)),
            _ => self.delete(room, &fields),
        }
    }

    fn delete(&mut self, room: RoomId, fields: &Object) -> Result<ClientMessage, Refusal> {
        let shape_id = fields
            .get("shapeId")
            .and_then(id_text)
            .and_then(|id| ShapeId::new(&id).ok())
            .ok_or_else(|| Refusal::new(Code::BadMessage, "shapeId must be a shape's id"))?;
        let op = fresh_op();
        self.deletes.insert(op.clone(), shape_id.clone());
        Ok(submit(room, op, Operation::ShapeDelete { shape_id, base: None }))
    }

    /// A number or a numeric string; `leave_room` may call it `room`.
    fn room(&mut self, fields: &Object) -> Result<RoomId, Refusal> {
        let name = fields.get("roomId").or_else(|| fields.get("room"));
        let number = match name {
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        match (name, number.map(RoomId::new)) {
            (Some(name), Some(Ok(room))) => {
                self.name(room, &name.to_string());
                Ok(room)
            }
            _ => Err(Refusal::new(Code::BadMessage, "roomId must be a number from 1 to 2^53-1")),
        }
    }
}

/// What is known of a message before all of it is read.
#[derive(Default)]
struct Heard {
    message_type: Option<String>,
    room: Option<RoomId>,
}

fn submit(room: RoomId, op: OpId, operation: Operation) -> ClientMessage {
    ClientMessage::Submit { room, op, operation }
}

/// Ordered by time, which keeps the index on them local.
fn fresh_op() -> OpId {
    OpId::new(&uuid::Uuid::now_v7().simple().to_string()).expect("32 hexadecimal digits are an op")
}

/// A shape if the message holds one, else a text.
fn chat(fields: &Object, depth: usize) -> Result<Operation, Refusal> {
    let Some(Value::String(message)) = fields.get("message") else {
        return Err(Refusal::new(Code::BadMessage, "message must be a string"));
    };
    match shape(message, depth)? {
        Some(shape) => Ok(Operation::ShapePut { shape, base: None }),
        None => Ok(Operation::Message { data: Exact::encode(json!({ "text": message })) }),
    }
}

#[derive(serde::Deserialize)]
struct Drawing<'a> {
    #[serde(borrow)]
    shape: &'a RawValue,
}

/// The shape in `{"shape":{…}}`, with an id of its own if it came without. A
/// message that isn't such an object is a text and nothing is wrong with it.
fn shape(message: &str, depth: usize) -> Result<Option<Shape>, Refusal> {
    let Ok(drawing) = serde_json::from_str::<Drawing<'_>>(message) else { return Ok(None) };
    if !drawing.shape.get().starts_with('{') {
        return Ok(None);
    }
    // The message object is depth 1, so the shape stands where a shape stands
    // in `submit`.
    let value = strict::object(drawing.shape.get(), depth.saturating_sub(1))?;
    let json = strict::compact(drawing.shape.get()).into();
    let body = match value.get("id") {
        Some(Value::String(_)) => Exact { value, json },
        other => {
            let id = other.and_then(id_text).unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            Exact::encode(with_id(value, id))
        }
    };
    let in_schema = app_shapes::to_schema(&body.value);
    Shape::new(in_schema.map_or(body, Exact::encode)).map(Some)
}

fn with_id(mut shape: Map<String, Value>, id: String) -> Map<String, Value> {
    shape.insert("id".to_owned(), Value::String(id));
    shape
}

/// Old clients number their shapes now and then.
fn id_text(id: &Value) -> Option<String> {
    match id {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
