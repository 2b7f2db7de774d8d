//! One text frame to the messages in it.

use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::client::{Fields, Inbound};
use super::code::{CloseCode, Code, Refusal};
use super::strict;

/// What one frame may hold. 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    pub frame_bytes: usize,
    pub message_bytes: usize,
    /// The message object is depth 1.
    pub json_depth: usize,
}

/// The most messages a frame may hold.
pub const FRAME_ITEMS: usize = 256;

/// Reads a frame: the messages in order, each alone, good or refused. `Err`
/// ends the session.
///
/// The frame is split without looking inside its items; so one item with, say,
/// a duplicate key spoils only itself, and only text that isn't JSON at all
/// spoils the frame, with one `bad_json`.
pub fn read_frame(text: &str, limits: FrameLimits) -> Result<Vec<Inbound>, CloseCode> {
    if limits.frame_bytes > 0 && text.len() > limits.frame_bytes {
        return Err(CloseCode::TooBig);
    }
    match text.trim_start().as_bytes().first() {
        Some(b'[') => read_array(text, limits),
        Some(b'{') => Ok(vec![read_message(text, None, limits)]),
        _ => Ok(vec![match serde_json::from_str::<&RawValue>(text) {
            Ok(_) => not_an_object(None),
            Err(error) => Inbound::refused(None, strict::bad_json(&error)),
        }]),
    }
}

fn read_array(text: &str, limits: FrameLimits) -> Result<Vec<Inbound>, CloseCode> {
    let mut json = serde_json::Deserializer::from_str(text);
    let items = json.deserialize_seq(Items).and_then(|items| json.end().map(|()| items));
    match items {
        Ok(items) => Ok(items
            .into_iter()
            .enumerate()
            .map(|(index, item)| match item.get().as_bytes().first() {
                Some(b'{') => read_message(item.get(), Some(index), limits),
                _ => not_an_object(Some(index)),
            })
            .collect()),
        Err(error) if error.to_string().starts_with(TOO_MANY) => Err(CloseCode::TooBig),
        Err(error) => Ok(vec![Inbound::refused(None, strict::bad_json(&error))]),
    }
}

/// Reads one message object, a submit of the HTTP interface among them.
pub fn read_message(text: &str, index: Option<usize>, limits: FrameLimits) -> Inbound {
    let depth = if limits.json_depth == 0 { usize::MAX } else { limits.json_depth };
    let fields = match Fields::split(text, depth) {
        Ok(fields) => fields,
        Err(refusal) => return Inbound::refused(index, refusal),
    };
    if limits.message_bytes > 0 && text.len() > limits.message_bytes {
        let refusal = Refusal::new(
            Code::TooLarge,
            format!("a message may have {} bytes; this one has {}", limits.message_bytes, text.len()),
        );
        return fields.refuse(index, refusal);
    }
    fields.read(index)
}

fn not_an_object(index: Option<usize>) -> Inbound {
    Inbound::refused(index, Refusal::new(Code::BadMessage, "a message is a JSON object"))
}

const TOO_MANY: &str = "too many messages";

/// The items of an array as text; stops at the first one too many.
struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = array.next_element::<&RawValue>()? {
            if items.len() == FRAME_ITEMS {
                return Err(A::Error::custom(TOO_MANY));
            }
            items.push(item);
        }
        Ok(items)
    }
}
