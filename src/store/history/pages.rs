//! Pages of logs, read once for all who want them.
//!
//! A page is aligned: it begins at event `500k + 1`, or where the bytes of the page
//! before ended it, and goes up to event `500k + 500` or to the bytes of one reading.
//! Readers that want the same page at the same time share one reading, and it is kept,
//! bounded by bytes. A full page never changes; the last one, which does, serves
//! readers for which it is new enough, and is read anew for the first reader for which
//! it isn't. A kept page belongs to one timeline: after a failover, which may have cut
//! the log, it is read anew.

use std::sync::Arc;
use std::time::Instant;

use moka::future::Cache;

use super::read::{Asked, Reader, is_cut};
use super::{EventPage, LogEvent, PAGE_EVENTS, PageBytes, PageOutcome, Read, ReadError, statements};
use crate::ids::RoomId;
use crate::placement::ShardIndex;
use crate::position::{Epoch, Position, Seq};
use crate::routing::{Freshness, ServedBy, Timeline};

/// How often a shared reading that turned out to be too old is made anew, before
/// one is made that is shared with nobody.
const SHARED_TRIES: u32 = 2;

#[derive(Clone)]
pub(super) struct Pages {
    cache: Cache<Key, Arc<Page>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    room: RoomId,
    /// The seq before the page's first event.
    start: Seq,
    shard: ShardIndex,
    timeline: Timeline,
}

/// How many events lie between `seq` and the next aligned page.
fn left(seq: Seq) -> u64 {
    PAGE_EVENTS - seq.0 % PAGE_EVENTS
}

#[derive(Debug)]
struct Page {
    start: Seq,
    /// No event will be added to it.
    is_full: bool,
    /// Of the event before the first.
    epoch_at_start: Option<Epoch>,
    events: Vec<LogEvent>,
    bytes: Arc<PageBytes>,
    /// Everything committed before this instant is in it, or on a later page.
    as_of: Option<Instant>,
    read: Read<()>,
}

impl Pages {
    pub fn new(bytes: u64) -> Self {
        let weigh = |_: &Key, page: &Arc<Page>| u32::try_from(page.bytes.bytes + 256).unwrap_or(u32::MAX);
        Self { cache: Cache::builder().weigher(weigh).max_capacity(bytes).build() }
    }

    pub async fn read(
        &self,
        reader: &Reader,
        room: RoomId,
        after: Position,
        freshness: Freshness,
    ) -> Result<Read<PageOutcome>, ReadError> {
        if let Some(read) = self.shared(reader, room, after, freshness).await? {
            return Ok(read);
        }
        let asked = Asked { check: Some(after), ..Asked::new(room, freshness) };
        match reader.events(asked, after.seq, left(after.seq)).await {
            Ok((accepted, events)) => {
                let events: Vec<_> = events.iter().map(statements::log_event).collect();
                let read = Some(PageBytes::of(&events));
                Ok(accepted.map(|_, head, _| PageOutcome::Events(EventPage { events, head, read })))
            }
            Err(ReadError::Lost(reason)) => Ok(Read {
                value: PageOutcome::Lost(reason),
                head: Position::BEGINNING,
                served_by: ServedBy::Primary,
                fallback: None,
            }),
            Err(error) => Err(error),
        }
    }

    /// From a page that is kept or being read. `None`: that can't answer, so
    /// the caller must read for itself, as must whoever needs to hear why not.
    async fn shared(
        &self,
        reader: &Reader,
        room: RoomId,
        after: Position,
        freshness: Freshness,
    ) -> Result<Option<Read<PageOutcome>>, ReadError> {
        if freshness == Freshness::Primary {
            return Ok(None);
        }
        let mut start = Seq(after.seq.0 - after.seq.0 % PAGE_EVENTS);
        let mut tries = 0;
        while tries < SHARED_TRIES {
            let asked_at = Instant::now();
            let Some(key) = key(reader, room, start) else { return Ok(None) };
            let page = match self.cache.try_get_with(key, load(reader, key, freshness)).await {
                Ok(page) => page,
                Err(error) => match &*error {
                    // About another reader's position, or about the page's start.
                    ReadError::Lost(_) => return Ok(None),
                    other => return Err(other.clone()),
                },
            };
            if page.is_full && page.end() <= after.seq {
                // Its bytes ended it.
                start = page.end();
                continue;
            }
            match page.answer(after, freshness, asked_at) {
                Answer::Page(read) => return Ok(Some(read)),
                Answer::TooOld => self.cache.invalidate(&key).await,
                Answer::OtherLog => {
                    self.cache.invalidate(&key).await;
                    return Ok(None);
                }
            }
            tries += 1;
        }
        Ok(None)
    }
}

fn key(reader: &Reader, room: RoomId, start: Seq) -> Option<Key> {
    let shard = reader.shard_of(room)?;
    let timeline = reader.shard(shard)?.known().timeline;
    Some(Key { room, start, shard, timeline })
}

async fn load(reader: &Reader, key: Key, freshness: Freshness) -> Result<Arc<Page>, ReadError> {
    let start = key.start;
    let span = left(start);
    let (accepted, events) = reader.events(Asked::new(key.room, freshness), start, span).await?;
    let is_full = events.len() as u64 == span || is_cut(&events);
    let events: Vec<_> = events.iter().map(statements::log_event).collect();
    Ok(Arc::new(Page {
        start,
        is_full,
        epoch_at_start: accepted.facts.peeked,
        bytes: PageBytes::of(&events),
        events,
        as_of: accepted.as_of,
        read: accepted.read,
    }))
}

enum Answer {
    Page(Read<PageOutcome>),
    TooOld,
    /// It has something else at the reader's positions, or nothing to compare.
    OtherLog,
}

impl Page {
    /// The seq of its last event.
    fn end(&self) -> Seq {
        Seq(self.start.0 + self.events.len() as u64)
    }

    fn answer(&self, after: Position, freshness: Freshness, asked_at: Instant) -> Answer {
        let at_least = match freshness {
            Freshness::AtLeast(position) => position,
            Freshness::MaxStale(bound) => {
                if !self.is_full && self.as_of.is_none_or(|as_of| as_of + bound < asked_at) {
                    return Answer::TooOld;
                }
                after
            }
            Freshness::Primary => return Answer::OtherLog,
        };
        let known_to = self.end();
        if !self.is_full && known_to < at_least.seq.max(after.seq) {
            return Answer::TooOld;
        }
        // What lies beyond a full page is checked when it is read.
        if !self.has(after) || (at_least.seq <= known_to && !self.has(at_least)) {
            return Answer::OtherLog;
        }
        let skip = usize::try_from(after.seq.0 - self.start.0).unwrap_or(usize::MAX);
        let events = self.events.get(skip..).unwrap_or_default().to_vec();
        let head = if at_least.seq > self.read.head.seq { at_least } else { self.read.head };
        let Read { served_by, fallback, .. } = self.read.clone();
        Answer::Page(Read {
            value: PageOutcome::Events(EventPage { events, head, read: Some(self.bytes.clone()) }),
            head,
            served_by,
            fallback,
        })
    }

    /// Whether the log has this position, as far as this page can tell.
    fn has(&self, position: Position) -> bool {
        if position.seq == Seq::ZERO {
            return true;
        }
        if position.seq == self.start {
            return self.epoch_at_start == Some(position.epoch);
        }
        let index = position.seq.0.checked_sub(self.start.0 + 1);
        let event = index.and_then(|index| self.events.get(usize::try_from(index).ok()?));
        event.is_some_and(|event| event.position == position)
    }
}
