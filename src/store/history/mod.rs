//! The reads of a room: pages of its log, its state now and then, its head.
//!
//! Owns their SQL, and the snapshots that old states are made from. Guarantees: one
//! statement, one snapshot each, with the owner of the slot, the head and the asked
//! positions in it; an answer that isn't new enough or not of this log is never
//! given. What a replica refuses is asked of the primary before anyone is told.

mod daily;
mod judge;
mod pages;
mod past;
mod read;
mod retention;
mod state;
mod statements;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

pub use crate::routing::{Freshness, Reason, ServedBy};
pub use daily::{Counted, Daily, DayCounts};
pub use past::Behind;
pub use retention::Expired;
pub use state::{ShapeQuery, Snapshot, SnapshotShape};
pub use statements::{STATEMENTS, Unreadable};

use crate::db::{Class, DbError, ToSql};
use crate::ids::{RoomId, UserId};
use crate::log::Event;
use crate::memory::SharedBytes;
use crate::placement::{ShardIndex, slot_of};
use crate::position::{Epoch, Position, Seq};
use crate::protocol::server::ResyncReason;
use crate::protocol::{Code, Json, Refusal};
use crate::routing::{Shards, Unavailable};
use crate::store::misconfigured;
use crate::store::slots::Slots;
use pages::Pages;
use read::{Asked, READ_BYTES, Reader, is_cut};

/// Events of one page: aligned, so that all readers share the same ones.
pub const PAGE_EVENTS: u64 = 500;
/// How many events a filtered read looks through in its first statement. While it finds
/// none, each further one looks through four times as many.
const FILTER_WINDOW: u64 = 10_000;
const FILTER_WINDOW_MAX: u64 = 160_000;
/// A filtered read that has found no event by then answers with an empty page.
const FILTER_PATIENCE: Duration = Duration::from_secs(1);
/// Rooms in one statement of [`History::heads`].
const HEADS_CHUNK: usize = 1000;

/// An answer and where it came from.
#[derive(Debug, Clone)]
pub struct Read<T> {
    pub value: T,
    /// The room's head in the snapshot that was read.
    pub head: Position,
    pub served_by: ServedBy,
    pub fallback: Option<Reason>,
}

/// A room's head and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub position: Position,
    /// The slot's epoch: what new events carry.
    pub slot_epoch: Epoch,
    /// Rises with every change of a role, and when the room is archived.
    pub access_rev: u64,
}

/// One of many heads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomHead {
    pub room: RoomId,
    pub position: Position,
    pub access_rev: u64,
    pub slot_epoch: Epoch,
    /// Of the event at `position`, where it was asked for.
    pub event: Option<EventDigest>,
}

/// SHA-256 of an event as it goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventDigest([u8; 32]);

/// An entry of the log, encoded as an `event` message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    pub position: Position,
    pub json: Json,
}

impl LogEvent {
    pub fn digest(&self) -> EventDigest {
        EventDigest(Sha256::digest(self.json.bytes()).into())
    }
}

/// What follows a position.
#[derive(Debug, Clone)]
pub enum PageOutcome {
    Events(EventPage),
    /// The position isn't in the log.
    Lost(ResyncReason),
}

/// Events in seq order without a hole, from right after the asked position. If
/// the last one is not the head, there are more.
#[derive(Debug, Clone)]
pub struct EventPage {
    pub events: Vec<LogEvent>,
    pub head: Position,
    /// The reading that all readers of the page share; none of events that the room
    /// keeps in memory.
    pub read: Option<Arc<PageBytes>>,
}

/// The memory of one reading of events.
#[derive(Debug, Default)]
pub struct PageBytes {
    pub bytes: usize,
    pub shared: SharedBytes,
}

impl PageBytes {
    fn of(events: &[LogEvent]) -> Arc<Self> {
        let bytes = events.iter().map(|event| event.json.len() + 96).sum();
        Arc::new(Self { bytes, shared: SharedBytes::default() })
    }
}

