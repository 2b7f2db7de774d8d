//! Text to JSON values, refusing what cannot come back as the same value or
//! what readers disagree about: duplicate keys, U+0000, lone surrogates,
//! numbers that are not finite doubles, integers beyond ±(2^64−1), and nesting
//! beyond a limit. Never recurses deeper than the limit (at most 128).

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::map::Entry;
use serde_json::value::RawValue;

use super::code::{Code, Refusal};
use super::operation::Object;

/// The value of `text`, whose outermost object or array is at depth 1 of
/// `depth`.
pub fn value(text: &str, depth: usize) -> Result<Value, Refusal> {
    let notes = Notes { nul: text.contains(NUL), ..Notes::default() };
    let mut json = serde_json::Deserializer::from_str(text);
    let value = Reader { notes: &notes, depth }
        .deserialize(&mut json)
        .and_then(|value| json.end().map(|()| value))
        .map_err(|error| notes.refusal(&error))?;
    if notes.large.get() {
        integers_in_range(text)?;
    }
    Ok(value)
}

/// As [`value`], for text that must be an object.
pub fn object(text: &str, depth: usize) -> Result<Object, Refusal> {
    match value(text, depth)? {
        Value::Object(object) => Ok(object),
        _ => Err(Refusal::new(Code::BadMessage, "a JSON object is needed here")),
    }
}

/// The entries of an object as they are written, in order, their values not
/// looked into: duplicates and what else is refused may be among them.
pub fn entries(text: &str) -> serde_json::Result<Vec<(Cow<'_, str>, &RawValue)>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let entries = json.deserialize_map(Entries)?;
    json.end()?;
    Ok(entries)
}

/// `text`, which is JSON, without whitespace between its tokens.
pub fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for part in (Tokens { rest: text }) {
        match part {
            Token::Text(text) => out.push_str(text),
            Token::Other(text) => out.extend(text.split([' ', '\n', '\r', '\t'])),
        }
    }
    out
}

pub(super) fn bad_json(error: &serde_json::Error) -> Refusal {
    Refusal::new(Code::BadJson, error.to_string())
}

/// The only way to write U+0000 in JSON.
const NUL: &str = "\\u0000";

/// What a visitor saw that its error or value cannot carry.
#[derive(Default)]
struct Notes {
    fault: RefCell<Option<Refusal>>,
    /// Some string may have a U+0000.
    nul: bool,
    /// A double beyond the `i64`s: perhaps an integer out of range.
    large: Cell<bool>,
}

impl Notes {
    fn fail<E: Error>(&self, code: Code, message: String) -> E {
        self.fault.replace(Some(Refusal::new(code, message)));
        E::custom("refused")
    }

    fn refusal(&self, error: &serde_json::Error) -> Refusal {
        if let Some(fault) = self.fault.take() {
            return fault;
        }
        let text = error.to_string();
        if text.starts_with("recursion limit") {
            return Refusal::new(Code::TooDeep, "nested deeper than any limit allows");
        }
        bad_json(error)
    }
}

#[derive(Clone, Copy)]
struct Reader<'n> {
    notes: &'n Notes,
    /// How many levels of nesting may still be opened.
    depth: usize,
}

impl Reader<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth, ..self }),
            None => Err(self.notes.fail(Code::TooDeep, "nested too deeply".to_owned())),
        }
    }

    fn text<E: Error>(self, text: String) -> Result<String, E> {
        if self.notes.nul && text.contains('\0') {
            return Err(self.notes.fail(Code::BadJson, "U+0000 is not allowed".to_owned()));
        }
        Ok(text)
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        if value.abs() >= 9_223_372_036_854_775_808.0 {
            self.notes.large.set(true);
        }
        serde_json::Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| self.notes.fail(Code::BadJson, "number out of range".to_owned()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.text(text.to_owned()).map(Value::String)
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        self.text(text).map(Value::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Object::new();
        while let Some(key) = entries.next_key::<String>()? {
            let key = self.text(key)?;
            let value = entries.next_value_seed(inner)?;
            match object.entry(key) {
                Entry::Vacant(free) => free.insert(value),
                Entry::Occupied(known) => {
                    return Err(self.notes.fail(Code::BadJson, duplicate_key(known.key())));
                }
            };
        }
        Ok(Value::Object(object))
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::with_capacity(8);
        while let Some((Key(key), value)) = map.next_entry()? {
            entries.push((key, value));
        }
        Ok(entries)
    }
}

/// A key, borrowed where it holds no escape.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(text.to_owned())))
    }
}

pub(super) fn duplicate_key(key: &str) -> String {
    let shown: String = key.chars().take(40).collect();
    format!("duplicate key {shown:?}")
}

