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

#[derive(Clone)]
pub(super) struct Reader {
    shards: Shards,
    slots: Slots,
}

/// One endpoint's answer to a read.
enum Attempt {
    Accepted(Box<Accepted>),
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
    /// from $5 on. `take` sees the rows of the answer that is accepted.
    pub async fn read(
        &self,
        asked: &Asked,
        sql: &'static Sql,
        more: &[&(dyn ToSql + Sync)],
        mut take: impl FnMut(&[Row]),
    ) -> Result<Accepted, ReadError> {
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

    /// The events after `after` until `after + span`, verified to be without a
    /// hole.
    pub async fn events(
        &self,
        asked: Asked,
        after: Seq,
        span: u64,
    ) -> Result<(Accepted, Vec<Event>), ReadError> {
        let asked = Asked { peek: Some(after), ..asked };
        let room = asked.room;
        let to = Seq(after.0.saturating_add(span));
        let mut found = Vec::new();
        let accepted = self
            .read(&asked, &statements::PAGE, &[&after.as_i64(), &to.as_i64()], |rows| {
                found = rows.iter().filter_map(|row| statements::event(row, room)).collect();
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
        if last < to.min(accepted.head.seq) {
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

    async fn read_shard(
        &self,
        shard: &Shard,
        asked: &Asked,
        sql: &'static Sql,
        more: &[&(dyn ToSql + Sync)],
        take: &mut impl FnMut(&[Row]),
        deadline: Instant,
    ) -> Result<Attempt, ReadError> {
        let positions = asked.positions();
        let (room, slot) = (asked.room.as_i64(), i32::from(slot_of(asked.room).0));
        let [need, check] = positions.map(|position| position.map(|position| position.seq.as_i64()));
        let check = check.or(asked.peek.map(Seq::as_i64));
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&room, &slot, &need, &check];
        params.extend_from_slice(more);
        let mut route = shard.read(asked.freshness, deadline);
        loop {
            let target = route.target().await?;
            let rows = match target.query(sql, &params, deadline).await {
                Ok(rows) => rows,
                Err(error) => {
                    failed(&mut route, target, error)?;
                    continue;
                }
            };
            let facts = rows.first().map(|row| statements::facts(row, positions));
            let Some(facts) = facts else { return Err(ReadError::RoomUnknown(asked.room)) };
            let verdict = facts.judge().and_then(|found| match found.0.seq < asked.reach {
                true => Err(Unfit::Position(ResyncReason::AheadOfLog)),
                false => Ok(found),
            });
            match verdict {
                Ok((head, slot_epoch)) => {
                    route.used(&target);
                    take(&rows);
                    let (served_by, fallback) = (target.served_by(), target.fallback);
                    let read = Read { value: (), head, served_by, fallback };
                    let as_of = target.as_of;
                    return Ok(Attempt::Accepted(Box::new(Accepted {
                        facts,
                        head,
                        slot_epoch,
                        as_of,
                        read,
                    })));
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
