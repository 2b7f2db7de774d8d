//! Rooms from one shard to another: making some of them there what they are here.
//!
//! Guarantees: what is copied in one transaction is as of one snapshot; a room's
//! head comes with everything up to it, so that the head says what is still
//! missing; nothing is left of what is not at the source.

use std::collections::{HashMap, HashSet};

use futures_util::future::try_join;

use super::pace::Pace;
use super::statements::{DROP_EVENTS, DROP_SNAPSHOTS, HEADS, MERGE_SHAPES, PROOF, ROOMS, SHAPES, SNAPSHOTS};
use super::tables::{DIGESTS, HANGING, REST, WHOLE, delete, into, out, rows_above, rows_at, rows_of};
use crate::db::{Connection, DbError, Row};
use crate::ids::{RoomId, Slot};

/// Both ends of a move, each in a transaction of its own.
pub(super) struct Pair<'a> {
    pub source: &'a Connection,
    pub destination: &'a Connection,
    pub pace: &'a Pace,
    /// Writers wait for it, so it may not be slowed down.
    pub is_fenced: bool,
}

/// How far a room is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    pub seq: i64,
    /// The first event that is kept; 0 if there is none.
    pub first: i64,
}

type Heads = HashMap<RoomId, Head>;

/// What a destination needs before rooms are made equal there.
pub(super) async fn prepare(destination: &Connection) -> Result<(), DbError> {
    let incoming = "SET client_min_messages = warning;
                    CREATE TEMP TABLE IF NOT EXISTS incoming_shape (LIKE shape) ON COMMIT DELETE ROWS";
    destination.batch(incoming).await
}

/// Of one side, per room: what two equal copies have in common.
type Proof = HashMap<RoomId, Vec<Option<String>>>;

pub(super) async fn rooms(connection: &Connection, slot: Slot) -> Result<Vec<RoomId>, DbError> {
    let rows = connection.query(&ROOMS, &[&i32::from(slot.0)]).await?;
    Ok(rows.iter().filter_map(|row| room(row, 0)).collect())
}

pub(super) async fn heads(connection: &Connection, rooms: &[RoomId]) -> Result<Heads, DbError> {
    let rows = connection.query(&HEADS, &[&ids(rooms)]).await?;
    let head = |row: &Row| Some((room(row, 0)?, Head { seq: row.get(1), first: row.get(2) }));
    Ok(rows.iter().filter_map(head).collect())
}

/// Deletes rooms with all that belongs to them.
pub(super) async fn wipe(connection: &Connection, rooms: &[RoomId]) -> Result<(), DbError> {
    if rooms.is_empty() {
        return Ok(());
    }
    // Those that hang from others go with them.
    let tables = REST.iter().filter(|table| **table != "room_snapshot_part").chain(WHOLE.iter().rev());
    let statements: Vec<String> = tables.map(|table| delete(table, rooms)).collect();
    connection.batch(&statements.join(";")).await
}

