//! How far a list over all shards has come.

use std::fmt;
use std::str::FromStr;

use crate::ids::{RoomId, ShardName};

/// The default is the beginning of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListCursor {
    /// Of every shard, the rooms up to this one have been listed …
    after: i64,
    /// … except on these shards: they failed, and are behind.
    behind: Vec<(ShardName, i64)>,
}

impl ListCursor {
    /// After which room a shard is asked.
    pub(super) fn of(&self, shard: &ShardName) -> i64 {
        self.behind.iter().find(|(name, _)| name == shard).map_or(self.after, |(_, after)| *after)
    }

    /// The cursor behind a page that ends with `last`. `more`: the shards that
    /// answered have rooms beyond the page.
    pub(super) fn next(
        &self,
        answered: &[ShardName],
        failed: &[ShardName],
        last: Option<i64>,
        more: bool,
    ) -> Option<Self> {
        if !more && failed.is_empty() {
            return None;
        }
        let last = last.unwrap_or(0);
        let after = self.after.max(last);
        // A shard that was behind has come as far as the page.
        let answered = answered.iter().filter(|_| more).map(|shard| (shard, self.of(shard).max(last)));
        let failed = failed.iter().map(|shard| (shard, self.of(shard)));
        let behind = answered.chain(failed).filter(|(_, place)| *place < after);
        Some(Self { after, behind: behind.map(|(shard, place)| (shard.clone(), place)).collect() })
    }
}

/// `after`, and `~shard.place` for each shard that is behind.
impl fmt::Display for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.after.fmt(f)?;
        self.behind.iter().try_for_each(|(shard, place)| write!(f, "~{shard}.{place}"))
    }
}

/// The text is no cursor of a list over all shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCursor;

impl FromStr for ListCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let place = |text: &str| match text.parse::<i64>() {
            Ok(place) if place == 0 || RoomId::from_i64(place).is_ok() => Ok(place),
            _ => Err(InvalidCursor),
        };
        let mut parts = text.split('~');
        let after = place(parts.next().unwrap_or_default())?;
        let behind = parts.map(|part| {
            let (shard, at) = part.split_once('.').ok_or(InvalidCursor)?;
            Ok((ShardName::new(shard).map_err(|_| InvalidCursor)?, place(at)?))
        });
        Ok(Self { after, behind: behind.collect::<Result<_, _>>()? })
    }
}
