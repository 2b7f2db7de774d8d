//! A room by its slug, asked of the shards: for a node that can't ask the
//! directory.
//!
//! Guarantees: only the owner of a room's slot decides that the room has the slug.
//! Rows that a moved slot left behind only say where to ask. The answer is "no"
//! only if the primaries of all shards answer "no".

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout_at;

use super::everywhere::read;
use super::{Rooms, RoomsError, Wanted};
use crate::db::{DbError, Sql};
use crate::ids::{RoomId, Slug};
use crate::routing::{Freshness, Shard};

// Several rows: of a slot that moved away, or of a directory that lost the slug
// in a failover and gave it to another room.
pub(super) static NAMED: Sql = Sql {
    name: "room_by_slug",
    text: "SELECT room.id, coalesce(slot_owner.state = 'active', false)
             FROM room LEFT JOIN slot_owner USING (slot)
            WHERE room.slug = $1 LIMIT 4",
};

/// Nothing renames a room, so an old "yes" is right.
const MAX_STALE: Duration = Duration::from_secs(60);
/// How long the other shards may take to name a second room of the same slug, once
/// one shard has named a room.
const RIVALS: Duration = Duration::from_millis(100);

impl Rooms {
    /// `None`: no room has the slug. An error if a shard is missing whose answer
    /// might change that, or if several rooms have the slug.
    pub async fn named(&self, slug: &Slug, deadline: Instant) -> Result<Option<RoomId>, RoomsError> {
        let mut answers: FuturesUnordered<_> =
            self.shards().map(|shard| self.named_on(shard, slug, deadline)).collect();
        let (mut found, mut error, mut until) = (BTreeSet::new(), None, deadline);
        while let Ok(Some(answer)) = timeout_at(until.into(), answers.next()).await {
            match answer {
                Ok(rooms) => found.extend(rooms),
                Err(missing) => error = Some(missing),
            }
            if !found.is_empty() {
                until = until.min(Instant::now() + RIVALS);
            }
        }
        let all_answered = answers.is_empty();
        match (found.pop_first(), error) {
            (Some(_), _) if !found.is_empty() => Err(RoomsError::SlugContested),
            (Some(room), _) => Ok(Some(room)),
            (None, Some(error)) => Err(error),
            (None, None) if all_answered => Ok(None),
            (None, None) => Err(DbError::no_answer(NAMED.name).into()),
        }
    }

    async fn named_on(
        &self,
        shard: &Shard,
        slug: &Slug,
        deadline: Instant,
    ) -> Result<Vec<RoomId>, RoomsError> {
        let mut freshness = Freshness::MaxStale(MAX_STALE);
        loop {
            let (rows, target) = read(shard, freshness, deadline, &NAMED, &[&slug.as_str()]).await?;
            if rows.is_empty() && !target.is_primary() {
                freshness = Freshness::Primary;
                continue;
            }
            drop(target);
            let mut rooms = Vec::new();
            for row in rows {
                let corrupt = |_| RoomsError::Corrupt { what: "a room id" };
                let room = RoomId::from_i64(row.get(0)).map_err(corrupt)?;
                if row.get(1) || self.owner_confirms(room, slug, deadline).await? {
                    rooms.push(room);
                }
            }
            return Ok(rooms);
        }
    }

    async fn owner_confirms(&self, room: RoomId, slug: &Slug, deadline: Instant) -> Result<bool, RoomsError> {
        let wanted = Wanted { room, user: None, freshness: Freshness::Primary, deadline };
        match self.find(wanted).await {
            Ok(found) => Ok(found.facts.slug == *slug),
            Err(RoomsError::Unknown) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
