//! Events as they go out.

use super::Event;
use crate::protocol::{Json, ObjectWriter};

impl Event {
    /// The `event` message of the wire; the body's fields are spliced in as
    /// they were sent.
    pub fn to_json(&self) -> Json {
        ObjectWriter::message("event", self.body.len() + 240)
            .number("room", self.room.get())
            .number("epoch", self.position.epoch.0)
            .number("seq", self.position.seq.0)
            .string("kind", self.kind.as_str())
            .string("op", self.op.as_str())
            .string("user", self.user.as_str())
            .number("at", self.at.0)
            .fields(&self.body)
            .maybe(self.version, |w, version| w.number("version", version.0))
            .json()
    }
}
