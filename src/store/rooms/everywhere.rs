//! Lists of rooms that go over all shards side by side.
//!
//! Guarantees: a room that belongs in the list is on one page, as long as nothing
//! changes. A page ends at 4 MiB as well as at its limit, and each shard answers with a
//! share of that. A shard that doesn't answer in time is named, and the cursor remembers
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
use crate::store::PAGE_BYTES;

/// The bytes that a shard may answer with in any case.
const SHARE_MIN: usize = 64 << 10;

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
    /// It ends at its share of the page's bytes.
    is_cut: bool,
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
        let share = (PAGE_BYTES / self.shards().count().max(1)).max(SHARE_MIN);
        let ask = async |shard: &Shard| {
            let after = cursor.of(shard.name());
            let asked = timeout(list.patience, Part::read(shard, list, &question, after, share)).await;
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
        share: usize,
    ) -> Result<Self, RoomsError> {
        // One more than the limit shows whether there is another page.
        let most = i64::try_from(list.limit + 1).unwrap_or(i64::MAX);
        let user = list.user.as_str();
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&user, &after, &most];
        params.extend(question.also);
        let deadline = Instant::now() + list.patience;
        let mut route = shard.read(list.freshness, deadline);
        loop {
            let target = route.target().await?;
            let mut gathered = Gathered::new(share);
            match target.query_each(question.sql, &params, deadline, |row| gathered.take(&row)).await {
                Ok(()) => {
                    route.used(&target);
                    let Gathered { rooms, is_cut, .. } = gathered;
                    let (served_by, fallback) = (target.served_by(), target.fallback);
                    return Ok(Self { rooms: rooms?, is_cut, served_by, fallback });
                }
                Err(error) if route.failed(target, &error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Rooms of one shard as they arrive; the first one always, more within the share.
struct Gathered {
    rooms: Result<Vec<RoomFacts>, RoomsError>,
    is_cut: bool,
    bytes: usize,
    share: usize,
}

impl Gathered {
    fn new(share: usize) -> Self {
        Self { rooms: Ok(Vec::new()), is_cut: false, bytes: 0, share }
    }

    fn take(&mut self, row: &Row) {
        let Ok(rooms) = &mut self.rooms else { return };
        if self.is_cut {
            return;
        }
        match RoomFacts::from_row(row, 0) {
            Ok(facts) => {
                self.bytes += facts.bytes();
                self.is_cut = self.bytes > self.share && !rooms.is_empty();
                if !self.is_cut {
                    rooms.push(facts);
                }
            }
            Err(error) => self.rooms = Err(error),
        }
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
    // Beyond the end of a part that was cut, rooms of its shard are missing.
    let ends = parts.iter().filter(|part| part.is_cut).filter_map(|part| part.rooms.last());
    let end = ends.map(|facts| facts.room).min();
    let mut rooms: Vec<RoomFacts> = parts.into_iter().flat_map(|part| part.rooms).collect();
    rooms.sort_by_key(|facts| facts.room);
    // While a slot moves, two shards may both show it for a moment.
    rooms.dedup_by_key(|facts| facts.room);
    let found = rooms.len();
    rooms.retain(|facts| end.is_none_or(|end| facts.room <= end));
    rooms.truncate(limit);
    let mut bytes = 0;
    let fits = rooms.iter().take_while(|facts| {
        bytes += facts.bytes();
        bytes <= PAGE_BYTES || bytes == facts.bytes()
    });
    let fits = fits.count();
    rooms.truncate(fits);
    let more = end.is_some() || rooms.len() < found;
    let last = rooms.last().map(|facts| facts.room.as_i64());
    let next = cursor.next(&answered, &failed, last, more);
    RoomPage { rooms, next, incomplete: failed, served_by, fallback }
}

#[cfg(test)]
#[path = "everywhere_tests.rs"]
mod tests;
