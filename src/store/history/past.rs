//! Old states: the newest snapshot at or before a seq, and the log from there.
//!
//! Guarantees: a state is that of one position of the log, whichever node makes
//! it; making one reads a bounded number of events. Snapshots are written under
//! the slot's lock, of positions that are in the log, and by whoever comes
//! first.

use super::read::{Asked, READ_BYTES};
use super::statements::{self, OWN};
use super::{Freshness, History, Read, ReadError, Snapshot, SnapshotShape};
use crate::db::Row;
use crate::ids::{RoomId, ShapeId};
use crate::log::{Fold, ShapeData};
use crate::memory::Reservation;
use crate::placement::ShardIndex;
use crate::position::{Epoch, Position, Seq};
use crate::protocol::server::ResyncReason;
use crate::protocol::{Version, server};
use crate::store::guard::WriteError;

/// Events in one reading of a replay.
const REPLAY_EVENTS: u64 = 1000;
/// A part of a snapshot ends at so many shapes or bytes.
const PART_SHAPES: usize = 1000;
const PART_BYTES: usize = 1 << 20;

/// A room and how far its snapshots have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    pub room: RoomId,
    pub head: Seq,
    /// 0: it has none.
    pub newest: Seq,
}

impl History {
    /// The position of the event `seq`, or of a snapshot there: what a state is
    /// asked for by. `Lost`: it is beyond the head, or was deleted.
    pub async fn position_of(
        &self,
        room: RoomId,
        seq: Seq,
        freshness: Freshness,
    ) -> Result<Read<Position>, ReadError> {
        let asked = Asked { peek: Some(seq), reach: seq, ..Asked::new(room, freshness) };
        let (read, base) = self
            .reader
            .read(&asked, &statements::PLACE, &[&seq.as_i64()], |base, row| *base = base_position(row))
            .await?;
        let found = match (read.facts.peeked, base) {
            _ if seq == Seq::ZERO => Position::BEGINNING,
            (Some(epoch), _) => Position::new(epoch, seq),
            (None, Some(base)) if base.seq == seq => base,
            (None, _) if read.head.seq == seq => read.head,
            (None, _) => return Err(ReadError::Lost(ResyncReason::BelowRetention)),
        };
        Ok(read.map(|_, _, _| found))
    }

    /// The state at a position that was once read. Reads at most `most` events;
    /// where that isn't enough it is `NotPrepared`. `held` grows with the state.
    pub async fn state_at(
        &self,
        room: RoomId,
        at: Position,
        most: u64,
        freshness: Freshness,
        held: &mut Reservation,
    ) -> Result<Snapshot, ReadError> {
        if at.seq == Seq::ZERO {
            return Ok(Snapshot { position: Position::BEGINNING, shapes: Vec::new() });
        }
        let asked = Asked { reach: at.seq, ..Asked::new(room, freshness) };
        if self.reader.read(&asked, &statements::HEAD, &[], |(), _| {}).await?.0.head == at {
            let now = self.snapshot(room, freshness, held).await?.value;
            if now.position == at {
                return Ok(now);
            }
        }
        let mut fold = self.base(room, at.seq, freshness, held).await?;
        if at.seq.0 - fold.head.seq.0 > most && freshness != Freshness::Primary {
            // A replica may not have the newest one yet.
            fold = self.base(room, at.seq, Freshness::Primary, held).await?;
        }
        if at.seq.0 - fold.head.seq.0 > most {
            return Err(ReadError::NotPrepared(room));
        }
        while fold.head.seq < at.seq {
            self.replay(room, &mut fold, at.seq, freshness, held).await?;
        }
        match fold.head == at {
            true => Ok(snapshot_of(fold)),
            false => Err(ReadError::Lost(ResyncReason::PositionLost)),
        }
    }

    /// The state of the newest snapshot at or before `seq`; the empty one if
    /// there is none.
    pub async fn base(
        &self,
        room: RoomId,
        seq: Seq,
        freshness: Freshness,
        held: &mut Reservation,
    ) -> Result<Fold, ReadError> {
        let asked = Asked::new(room, freshness);
        loop {
            let most = held.bytes();
            let (_, base) = self
                .reader
                .read(&asked, &statements::BASE, &[&seq.as_i64()], |base: &mut Base, row| {
                    base.take(row, most);
                })
                .await?;
            if base.bytes <= most {
                return Ok(base.fold.unwrap_or_default());
            }
            drop(base.fold);
            held.grow_to(base.bytes + READ_BYTES as usize).await.map_err(ReadError::NoMemory)?;
        }
    }

    /// Applies the next events, up to and including `to`; at least one, since
    /// the log is read where it has come so far.
    pub async fn replay(
        &self,
        room: RoomId,
        fold: &mut Fold,
        to: Seq,
        freshness: Freshness,
        held: &mut Reservation,
    ) -> Result<(), ReadError> {
        let from = fold.head.seq;
        // At most so much is added by one reading.
        let needed = fold.bytes() + READ_BYTES as usize;
        if needed > held.bytes() {
            held.grow_to(needed + needed / 8).await.map_err(ReadError::NoMemory)?;
        }
        let span = REPLAY_EVENTS.min(to.0.saturating_sub(from.0));
        let asked = Asked { reach: Seq(from.0 + span), ..Asked::new(room, freshness) };
        let (_, events) = self.reader.events(asked, from, span).await?;
        for event in &events {
            fold.apply(event).map_err(|error| ReadError::Unfoldable(room, error))?;
        }
        Ok(())
    }