impl Pair<'_> {
    /// Rows that had to be copied.
    pub async fn equalize(&self, rooms: &[RoomId]) -> Result<u64, DbError> {
        let (here, mut there) = try_join(heads(self.source, rooms), heads(self.destination, rooms)).await?;
        // It is ahead of its source only if that has lost what it once had.
        let wrong: Vec<RoomId> = there
            .iter()
            .filter(|(room, head)| here.get(room).is_none_or(|here| head.seq > here.seq))
            .map(|(room, _)| *room)
            .collect();
        wipe(self.destination, &wrong).await?;
        there.retain(|room, _| !wrong.contains(room));

        let mut rows = self.whole(rooms).await?;
        rows += self.log(&here, &there).await?;
        rows += self.shapes(&here, &there).await?;
        rows += self.snapshots(rooms).await?;
        Ok(rows)
    }

    async fn whole(&self, rooms: &[RoomId]) -> Result<u64, DbError> {
        let (here, there) = try_join(digests(self.source, rooms), digests(self.destination, rooms)).await?;
        let mut differing: Vec<HashSet<RoomId>> = (0..WHOLE.len())
            .map(|table| {
                let is_equal = |room: &RoomId| here.get(&(table, *room)) == there.get(&(table, *room));
                rooms.iter().filter(|room| !is_equal(room)).copied().collect()
            })
            .collect();
        // What hangs from a room's row goes with it.
        let replaced = differing[0].clone();
        for (table, differing) in WHOLE.iter().zip(&mut differing) {
            if HANGING.contains(table) {
                differing.extend(&replaced);
            }
        }
        let mut copied = 0;
        for (table, rooms) in WHOLE.iter().zip(differing) {
            let rooms: Vec<RoomId> = rooms.into_iter().collect();
            if !rooms.is_empty() {
                self.destination.batch(&delete(table, &rooms)).await?;
                copied += self.pipe(&rows_of(table, &rooms), table).await?;
            }
        }
        Ok(copied)
    }

    async fn log(&self, here: &Heads, there: &Heads) -> Result<u64, DbError> {
        let shortened = here.iter().filter(|(room, head)| {
            there.get(room).is_some_and(|there| there.first > 0 && there.first < head.first)
        });
        let (rooms, firsts): (Vec<i64>, Vec<i64>) =
            shortened.map(|(room, head)| (room.as_i64(), head.first)).unzip();
        if !rooms.is_empty() {
            self.destination.execute(&DROP_EVENTS, &[&rooms, &firsts]).await?;
        }
        let marks = marks(here, there, |_| true);
        self.pipe_some(&marks, |marks| rows_above("room_event", "seq", marks), "room_event").await
    }

    async fn shapes(&self, here: &Heads, there: &Heads) -> Result<u64, DbError> {
        let new = marks(here, there, |there| there.is_none());
        let grown = marks(here, there, |there| there.is_some());
        let mut copied =
            self.pipe_some(&new, |marks| rows_above("shape", "last_seq", marks), "shape").await?;
        if !grown.is_empty() {
            copied += self.pipe(&rows_above("shape", "last_seq", &grown), "incoming_shape").await?;
            self.destination.execute(&MERGE_SHAPES, &[]).await?;
        }
        Ok(copied)
    }

    async fn snapshots(&self, rooms: &[RoomId]) -> Result<u64, DbError> {
        let (here, there) =
            try_join(snapshots(self.source, rooms), snapshots(self.destination, rooms)).await?;
        let (gone_rooms, gone_seqs): (Vec<i64>, Vec<i64>) =
            there.difference(&here).map(|(room, seq)| (room.as_i64(), *seq)).unzip();
        if !gone_rooms.is_empty() {
            self.destination.execute(&DROP_SNAPSHOTS, &[&gone_rooms, &gone_seqs]).await?;
        }
        let missing: Vec<(RoomId, i64)> = here.difference(&there).copied().collect();
        let mut copied = 0;
        for table in ["room_snapshot", "room_snapshot_part"] {
            copied += self.pipe_some(&missing, |keys| rows_at(table, keys), table).await?;
        }
        Ok(copied)
    }

    async fn pipe_some(
        &self,
        keys: &[(RoomId, i64)],
        select: impl FnOnce(&[(RoomId, i64)]) -> String,
        table: &str,
    ) -> Result<u64, DbError> {
        if keys.is_empty() { Ok(0) } else { self.pipe(&select(keys), table).await }
    }

    async fn pipe(&self, select: &str, table: &str) -> Result<u64, DbError> {
        let pace = async |bytes| match self.is_fenced {
            true => self.pace.count(bytes),
            false => self.pace.spend(bytes).await,
        };
        self.source.pipe(&out(select), self.destination, &into(table), pace).await
    }

    /// Rooms whose copy is not what the source has, up to the copy's head; every
    /// byte of it is read. Both sides must be as of one snapshot each.
    pub async fn differing(&self, rooms: &[RoomId]) -> Result<Vec<RoomId>, DbError> {
        let (here, there) = try_join(heads(self.source, rooms), heads(self.destination, rooms)).await?;
        let bounds = |room: &RoomId| {
            let (here, there) = (here.get(room)?, there.get(room)?);
            Some((*room, here.first.max(there.first), there.seq))
        };
        let bounds: Vec<_> = rooms.iter().filter_map(bounds).collect();
        let (source, destination) =
            try_join(proof(self.source, &bounds), proof(self.destination, &bounds)).await?;
        let is_equal = |room: &RoomId| {
            let (Some(source), Some(destination)) = (source.get(room), destination.get(room)) else {
                return false;
            };
            // Shapes have but one state; there is none to compare if the source has
            // gone on.
            let comparable = if here.get(room) == there.get(room) { source.len() } else { LOG_PARTS };
            source.iter().zip(destination).take(comparable).all(|(a, b)| a == b)
        };
        Ok(rooms.iter().filter(|room| !is_equal(room)).copied().collect())
    }

    /// What can be told of fenced rooms without reading them.
    pub async fn is_even(&self, rooms: &[RoomId]) -> Result<bool, DbError> {
        let told = async |connection: &Connection| {
            let heads = heads(connection, rooms).await?;
            let rows = connection.query(&SHAPES, &[&ids(rooms)]).await?;
            let shapes: HashMap<i64, (i64, Option<String>)> =
                rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
            Ok::<_, DbError>((heads, shapes))
        };
        let (here, there) = try_join(told(self.source), told(self.destination)).await?;
        Ok(here == there)
    }
}

