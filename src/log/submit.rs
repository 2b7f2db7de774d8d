//! A submit from what was read off the wire, and its digest.

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use super::{Authority, Digest, OpKey, Submit};
use crate::ids::{OpId, RoomId, UserId};
use crate::protocol::{Kind, Object, ObjectWriter, Operation, Version};

impl Submit {
    pub fn new(room: RoomId, user: UserId, authority: Authority, op: OpId, operation: Operation) -> Self {
        let body = body(&operation).into();
        let digest = Digest::of(&operation);
        Self { room, op, user, authority, operation, body, digest }
    }

    pub fn op_key(&self) -> OpKey {
        (self.room, self.user.clone(), self.op.clone())
    }
}

/// The fields of the kind as one object, keys sorted, values as sent.
fn body(operation: &Operation) -> String {
    let with_base =
        |w: ObjectWriter, base: &Option<Version>| w.maybe(*base, |w, base| w.number("base", base.0));
    match operation {
        Operation::ShapeAdd { shape } => {
            ObjectWriter::object(shape.body.json.len() + 16).raw("shape", &shape.body.json)
        }
        Operation::ShapePut { shape, base } => {
            let writer = ObjectWriter::object(shape.body.json.len() + 40);
            with_base(writer, base).raw("shape", &shape.body.json)
        }
        Operation::ShapeUpdate { shape_id, base, patch } => {
            let writer = ObjectWriter::object(patch.json.len() + 80);
            with_base(writer, base).raw("patch", &patch.json).string("shape_id", shape_id.as_str())
        }
        Operation::ShapeDelete { shape_id, base } => {
            with_base(ObjectWriter::object(80), base).string("shape_id", shape_id.as_str())
        }
        Operation::RoomClear => ObjectWriter::object(2),
        Operation::Message { data } => ObjectWriter::object(data.json.len() + 12).raw("data", &data.json),
    }
    .end()
}

impl Digest {
    /// Equal for equal JSON values: the order of keys, whitespace, escapes and
    /// the difference of 1 and 1.0 don't count.
    ///
    /// It is kept in the log, so this form never changes; a test pins it.
    pub fn of(operation: &Operation) -> Self {
        let mut form = Canonical { bytes: Vec::with_capacity(1024) };
        form.kind(operation.kind());
        match operation {
            Operation::ShapeAdd { shape } => form.object(&shape.body.value),
            Operation::ShapePut { shape, base } => {
                form.base(*base);
                form.object(&shape.body.value);
            }
            Operation::ShapeUpdate { shape_id, base, patch } => {
                form.base(*base);
                form.text(shape_id.as_str());
                form.object(&patch.value);
            }
            Operation::ShapeDelete { shape_id, base } => {
                form.base(*base);
                form.text(shape_id.as_str());
            }
            Operation::RoomClear => {}
            Operation::Message { data } => form.value(&data.value),
        }
        Self(xxh3_128(&form.bytes).to_be_bytes())
    }
}

/// Values as bytes, each with a tag, and lengths before contents: no two
/// different values share a form.
struct Canonical {
    bytes: Vec<u8>,
}

impl Canonical {
    fn kind(&mut self, kind: Kind) {
        self.text(kind.as_str());
    }

    fn base(&mut self, base: Option<Version>) {
        match base {
            None => self.bytes.push(b'n'),
            Some(base) => self.integer(i128::from(base.0)),
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.bytes.push(b'n'),
            Value::Bool(false) => self.bytes.push(b'f'),
            Value::Bool(true) => self.bytes.push(b't'),
            Value::Number(number) => self.number(number),
            Value::String(text) => self.text(text),
            Value::Array(items) => {
                self.bytes.push(b'[');
                self.length(items.len());
                items.iter().for_each(|item| self.value(item));
            }
            Value::Object(object) => self.object(object),
        }
    }

    fn object(&mut self, object: &Object) {
        self.bytes.push(b'{');
        self.length(object.len());
        for (key, value) in object {
            self.text(key);
            self.value(value);
        }
    }

    fn number(&mut self, number: &serde_json::Number) {
        if let Some(integer) = number.as_u64() {
            self.integer(integer.into());
        } else if let Some(integer) = number.as_i64() {
            self.integer(integer.into());
        } else {
            self.double(number.as_f64().unwrap_or_default());
        }
    }

    /// A whole number is the same value however it is written.
    fn double(&mut self, double: f64) {
        const WHOLE: f64 = 1e30;
        if double.abs() < WHOLE && double.fract() == 0.0 {
            self.integer(double as i128);
        } else {
            self.bytes.push(b'd');
            self.bytes.extend_from_slice(&double.to_be_bytes());
        }
    }

    fn integer(&mut self, integer: i128) {
        self.bytes.push(b'i');
        self.bytes.extend_from_slice(&integer.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b's');
        self.length(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn length(&mut self, length: usize) {
        self.bytes.extend_from_slice(&(length as u64).to_be_bytes());
    }
}
