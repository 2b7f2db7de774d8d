//! Encoded messages, ready for a text frame.

use bytes::Bytes;

/// One or more messages as JSON text, joined by commas: `{…}` or `{…},{…}`.
///
/// Cheap to clone: an event is encoded once and shared by all who receive it.
/// The session's writer adds the brackets when a frame holds several messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json {
    text: Bytes,
    messages: usize,
}

impl Json {
    pub fn one(text: String) -> Self {
        Self { text: Bytes::from(text), messages: 1 }
    }

    /// Several messages in order. Empty input gives an empty text.
    pub fn join(parts: &[Self]) -> Self {
        if let [only] = parts {
            return only.clone();
        }
        let mut text = Vec::with_capacity(parts.iter().map(|p| p.text.len() + 1).sum());
        for part in parts.iter().filter(|part| part.messages > 0) {
            if !text.is_empty() {
                text.push(b',');
            }
            text.extend_from_slice(&part.text);
        }
        Self { text: Bytes::from(text), messages: parts.iter().map(|p| p.messages).sum() }
    }

    /// From bytes that [`Json::bytes`] gave, e.g. on another node.
    /// `None` if they are not UTF-8.
    pub fn from_bytes(text: Bytes, messages: usize) -> Option<Self> {
        std::str::from_utf8(&text).is_ok().then_some(Self { text, messages })
    }

    pub fn bytes(&self) -> &Bytes {
        &self.text
    }

    pub fn into_bytes(self) -> Bytes {
        self.text
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).expect("built from strings only")
    }

    pub fn len(&self) -> usize {
        self.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub fn messages(&self) -> usize {
        self.messages
    }
}