/// Of what [`PROOF`] tells, what is about the log.
const LOG_PARTS: usize = 4;

async fn proof(connection: &Connection, bounds: &[(RoomId, i64, i64)]) -> Result<Proof, DbError> {
    let rooms: Vec<i64> = bounds.iter().map(|(room, _, _)| room.as_i64()).collect();
    let since: Vec<i64> = bounds.iter().map(|(_, since, _)| *since).collect();
    let until: Vec<i64> = bounds.iter().map(|(_, _, until)| *until).collect();
    let rows = connection.query(&PROOF, &[&rooms, &since, &until]).await?;
    let text = |number: Option<i64>| number.map(|number| number.to_string());
    let proof = |row: &Row| {
        let parts = vec![
            text(row.get(1)),
            text(row.get(2)),
            text(row.get(3)),
            row.get(4),
            text(row.get(5)),
            row.get(6),
        ];
        Some((room(row, 0)?, parts))
    };
    Ok(rows.iter().filter_map(proof).collect())
}

/// Rooms whose log the destination lacks the end of, and up to where it has it.
fn marks(here: &Heads, there: &Heads, wanted: impl Fn(Option<&Head>) -> bool) -> Vec<(RoomId, i64)> {
    let behind = here.iter().filter_map(|(room, head)| {
        let there = there.get(room);
        let mark = there.map_or(0, |there| there.seq);
        (wanted(there) && mark < head.seq).then_some((*room, mark))
    });
    behind.collect()
}

async fn digests(
    connection: &Connection,
    rooms: &[RoomId],
) -> Result<HashMap<(usize, RoomId), String>, DbError> {
    let rows = connection.query(&DIGESTS, &[&ids(rooms)]).await?;
    let digest = |row: &Row| Some(((usize::try_from(row.get::<_, i32>(0)).ok()?, room(row, 1)?), row.get(2)));
    Ok(rows.iter().filter_map(digest).collect())
}

async fn snapshots(connection: &Connection, rooms: &[RoomId]) -> Result<HashSet<(RoomId, i64)>, DbError> {
    let rows = connection.query(&SNAPSHOTS, &[&ids(rooms)]).await?;
    Ok(rows.iter().filter_map(|row| Some((room(row, 0)?, row.get(1)))).collect())
}

fn ids(rooms: &[RoomId]) -> Vec<i64> {
    rooms.iter().map(|room| room.as_i64()).collect()
}

fn room(row: &Row, column: usize) -> Option<RoomId> {
    RoomId::from_i64(row.get(column)).ok()
}
