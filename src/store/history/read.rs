//! The way of a read: to the shard that owns the room, to an endpoint that is
//! fresh enough, and on to the next one if its answer won't do.

use std::sync::Arc;
use std::time::Instant;

use super::judge::{Facts, Unfit};
use super::{Read, ReadError, deadline, statements};
use crate::db::{DbError, Row, Sql, ToSql};
use crate::ids::RoomId;
use crate::log::Event;
use crate::placement::{ShardIndex, slot_of};
use crate::position::{Epoch, Position, Seq};
use crate::protocol::server::ResyncReason;
use crate::routing::{Freshness, Reason, Route, Shard, Shards, Target};
use crate::store::PAGE_BYTES;
use crate::store::slots::Slots;

/// What every reading of a room names.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub room: RoomId,
    pub freshness: Freshness,
    /// A position that must be in the log besides the freshness' own.
    pub check: Option<Position>,
    /// Without a position to check: a seq whose epoch is only to be told.
    pub peek: Option<Seq>,
    /// The log must have come so far, in whatever epoch.
    pub reach: Seq,
}

impl Asked {
    pub fn new(room: RoomId, freshness: Freshness) -> Self {
        Self { room, freshness, check: None, peek: None, reach: Seq::ZERO }
    }

    fn positions(&self) -> [Option<Position>; 2] {
        let need = match self.freshness {
            Freshness::AtLeast(position) => Some(position),
            Freshness::MaxStale(_) | Freshness::Primary => None,
        };
        [need, self.check]
    }
}

/// A reading that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub facts: Facts,
    pub head: Position,
    pub slot_epoch: Epoch,
    /// Everything that was committed before this instant was visible.
    pub as_of: Option<Instant>,
    pub read: Read<()>,
}

impl Accepted {
    pub fn map<T>(self, value: impl FnOnce(&Facts, Position, Epoch) -> T) -> Read<T> {
        let value = value(&self.facts, self.head, self.slot_epoch);
        let Read { head, served_by, fallback, .. } = self.read;
        Read { value, head, served_by, fallback }
    }
}

/// Bodies of events in one reading: it ends with the event that reaches this.
pub(super) const READ_BYTES: u64 = PAGE_BYTES as u64;

/// Whether their bytes, and not the log, ended a reading of events.
pub(super) fn is_cut(events: &[Event]) -> bool {
    events.iter().map(|event| event.body.len() as u64).sum::<u64>() >= READ_BYTES
}

#[derive(Clone)]
pub(super) struct Reader {
    shards: Shards,
    slots: Slots,
}

/// One endpoint's answer to a read.
enum Attempt<T> {
    Accepted(Box<(Accepted, T)>),
    /// The primary says that the slot is elsewhere.
    NotOwned,
}

impl Reader {
    pub fn new(shards: Shards, slots: Slots) -> Self {
        Self { shards, slots }
    }

    pub fn shard_of(&self, room: RoomId) -> Option<ShardIndex> {
        self.slots.owner(room)
    }

    pub fn shard(&self, index: ShardIndex) -> Option<&Shard> {
        self.shards.get(index)
    }

    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Runs a statement that begins with the facts; `more` are its parameters
    /// from $5 on. `take` gathers the rows of one answer as they arrive. Returns the
    /// rows of the accepted answer.
    pub async fn read<T: Default + Send>(
        &self,
        asked: &Asked,
        sql: &'static Sql,
        more: &[&(dyn ToSql + Sync)],
        mut take: impl FnMut(&mut T, &Row) + Send,
    ) -> Result<(Accepted, T), ReadError> {
        let deadline = deadline();
        let room = asked.room;
        let mut looks = 0;
        loop {
            if let Some(shard) = self.shard_of(room).and_then(|index| self.shards.get(index))
                && let Attempt::Accepted(accepted) =
                    self.read_shard(shard, asked, sql, more, &mut take, deadline).await?
            {
                return Ok(*accepted);
            }
            // It moved, or is just moving.
            if !self.slots.look_again(looks, deadline).await {
                return Err(ReadError::NoOwner(room));
            }
            looks += 1;
        }
    }

