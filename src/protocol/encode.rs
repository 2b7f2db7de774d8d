//! JSON text by hand: an object is written field by field, and what is encoded
//! already is spliced in as it is.

use std::fmt::Write;

use super::wire::Json;

/// Writes one object.
#[derive(Debug)]
pub struct ObjectWriter {
    text: String,
}

impl ObjectWriter {
    /// `{"type":"…"`. `capacity` is a guess at the whole length.
    pub fn message(message_type: &str, capacity: usize) -> Self {
        let mut text = String::with_capacity(capacity);
        text.push('{');
        Self { text }.string("type", message_type)
    }

    /// `{`.
    pub fn object(capacity: usize) -> Self {
        let mut text = String::with_capacity(capacity);
        text.push('{');
        Self { text }
    }

    pub fn string(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        push_string(&mut self.text, value);
        self
    }

    pub fn number(mut self, key: &str, value: impl Into<i128>) -> Self {
        self.key(key);
        push_number(&mut self.text, value.into());
        self
    }

    pub fn boolean(mut self, key: &str, value: bool) -> Self {
        self.key(key);
        self.text.push_str(if value { "true" } else { "false" });
        self
    }

    /// A value that is JSON text already.
    pub fn raw(mut self, key: &str, json: &str) -> Self {
        self.key(key);
        self.text.push_str(json);
        self
    }

    /// An array of values that are JSON text already.
    pub fn array<T: AsRef<str>>(mut self, key: &str, items: impl IntoIterator<Item = T>) -> Self {
        self.key(key);
        self.text.push('[');
        let start = self.text.len();
        for item in items {
            if self.text.len() > start {
                self.text.push(',');
            }
            self.text.push_str(item.as_ref());
        }
        self.text.push(']');
        self
    }

    /// The fields of an object that is JSON text already, `{…}`.
    pub fn fields(mut self, object: &str) -> Self {
        let inner = object.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        if let Some(inner) = inner.filter(|inner| !inner.trim().is_empty()) {
            self.comma();
            self.text.push_str(inner);
        }
        self
    }

    pub fn maybe<T>(self, value: Option<T>, write: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => write(self, value),
            None => self,
        }
    }

    pub fn end(self) -> String {
        let mut text = self.text;
        text.push('}');
        text
    }

    pub fn json(self) -> Json {
        Json::one(self.end())
    }

    fn comma(&mut self) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
    }

    /// Keys are our own words and need no escapes.
    fn key(&mut self, key: &str) {
        self.comma();
        self.text.push('"');
        self.text.push_str(key);
        self.text.push_str("\":");
    }
}

fn push_number(text: &mut String, value: i128) {
    let written = match u64::try_from(value) {
        Ok(small) => write!(text, "{small}"),
        Err(_) => write!(text, "{value}"),
    };
    written.expect("writing to a string cannot fail");
}

/// Appends `value` as a JSON string. Control characters, quotes and backslashes
/// are escaped, and nothing else.
pub fn push_string(text: &mut String, value: &str) {
    let needs_escape = |b: &u8| *b < 0x20 || *b == b'"' || *b == b'\\' || *b == 0x7f;
    text.push('"');
    if value.as_bytes().iter().any(needs_escape) {
        value.chars().for_each(|c| push_char(text, c));
    } else {
        text.push_str(value);
    }
    text.push('"');
}

fn push_char(text: &mut String, c: char) {
    match c {
        '"' => text.push_str("\\\""),
        '\\' => text.push_str("\\\\"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        '\0'..='\u{1f}' | '\u{7f}' => {
            write!(text, "\\u{:04x}", u32::from(c)).expect("writing to a string cannot fail");
        }
        _ => text.push(c),
    }
}