/// Which events of a room are wanted.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    pub after: Seq,
    pub limit: usize,
    pub user: Option<UserId>,
    pub since_ms: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct Events {
    pub events: Vec<LogEvent>,
    /// Where to go on; `None`: the head was reached.
    pub next: Option<Seq>,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("there is no room {0}")]
    RoomUnknown(RoomId),
    /// The position that the answer was to contain isn't in the log.
    #[error("the position is not in the room's log ({})", .0.as_str())]
    Lost(ResyncReason),
    #[error("no shard says that it owns the slot of room {0}")]
    NoOwner(RoomId),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("the read failed: {0}")]
    Database(Arc<DbError>),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("room {room}: the log has a hole after {after}")]
    Hole { room: RoomId, after: Seq },
    #[error("room {0}: the log can't be folded: {1}")]
    Unfoldable(RoomId, crate::log::Unreadable),
    #[error("{0}")]
    NoMemory(Refusal),
    /// Too many events lie between it and the snapshot before it.
    #[error("room {0}: no snapshot is near enough yet")]
    NotPrepared(RoomId),
}

impl ReadError {
    /// Trying again in a while makes sense.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::NoOwner(_) | Self::Database(_) => true,
            Self::NotPrepared(_) | Self::NoMemory(_) => true,
            Self::RoomUnknown(_) | Self::Lost(_) | Self::Unreadable(_) => false,
            Self::Hole { .. } | Self::Unfoldable(..) => false,
        }
    }

    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::RoomUnknown(_) => Code::RoomUnknown,
            Self::Lost(ResyncReason::PositionLost) => Code::PositionLost,
            Self::Lost(ResyncReason::AheadOfLog) => Code::AheadOfLog,
            Self::Lost(ResyncReason::BelowRetention) => Code::BelowRetention,
            Self::Unavailable(unavailable) => return unavailable.clone().into(),
            Self::NoMemory(refusal) => return refusal.clone(),
            Self::Database(error) if error.class() == Class::Misconfigured => {
                return misconfigured("the room's shard", error);
            }
            Self::NoOwner(_) | Self::Database(_) => {
                let message = "the room can't be read just now";
                return Refusal::new(Code::Unavailable, message).retry_after_ms(1000);
            }
            Self::NotPrepared(_) => {
                let message = "the state at this seq is still being prepared; try again";
                return Refusal::new(Code::Unavailable, message).retry_after_ms(5000);
            }
            Self::Unreadable(_) | Self::Hole { .. } | Self::Unfoldable(..) => {
                tracing::error!(error = %self, "a room's log can't be read");
                return Refusal::new(Code::Internal, "the room's log can't be read");
            }
        };
        Refusal::new(code, self.to_string())
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        error.refusal()
    }
}

/// A cheap handle to all reads of rooms.
#[derive(Clone)]
pub struct History {
    reader: Reader,
    pages: Pages,
}

impl History {
    /// `page_cache_bytes` bounds the pages of logs that are kept, over all rooms.
    pub fn new(shards: Shards, slots: Slots, page_cache_bytes: u64) -> Self {
        Self { reader: Reader::new(shards, slots), pages: Pages::new(page_cache_bytes) }
    }

    /// The events right after `after`, up to the end of their aligned page.
    /// Callers share readings; `Freshness::Primary` makes one of its own.
    pub async fn page(
        &self,
        room: RoomId,
        after: Position,
        freshness: Freshness,
    ) -> Result<Read<PageOutcome>, ReadError> {
        self.pages.read(&self.reader, room, after, freshness).await
    }

    pub async fn head(&self, room: RoomId, freshness: Freshness) -> Result<Read<Head>, ReadError> {
        let asked = Asked::new(room, freshness);
        let (read, ()) = self.reader.read(&asked, &statements::HEAD, &[], |(), _| {}).await?;
        Ok(read.map(|facts, head, slot_epoch| Head {
            position: head,
            slot_epoch,
            access_rev: facts.access_rev,
        }))
    }

    /// Events by filter, for lists: at most `limit`, and at most about 4 MiB. Of a
    /// filter it looks through a bounded part of the log, so a page may be empty though
    /// there are more.
    pub async fn events(
        &self,
        room: RoomId,
        query: &EventQuery,
        freshness: Freshness,
    ) -> Result<Read<Events>, ReadError> {
        let until = Instant::now() + FILTER_PATIENCE;
        let is_filtered = query.user.is_some() || query.since_ms.is_some();
        let mut window = if is_filtered { FILTER_WINDOW } else { query.limit as u64 };
        let mut after = query.after;
        loop {
            let read = self.events_within(room, query, (after, window), freshness).await?;
            match read.value.next {
                Some(next) if read.value.events.is_empty() && Instant::now() < until => after = next,
                _ => return Ok(read),
            }
            window = (window * 4).min(FILTER_WINDOW_MAX);
        }
    }