    /// The events after `after` until `after + span`, or until [`READ_BYTES`] of them,
    /// verified to be without a hole.
    pub async fn events(
        &self,
        asked: Asked,
        after: Seq,
        span: u64,
    ) -> Result<(Accepted, Vec<Event>), ReadError> {
        let asked = Asked { peek: Some(after), ..asked };
        let room = asked.room;
        let to = Seq(after.0.saturating_add(span));
        let (from, until, most) = (after.as_i64(), to.as_i64(), READ_BYTES.cast_signed());
        let (accepted, found) = self
            .read(&asked, &statements::PAGE, &[&from, &until, &most], |found: &mut Vec<_>, row| {
                found.extend(statements::event(row, room));
            })
            .await?;
        let mut events: Vec<Event> = found.into_iter().collect::<Result<_, _>>()?;
        events.sort_unstable_by_key(|event| event.position.seq);
        if !accepted.facts.keeps_all_after(after) {
            return Err(ReadError::Lost(ResyncReason::BelowRetention));
        }
        let mut last = after;
        for event in &events {
            if event.position.seq != last.next() {
                return Err(ReadError::Hole { room, after: last });
            }
            last = event.position.seq;
        }
        if last < to.min(accepted.head.seq) && !is_cut(&events) {
            return Err(ReadError::Hole { room, after: last });
        }
        Ok((accepted, events))
    }

    /// Runs a statement on a shard that needs no facts.
    pub async fn query(
        &self,
        shard: ShardIndex,
        freshness: Freshness,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, ReadError> {
        let Some(shard) = self.shards.get(shard) else { return Ok(Vec::new()) };
        let deadline = deadline();
        let mut route = shard.read(freshness, deadline);
        loop {
            let target = route.target().await?;
            match target.query(sql, params, deadline).await {
                Ok(rows) => {
                    route.used(&target);
                    return Ok(rows);
                }
                Err(error) => failed(&mut route, target, error)?,
            }
        }
    }

    async fn read_shard<T: Default + Send>(
        &self,
        shard: &Shard,
        asked: &Asked,
        sql: &'static Sql,
        more: &[&(dyn ToSql + Sync)],
        take: &mut (impl FnMut(&mut T, &Row) + Send),
        deadline: Instant,
    ) -> Result<Attempt<T>, ReadError> {
        let positions = asked.positions();
        let (room, slot) = (asked.room.as_i64(), i32::from(slot_of(asked.room).0));
        let [need, check] = positions.map(|position| position.map(|position| position.seq.as_i64()));
        let check = check.or(asked.peek.map(Seq::as_i64));
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&room, &slot, &need, &check];
        params.extend_from_slice(more);
        let mut route = shard.read(asked.freshness, deadline);
        loop {
            let target = route.target().await?;
            let (mut judged, mut found) = (None, T::default());
            let rows = target.query_each(sql, &params, deadline, |row| {
                let judge = || Judged::new(statements::facts(&row, positions), asked.reach);
                if judged.get_or_insert_with(judge).verdict.is_ok() {
                    take(&mut found, &row);
                }
            });
            if let Err(error) = rows.await {
                failed(&mut route, target, error)?;
                continue;
            }
            let Some(Judged { facts, verdict }) = judged else {
                return Err(ReadError::RoomUnknown(asked.room));
            };
            match verdict {
                Ok((head, slot_epoch)) => {
                    route.used(&target);
                    let (served_by, fallback) = (target.served_by(), target.fallback);
                    let read = Read { value: (), head, served_by, fallback };
                    let as_of = target.as_of;
                    let accepted = Accepted { facts, head, slot_epoch, as_of, read };
                    return Ok(Attempt::Accepted(Box::new((accepted, found))));
                }
                // It may just be late: someone else must say so too.
                Err(unfit) if !target.is_primary() => route.refuse(target, unfit.reason()),
                Err(unfit) => {
                    route.used(&target);
                    return match unfit {
                        Unfit::NotOwned => Ok(Attempt::NotOwned),
                        Unfit::RoomUnknown => Err(ReadError::RoomUnknown(asked.room)),
                        Unfit::Position(reason) => Err(ReadError::Lost(reason)),
                    };
                }
            }
        }
    }
}

/// An answer's facts, which are on each of its rows, and whether it will do.
struct Judged {
    facts: Facts,
    verdict: Result<(Position, Epoch), Unfit>,
}

impl Judged {
    fn new(facts: Facts, reach: Seq) -> Self {
        let verdict = facts.judge().and_then(|found| match found.0.seq < reach {
            true => Err(Unfit::Position(ResyncReason::AheadOfLog)),
            false => Ok(found),
        });
        Self { facts, verdict }
    }
}

impl Unfit {
    /// Why a replica's answer was not used.
    fn reason(self) -> Reason {
        match self {
            Self::NotOwned | Self::RoomUnknown | Self::Position(ResyncReason::AheadOfLog) => Reason::Behind,
            Self::Position(ResyncReason::PositionLost | ResyncReason::BelowRetention) => Reason::Epoch,
        }
    }
}

/// Goes on to the next target, or ends with the error.
fn failed(route: &mut Route, target: Target, error: DbError) -> Result<(), ReadError> {
    if route.failed(target, &error) { Ok(()) } else { Err(ReadError::Database(Arc::new(error))) }
}
