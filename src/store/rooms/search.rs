//! Rooms by what their metadata contains, over all shards side by side.
//!
//! Guarantees: a room that may be seen is found once by whoever turns all pages,
//! as long as nothing changes. A shard that doesn't answer in time is named, and
//! the cursor remembers where it is to be asked again, so nothing of it is left
//! out. Each shard is asked in one statement.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::everywhere::{Merged, Part};
use super::row::columns;
use super::{RoomFacts, Rooms, RoomsError};
use crate::db::{Class, DbError, Sql, ToSql};
use crate::ids::{RoomId, ShardName, UserId};
use crate::routing::{Freshness, Reason, ServedBy, Shard};

/// If so many rooms match or fewer, they are looked up by what they contain and put
/// in order. If there are more, rooms are looked at in the order of their ids: with
/// so many that match, the next page is near.
const FEW: i64 = 5_000;

// Which way is taken is decided here and not by the planner, whose plan is for
// any value, and who takes ORDER BY with LIMIT for a reason to read all rooms in
// order. What may not be read by an index is written as an expression.
pub(super) static SEARCH: Sql = Sql {
    name: "rooms_by_metadata",
    text: concat!(
        "WITH few AS MATERIALIZED (
              SELECT id FROM room WHERE metadata @> $1::text::jsonb LIMIT $5::bigint + 1),
            open AS (
              SELECT id FROM few WHERE (SELECT count(*) FROM few) <= $5 AND id > $2
               UNION ALL
              (SELECT room.id FROM room JOIN slot_owner USING (slot)
                WHERE (SELECT count(*) FROM few) > $5
                  AND room.id > $2 AND (room.metadata || '{}') @> $1::text::jsonb
                  AND room.access <> 'invite' AND slot_owner.state = 'active'
                  AND NOT EXISTS (SELECT FROM room_member WHERE room_member.room_id = room.id
                                     AND room_member.user_id = $3 AND room_member.role = 'removed')
                ORDER BY room.id LIMIT $4)),
            mine AS (
              (SELECT room.id FROM room JOIN slot_owner USING (slot)
                WHERE room.owner = $3 AND room.id > $2 AND (room.metadata || '{}') @> $1::text::jsonb
                  AND slot_owner.state = 'active'
                ORDER BY room.id LIMIT $4)
               UNION ALL
              (SELECT room_member.room_id
                 FROM room_member JOIN room ON room.id = room_member.room_id JOIN slot_owner USING (slot)
                WHERE room_member.user_id = $3 AND room_member.room_id > $2 AND room_member.role <> 'removed'
                  AND (room.metadata || '{}') @> $1::text::jsonb AND slot_owner.state = 'active'
                ORDER BY room_member.room_id LIMIT $4))
         SELECT ",
        columns!(),
        " FROM (SELECT id FROM open UNION SELECT id FROM mine) AS found
          JOIN room ON room.id = found.id
          JOIN slot_owner ON slot_owner.slot = room.slot AND slot_owner.state = 'active'
          JOIN room_head ON room_head.room_id = room.id
          LEFT JOIN room_member ON room_member.room_id = room.id AND room_member.user_id = $3
         WHERE room.owner = $3
            OR CASE WHEN room_member.role IS NULL THEN room.access <> 'invite'
                    ELSE room_member.role <> 'removed' END
         ORDER BY room.id LIMIT $4"
    ),
};

/// What is looked for, by whom.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// A JSON object.
    pub metadata: &'a str,
    pub user: &'a UserId,
    pub limit: usize,
    pub freshness: Freshness,
    /// How long any shard may take.
    pub patience: Duration,
}

/// How far a search has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchCursor {
    /// Of every shard, the rooms up to this one have been told …
    after: i64,
    /// … but of these: they failed, and are behind.
    behind: Vec<(ShardName, i64)>,
}

#[derive(Debug)]
pub struct SearchPage {
    /// In the order of their ids.
    pub rooms: Vec<RoomFacts>,
    pub next: Option<SearchCursor>,
    /// Shards whose rooms are not among them.
    pub incomplete: Vec<ShardName>,
    /// The primary, if any shard's primary answered.
    pub served_by: ServedBy,
    pub fallback: Option<Reason>,
}

impl Rooms {
    /// An error only if no shard answers, or one answers what can't be read.
    pub async fn search(&self, search: Search<'_>, cursor: &SearchCursor) -> Result<SearchPage, RoomsError> {
        let ask = async |shard: &Shard| {
            let after = cursor.of(shard.name());
            let asked = timeout(search.patience, part(shard, search, after)).await;
            let late = |_| DbError::new(Class::Cancelled, SEARCH.name, "it takes too long").into();
            (shard.name().clone(), asked.map_err(late).flatten())
        };
        let answers = join_all(self.shards().map(ask)).await;
        let (mut parts, mut failed, mut error) = (Vec::new(), Vec::new(), None);
        for (shard, answer) in answers {
            match answer {
                Ok(part) => parts.push((shard, part)),
                Err(RoomsError::Database(error)) if error.class() == Class::BadInput => {
                    return Err(error.into());
                }
                Err(problem @ RoomsError::Corrupt { .. }) => return Err(problem),
                Err(problem) => {
                    tracing::warn!(%shard, error = %problem, "a shard is missing from a search");
                    failed.push(shard);
                    error = Some(problem);
                }
            }
        }
        match error {
            Some(error) if parts.is_empty() => Err(error),
            _ => Ok(merge(parts, failed, cursor, search.limit)),
        }
    }
}

async fn part(shard: &Shard, search: Search<'_>, after: i64) -> Result<Part, RoomsError> {
    let Search { metadata, user, limit, freshness, patience } = search;
    // One more than asked for tells whether there is another page.
    let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let user = user.as_str();
    let params: [&(dyn ToSql + Sync); 5] = [&metadata, &after, &user, &most, &FEW];
    Part::read(shard, freshness, Instant::now() + patience, &SEARCH, &params).await
}

fn merge(
    answered: Vec<(ShardName, Part)>,
    failed: Vec<ShardName>,
    cursor: &SearchCursor,
    limit: usize,
) -> SearchPage {
    let (answered, parts): (Vec<_>, Vec<_>) = answered.into_iter().unzip();
    let Merged { rooms, more, served_by, fallback } = Merged::of(parts, limit);
    let last = rooms.last().map(|facts| facts.room.as_i64());
    let next = cursor.next(&answered, &failed, last, more);
    SearchPage { rooms, next, incomplete: failed, served_by, fallback }
}

impl SearchCursor {
    /// After which room a shard is asked.
    fn of(&self, shard: &ShardName) -> i64 {
        self.behind.iter().find(|(name, _)| name == shard).map_or(self.after, |(_, after)| *after)
    }

    /// After a page that ends with `last`; `more` if shards that answered have
    /// more than what is on it.
    fn next(
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
        // What was behind has come as far as the page.
        let answered = answered.iter().filter(|_| more).map(|shard| (shard, self.of(shard).max(last)));
        let failed = failed.iter().map(|shard| (shard, self.of(shard)));
        let behind = answered.chain(failed).filter(|(_, place)| *place < after);
        Some(Self { after, behind: behind.map(|(shard, place)| (shard.clone(), place)).collect() })
    }
}

/// `after`, and `~shard.place` for each that is behind.
impl fmt::Display for SearchCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.after.fmt(f)?;
        self.behind.iter().try_for_each(|(shard, place)| write!(f, "~{shard}.{place}"))
    }
}

/// The text is no cursor of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCursor;

impl FromStr for SearchCursor {
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

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