    /// The same within `window` events after `after`.
    async fn events_within(
        &self,
        room: RoomId,
        query: &EventQuery,
        (after, window): (Seq, u64),
        freshness: Freshness,
    ) -> Result<Read<Events>, ReadError> {
        let asked = Asked::new(room, freshness);
        let user = query.user.as_ref().map(UserId::as_str);
        let (from, limit) = (after.as_i64(), i64::try_from(query.limit).unwrap_or(i64::MAX));
        let to = from.saturating_add(i64::try_from(window).unwrap_or(i64::MAX));
        let bytes = READ_BYTES.cast_signed();
        let params: [&(dyn ToSql + Sync); 6] = [&from, &to, &user, &query.since_ms, &limit, &bytes];
        let (read, found) = self
            .reader
            .read(&asked, &statements::EVENTS, &params, |found: &mut Vec<_>, row| {
                found.extend(statements::event(row, room));
            })
            .await?;
        if !read.facts.keeps_all_after(after) {
            return Err(ReadError::Lost(ResyncReason::BelowRetention));
        }
        let mut found: Vec<Event> = found.into_iter().collect::<Result<_, _>>()?;
        found.sort_unstable_by_key(|event| event.position.seq);
        let looked_to = match found.last() {
            Some(last) if found.len() == query.limit || is_cut(&found) => last.position.seq,
            _ => Seq::from_i64(to),
        };
        Ok(read.map(|_, head, _| Events {
            events: found.iter().map(statements::log_event).collect(),
            next: (looked_to < head.seq).then_some(looked_to),
        }))
    }

    /// The log itself: at most a page of events after `after`.
    pub async fn log(
        &self,
        room: RoomId,
        after: Seq,
        freshness: Freshness,
    ) -> Result<Read<Vec<Event>>, ReadError> {
        let (read, events) = self.reader.events(Asked::new(room, freshness), after, PAGE_EVENTS).await?;
        Ok(read.map(|_, _, _| events))
    }

    /// The heads of those of `rooms` that `shard` owns, for the check that
    /// nothing stays unnoticed, with the digest of the head's event for those with
    /// `true`; and those whose slots it doesn't own. From one
    /// endpoint, each chunk one snapshot.
    pub async fn heads(
        &self,
        shard: ShardIndex,
        rooms: &[(RoomId, bool)],
        max_stale: Duration,
    ) -> Result<(Vec<RoomHead>, Vec<RoomId>), ReadError> {
        let (mut heads, mut not_owned) = (Vec::with_capacity(rooms.len()), Vec::new());
        for chunk in rooms.chunks(HEADS_CHUNK) {
            let ids: Vec<i64> = chunk.iter().map(|(room, _)| room.as_i64()).collect();
            let slots: Vec<i32> = chunk.iter().map(|(room, _)| i32::from(slot_of(*room).0)).collect();
            let with_event: Vec<bool> = chunk.iter().map(|(_, with_event)| *with_event).collect();
            let params: [&(dyn ToSql + Sync); 3] = [&ids, &slots, &with_event];
            let freshness = Freshness::MaxStale(max_stale);
            for row in self.reader.query(shard, freshness, &statements::HEADS, &params).await? {
                match row.get(1) {
                    Some(epoch) => heads.extend(statements::head(&row, epoch)),
                    None => not_owned.extend(RoomId::from_i64(row.get(0))),
                }
            }
        }
        Ok((heads, not_owned))
    }

    /// Asks all shards what they own; see [`Slots::refresh`].
    pub async fn find_owners(&self) {
        self.reader.slots().refresh().await;
    }

    /// All shards that there are.
    pub fn shards(&self) -> impl Iterator<Item = ShardIndex> {
        self.reader.shards().iter().map(|(index, _)| index)
    }

    /// Which shard this node believes to own `room`.
    pub fn shard_of(&self, room: RoomId) -> Option<ShardIndex> {
        self.reader.shard_of(room)
    }
}

/// How long a read may take, waiting and retries included.
const PATIENCE: Duration = Duration::from_secs(5);

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}
