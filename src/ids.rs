//! Newtypes for everything that names something. They own the format rules of
//! the wire (which characters, which lengths) and import nothing of ours.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// Why a text or number is not an id. The message is fit for the wire.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} must be {rule}")]
pub struct InvalidId {
    what: &'static str,
    rule: &'static str,
}

/// The largest integer that every JSON reader keeps exact: 2^53 − 1.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// A random integer, 1 … 2^53−1.
macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            pub fn new(id: u64) -> Result<Self, InvalidId> {
                if (1..=MAX_SAFE_INTEGER).contains(&id) {
                    Ok(Self(id))
                } else {
                    Err(InvalidId { what: $what, rule: "an integer from 1 to 2^53-1" })
                }
            }

            /// A fresh id, not guessable by counting.
            pub fn random() -> Self {
                Self(rand::random_range(1..=MAX_SAFE_INTEGER))
            }

            pub fn get(self) -> u64 {
                self.0
            }

            /// For a PostgreSQL `bigint`; lossless because ids stay below 2^53.
            pub fn as_i64(self) -> i64 {
                self.0 as i64
            }

            /// From a `bigint` that was written by `as_i64`.
            pub fn from_i64(id: i64) -> Result<Self, InvalidId> {
                Self::new(u64::try_from(id).unwrap_or(0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text.parse().unwrap_or(0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(u64::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

number_id!(
    /// A room.
    RoomId,
    "room"
);

number_id!(
    /// An invite to a room.
    InviteId,
    "invite"
);

/// One of the 16 384 units of placement. A room's slot never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u16);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text id: cheap to clone, checked when made.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { what: $what, rule: $rule })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A person or machine: the token's `sub`.
    UserId,
    "user",
    "1 to 64 of A-Z a-z 0-9 _ . : @ | -",
    |s| (1..=64).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:@|-".contains(&b))
);

text_id!(
    /// A client-made operation id, unique per room and user.
    OpId,
    "op",
    "1 to 64 of A-Z a-z 0-9 _ -",
    |s| (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
);

text_id!(
    /// A shape within its room.
    ShapeId,
    "shape id",
    "1 to 128 characters without control characters",
    |s| (1..=128).contains(&s.chars().count()) && !s.chars().any(char::is_control)
);

text_id!(
    /// A room's name for people.
    Slug,
    "slug",
    "3 to 63 of a-z 0-9 -, starting with a letter or digit",
    |s| (3..=63).contains(&s.len())
        && !s.starts_with('-')
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

text_id!(
    /// One live connection, unique over all nodes and time.
    SessionId,
    "session",
    "1 to 64 of A-Z a-z 0-9 _ -",
    |s| (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
);

text_id!(
    /// A gateway process, unique among those that run.
    NodeName,
    "node",
    "1 to 64 of A-Z a-z 0-9 _ . -",
    |s| (1..=64).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
);

text_id!(
    /// A shard: one PostgreSQL cluster and its endpoints.
    ShardName,
    "shard",
    "1 to 64 of A-Z a-z 0-9 _ -",
    |s| (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
);

impl Slug {
    /// Digits alone name a room by its id, wherever a room may be named by either.
    /// Rooms that were made before that was a rule may have such a slug.
    pub fn is_digits(&self) -> bool {
        self.0.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// The id that it reads as.
    pub fn as_id(&self) -> Option<RoomId> {
        self.0.parse().ok().filter(|_| self.is_digits())
    }
}

impl SessionId {
    /// 60 random bits: enough to be unique among all sessions ever alive.
    pub fn random() -> Self {
        Self(format!("{:015x}", rand::random::<u64>() >> 4).into())
    }
}