    /// Of the next `limit` rooms of a shard, those whose log is `events` or more
    /// ahead of their snapshots; and the last room that was looked at.
    pub async fn behind(
        &self,
        shard: ShardIndex,
        after: i64,
        limit: i64,
        events: u64,
        freshness: Freshness,
    ) -> Result<(Vec<Behind>, Option<i64>), ReadError> {
        let rows = self.reader.query(shard, freshness, &statements::BEHIND, &[&after, &limit]).await?;
        let last = rows.last().map(|row| row.get(0));
        let behind = rows.iter().filter_map(|row| {
            Some(Behind {
                room: RoomId::from_i64(row.get(0)).ok()?,
                head: Seq::from_i64(row.get(1)),
                newest: Seq::from_i64(row.get(2)),
            })
        });
        let due = |room: &Behind| room.head.0.saturating_sub(room.newest.0) >= events;
        Ok((behind.filter(due).collect(), last))
    }

    /// Keeps the state as a snapshot. False: there is one, or its position is
    /// not in the log.
    pub async fn keep_snapshot(&self, room: RoomId, fold: &Fold) -> Result<bool, WriteError> {
        let parts = parts(fold);
        let guard = self.guard(room).await?;
        let (room, seq, epoch) = (room.as_i64(), fold.head.seq.as_i64(), fold.head.epoch.as_i64());
        let count = i32::try_from(parts.len()).unwrap_or(i32::MAX);
        if guard.execute(&statements::ADD_SNAPSHOT, &[&room, &seq, &epoch, &count]).await? == 0 {
            guard.rollback().await;
            return Ok(false);
        }
        for (number, part) in (1_i32..).zip(&parts) {
            let Part { ids, versions, types, shapes } = part;
            guard
                .execute(&statements::ADD_PART, &[&room, &seq, &number, ids, versions, types, shapes])
                .await?;
        }
        guard.commit().await?;
        Ok(true)
    }
}

/// A snapshot as its parts arrive. Beyond the memory that there is for it, its parts
/// are only counted.
#[derive(Default)]
struct Base {
    fold: Option<Fold>,
    bytes: usize,
}

impl Base {
    fn take(&mut self, row: &Row, most: usize) {
        let Some(head) = base_position(row) else { return };
        let fold = self.fold.get_or_insert_with(|| Fold::resume(head, []));
        let shapes = part_shapes(row);
        self.bytes += shapes.iter().map(|(_, _, data)| data.json.len() + 256).sum::<usize>();
        if self.bytes > most {
            fold.shapes.clear();
        } else {
            fold.shapes.extend(Fold::resume(head, shapes).shapes);
        }
    }
}

/// Rows of the arrays of `room_snapshot_part`.
#[derive(Default)]
struct Part<'a> {
    ids: Vec<&'a str>,
    versions: Vec<i64>,
    types: Vec<Option<&'a str>>,
    shapes: Vec<&'a str>,
}

/// At least one, so that a reader sees what it misses.
fn parts(fold: &Fold) -> Vec<Part<'_>> {
    let (mut parts, mut bytes) = (vec![Part::default()], 0);
    for (id, version, data) in fold.live() {
        let full = |part: &Part<'_>| part.ids.len() >= PART_SHAPES || bytes >= PART_BYTES;
        if parts.last().is_some_and(full) {
            parts.push(Part::default());
            bytes = 0;
        }
        let Some(part) = parts.last_mut() else { continue };
        part.ids.push(id.as_str());
        part.versions.push(version.as_i64());
        part.types.push(data.shape_type.as_deref());
        part.shapes.push(&data.json);
        bytes += data.json.len();
    }
    parts
}

fn base_position(row: &Row) -> Option<Position> {
    let seq = Seq::from_i64(row.get::<_, Option<i64>>(OWN)?);
    Some(Position::new(Epoch::from_i64(row.get(OWN + 1)), seq))
}

fn part_shapes(row: &Row) -> Vec<(ShapeId, Version, ShapeData)> {
    let Some(ids) = row.get::<_, Option<Vec<&str>>>(OWN + 3) else { return Vec::new() };
    let versions: Vec<i64> = row.get(OWN + 4);
    let types: Vec<Option<&str>> = row.get(OWN + 5);
    let shapes: Vec<&str> = row.get(OWN + 6);
    let rows = ids.into_iter().zip(versions).zip(types).zip(shapes);
    rows.filter_map(|(((id, version), shape_type), json)| {
        let data = ShapeData { json: json.into(), shape_type: shape_type.map(Into::into) };
        Some((ShapeId::new(id).ok()?, Version::from_i64(version), data))
    })
    .collect()
}

fn snapshot_of(fold: Fold) -> Snapshot {
    let position = fold.head;
    let shape = |(id, version, data): (ShapeId, Version, ShapeData)| SnapshotShape {
        id: id.as_str().to_owned(),
        shape_type: data.shape_type.as_deref().map(str::to_owned),
        json: server::shape_item(version, &data.json),
    };
    let mut shapes: Vec<SnapshotShape> = fold.into_live().map(shape).collect();
    shapes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Snapshot { position, shapes }
}
