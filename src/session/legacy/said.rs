//! What the session says, as far as the translation cares: our own messages,
//! read back. Shapes stay the text they are.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ids::{OpId, RoomId};
use crate::protocol::Json;

#[derive(Debug, Deserialize)]
pub struct Said<'a> {
    #[serde(rename = "type", borrow)]
    pub message_type: Cow<'a, str>,
    pub room: Option<RoomId>,
    pub op: Option<OpId>,
    #[serde(borrow)]
    pub kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub shape: Option<&'a RawValue>,
    #[serde(borrow)]
    pub shape_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub patch: Option<&'a RawValue>,
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub shapes: Vec<Item<'a>>,
    #[serde(borrow, default)]
    pub events: Vec<Self>,
    pub seq: Option<u64>,
    pub page: Option<u64>,
    #[serde(default)]
    pub last: bool,
}

/// One shape of a snapshot.
#[derive(Debug, Deserialize)]
pub struct Item<'a> {
    #[serde(borrow)]
    pub shape: &'a RawValue,
}

/// The messages of `json`, in order.
pub fn read(json: &Json) -> Vec<Said<'_>> {
    let mut messages = Vec::with_capacity(json.messages());
    let mut rest = json.as_str();
    while !rest.is_empty() {
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Said<'_>>();
        match stream.next() {
            Some(Ok(said)) => messages.push(said),
            Some(Err(error)) => {
                tracing::error!(%error, "a message of our own can't be read back");
                return messages;
            }
            None => return messages,
        }
        rest = rest[stream.byte_offset()..].trim_start_matches(',');
    }
    messages
}