/// Integers that are written with digits only must be within ±(2^64−1).
fn integers_in_range(json: &str) -> Result<(), Refusal> {
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
    for token in (Tokens { rest: json }) {
        let Token::Other(text) = token else { continue };
        for number in text.split(|c| !is_number(c)) {
            let digits = number.strip_prefix('-').unwrap_or(number);
            let is_integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            if is_integer && digits.parse::<u64>().is_err() {
                return Err(Refusal::new(Code::BadJson, "integers must be within ±(2^64-1)"));
            }
        }
    }
    Ok(())
}

/// Splits JSON into its strings, quotes included, and what stands between.
struct Tokens<'a> {
    rest: &'a str,
}

enum Token<'a> {
    Text(&'a str),
    Other(&'a str),
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let length = match self.rest.find('"') {
            None if self.rest.is_empty() => return None,
            None => self.rest.len(),
            Some(0) => {
                let (text, rest) = self.rest.split_at(string_length(self.rest.as_bytes()));
                self.rest = rest;
                return Some(Token::Text(text));
            }
            Some(quote) => quote,
        };
        let (other, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(Token::Other(other))
    }
}

/// The length of the JSON string that `bytes` start with.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Code {
        value(text, 32).expect_err(text).code
    }

    #[test]
    fn what_readers_disagree_about_is_bad_json() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"[{"x":{"b":1,"c":2,"b":3}}]"#,
            r#""\u0000""#,
            r#"{"\u0000":1}"#,
            "\"\0\"",
            r#""\ud800""#,
            r#""\udc00x""#,
            r#"{"\ud800":1}"#,
            r#""\ud800\u0041""#,
            "1e999",
            "-1e999",
            "NaN",
            "Infinity",
            "18446744073709551616",
            "-18446744073709551616",
            "[1,100000000000000000000000]",
            r#"{"a":"18446744073709551616","b":18446744073709551616}"#,
            "01",
            "1.",
            "+1",
            "[1,]",
            "{\"a\":1,}",
            "'a'",
            "\"\n\"",
            "[1] 2",
            "",
        ] {
            assert_eq!(refused(text), Code::BadJson, "{text}");
        }
    }

    #[test]
    fn numbers_at_the_limits_are_kept() {
        assert_eq!(value("18446744073709551615", 1).unwrap().as_u64(), Some(u64::MAX));
        assert_eq!(value("-9223372036854775808", 1).unwrap().as_i64(), Some(i64::MIN));
        assert!(value("-18446744073709551615", 1).unwrap().is_f64());
        assert!(value("1e300", 1).unwrap().is_f64());
        assert!(value("18446744073709551616.0", 1).unwrap().is_f64());
        assert!(value(r#"{"a":"18446744073709551616\"","b":1e300}"#, 1).is_ok());
        let zero = value("-0", 1).unwrap().as_f64().unwrap();
        assert_eq!(zero.to_bits(), (-0.0_f64).to_bits());
        assert_eq!(value("9007199254740993", 1).unwrap().as_u64(), Some((1 << 53) + 1));
    }

    #[test]
    fn the_outermost_container_is_depth_one() {
        assert!(value("1", 0).is_ok());
        assert!(value("[]", 1).is_ok());
        assert!(value(r#"{"a":[1]}"#, 2).is_ok());
        assert_eq!(value("[]", 0).unwrap_err().code, Code::TooDeep);
        assert_eq!(value(r#"{"a":[[]]}"#, 2).unwrap_err().code, Code::TooDeep);
        let abyss = "[".repeat(100_000);
        assert_eq!(refused(&abyss), Code::TooDeep);
        assert_eq!(value(&abyss, usize::MAX).unwrap_err().code, Code::TooDeep);
    }

    #[test]
    fn strings_come_through_byte_for_byte() {
        for text in
            ["שלום עולם", "👩‍👩‍👧‍👦", "<script>alert(1)</script>", "'; DROP TABLE room;--", "\u{202e}x", "\u{7f}"]
        {
            let json = serde_json::to_string(text).unwrap();
            assert_eq!(value(&json, 1).unwrap().as_str(), Some(text));
        }
        assert_eq!(value(r#""\ud83d\ude00""#, 1).unwrap().as_str(), Some("😀"));
    }

    #[test]
    fn compact_keeps_strings_and_numbers_as_written() {
        let text = "{ \"a b\" :\n[1.50,\t\"x \\\" \\\\\" , 1e2]\r\n}";
        assert_eq!(compact(text), "{\"a b\":[1.50,\"x \\\" \\\\\",1e2]}");
    }
}
