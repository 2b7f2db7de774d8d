//! What is wrong with a configuration, each with its place, never with a value
//! that could be a secret.

use std::fmt;

use figment::error::{Actual, Kind};

use super::tree::Origins;

/// Everything found wrong at once, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub(super) Vec<String>);

impl ConfigError {
    pub(super) fn one(problem: impl Into<String>) -> Self {
        Self(vec![problem.into()])
    }

    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// One line about a key: its place, what is wrong, what to do.
pub(super) fn explain(error: &figment::Error, origins: &Origins) -> String {
    let key = error.path.join(".");
    let place = origins.place(&error.path);
    match &error.kind {
        Kind::UnknownField(name, known) => match nearest(name, known) {
            Some(nearest) => format!("{place}: unknown key {key}; did you mean {nearest}?"),
            None => format!("{place}: unknown key {key}; known here: {}", known.join(", ")),
        },
        Kind::MissingField(name) => {
            let mut path = error.path.clone();
            path.push(name.to_string());
            let variable = path.join("__").to_uppercase();
            format!("{} is missing: set it in the file or as ROOMGATE__{variable}", path.join("."))
        }
        Kind::InvalidType(actual, expected) => {
            format!("{place}: {key} must be {}, not {}", name_of(expected), kind_of(actual))
        }
        Kind::UnknownVariant(_, known) => format!("{place}: {key} must be one of {}", known.join(", ")),
        Kind::InvalidValue(_, expected) => format!("{place}: {key} must be {}", name_of(expected)),
        Kind::Message(message) => format!("{place}: {key}: {message}"),
        _ => format!("{place}: {key} can't be read as what it should be"),
    }
}

/// The key that was probably meant.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|each| (strsim::damerau_levenshtein(name, each), *each));
    let (distance, best) = scored.min()?;
    (distance <= best.len() / 2).then_some(best)
}

/// serde's names of types, for a person.
fn name_of(expected: &str) -> String {
    match expected {
        "u16" => "an integer from 0 to 65535".to_owned(),
        "u32" => "an integer from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "an integer of 0 or more".to_owned(),
        "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        other if other.starts_with("struct ") => "a section".to_owned(),
        other => other.to_owned(),
    }
}

/// Not the value itself: it may be a password without its quotes.
fn kind_of(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) => "an integer",
        Actual::Float(_) => "a number with a fraction",
        Actual::Char(_) | Actual::Str(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a section",
        _ => "this",
    }
}
