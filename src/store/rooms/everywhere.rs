//! Lists of rooms that go over all shards side by side.
//!
//! Guarantees: a room that belongs in the list is on one page, as long as nothing
//! changes. A shard that doesn't answer in time is named, and the cursor remembers
//! where the shard is to be asked again, so none of its rooms is left out. Each
//! shard is asked in one statement.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::cursor::ListCursor;
use super::{RoomFacts, Rooms, RoomsError};
use crate::db::{Class, DbError, Row, Sql, ToSql};
use crate::ids::{ShardName, UserId};
use crate::routing::{Freshness, Reason, ServedBy, Shard, Target};

/// The reader of a list, and how much of the list is read.
#[derive(Debug, Clone, Copy)]
pub struct List<'a> {
    pub user: &'a UserId,
    pub limit: usize,
    pub freshness: Freshness,
    /// How long any shard may take.
    pub patience: Duration,
}

/// Rooms in the order of their ids.
#[derive(Debug)]
pub struct RoomPage {
    pub rooms: Vec<RoomFacts>,
    /// Where the next page begins; none if this was the last.
    pub next: Option<ListCursor>,
    /// Shards whose rooms are not among them.
    pub incomplete: Vec<ShardName>,
    /// The primary, if any shard's primary answered.
    pub served_by: ServedBy,
    pub fallback: Option<Reason>,
}

/// A statement that answers the columns of rooms in the order of their ids. Its
/// parameters are the user, the id that the rooms come after, the most rooms, and
/// then `also`.
pub(super) struct Question<'a> {
    pub sql: &'static Sql,
    pub also: &'a [&'a (dyn ToSql + Sync)],
}

/// The answer of one shard.
struct Part {
    rooms: Vec<RoomFacts>,
    served_by: ServedBy,
    fallback: Option<Reason>,
}

impl Rooms {
    /// An error only if no shard answers, or if an answer can't be read.
    pub(super) async fn everywhere(
        &self,
        list: List<'_>,
        question: Question<'_>,
        cursor: &ListCursor,
    ) -> Result<RoomPage, RoomsError> {
        let ask = async |shard: &Shard| {
            let after = cursor.of(shard.name());
            let asked = timeout(list.patience, Part::read(shard, list, &question, after)).await;
            let late = |_| DbError::new(Class::Cancelled, question.sql.name, "it takes too long").into();
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
                    tracing::warn!(%shard, list = question.sql.name, error = %problem, "shard missing from a list");
                    failed.push(shard);
                    error = Some(problem);
                }
            }
        }
        match error {
            Some(error) if parts.is_empty() => Err(error),
            _ => Ok(merge(parts, failed, cursor, list.limit)),
        }
    }
}

impl Part {
    async fn read(
        shard: &Shard,
        list: List<'_>,
        question: &Question<'_>,
        after: i64,
    ) -> Result<Self, RoomsError> {
        // One more than the limit shows whether there is another page.
        let most = i64::try_from(list.limit + 1).unwrap_or(i64::MAX);
        let user = list.user.as_str();
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&user, &after, &most];
        params.extend(question.also);
        let deadline = Instant::now() + list.patience;
        let (rows, target) = read(shard, list.freshness, deadline, question.sql, &params).await?;
        let rooms = rows.iter().map(|row| RoomFacts::from_row(row, 0)).collect::<Result<_, _>>()?;
        Ok(Self { rooms, served_by: target.served_by(), fallback: target.fallback })
    }
}

/// Rows of a shard as a whole, from the first server that answers.
pub(super) async fn read(
    shard: &Shard,
    freshness: Freshness,
    deadline: Instant,
    sql: &'static Sql,
    params: &[&(dyn ToSql + Sync)],
) -> Result<(Vec<Row>, Target), RoomsError> {
    let mut route = shard.read(freshness, deadline);
    loop {
        let target = route.target().await?;
        match target.query(sql, params, deadline).await {
            Ok(rows) => {
                route.used(&target);
                return Ok((rows, target));
            }
            Err(error) if route.failed(target, &error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn merge(
    answered: Vec<(ShardName, Part)>,
    failed: Vec<ShardName>,
    cursor: &ListCursor,
    limit: usize,
) -> RoomPage {
    let (answered, parts): (Vec<_>, Vec<_>) = answered.into_iter().unzip();
    let primary = parts.iter().find(|part| part.served_by == ServedBy::Primary);
    let served_by = primary.or(parts.first()).map_or(ServedBy::Primary, |part| part.served_by.clone());
    let fallback = parts.iter().find_map(|part| part.fallback);
    let mut rooms: Vec<RoomFacts> = parts.into_iter().flat_map(|part| part.rooms).collect();
    rooms.sort_by_key(|facts| facts.room);
    // While a slot moves, two shards may both show it for a moment.
    rooms.dedup_by_key(|facts| facts.room);
    let more = rooms.len() > limit;
    rooms.truncate(limit);
    let last = rooms.last().map(|facts| facts.room.as_i64());
    let next = cursor.next(&answered, &failed, last, more);
    RoomPage { rooms, next, incomplete: failed, served_by, fallback }
}

#[cfg(test)]
#[path = "everywhere_tests.rs"]
mod tests;
