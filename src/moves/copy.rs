//! Rooms from one shard to another: making some of them there what they are here.
//!
//! Guarantees: what is copied in one transaction is as of one snapshot; a room's
//! head comes with everything up to it, so that the head says what is still
//! missing; nothing is left of what is not at the source.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures_util::future::{try_join, try_join3};

use super::pace::Pace;
use super::statements::{
    ACTIVATE, DROP_EVENTS, DROP_SNAPSHOTS, FENCED, GO, HEADS, MERGE_SHAPES, PROOF, ROOMS, SHAPES, SNAPSHOTS,
    STANDBYS,
};
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

impl Head {
    /// Whether what `there` has is a beginning of this, but for events that are kept
    /// no longer. It is ahead of its source only if that has lost what it once had.
    fn continues(self, there: Self) -> bool {
        let is_whole = (self.first.min(1)..=self.first).contains(&there.first);
        there.seq <= self.seq && (is_whole || there.seq < self.first)
    }
}

type Heads = HashMap<RoomId, Head>;

/// Of a transaction: all of it sees the same.
pub(super) const ONE_SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// What both sides need before rooms are made equal. Statements are prepared now, so
/// that no writer waits for it later.
pub(super) async fn prepare(source: &Connection, destination: &Connection) -> Result<(), DbError> {
    let incoming = "SET client_min_messages = warning;
                    CREATE TEMP TABLE IF NOT EXISTS incoming_shape (LIKE shape) ON COMMIT DELETE ROWS";
    destination.batch(incoming).await?;
    let here = [&FENCED, &GO, &ROOMS, &HEADS, &DIGESTS, &SNAPSHOTS, &SHAPES, &STANDBYS];
    let there = [&MERGE_SHAPES, &ACTIVATE, &ROOMS, &HEADS, &DIGESTS, &SNAPSHOTS, &SHAPES, &STANDBYS];
    try_join(source.prepare(&here), destination.prepare(&there)).await.map(drop)
}

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

/// What one side says of rooms before any row of their logs and shapes is read.
struct Facts {
    heads: Heads,
    /// Table, room, digest of all of its rows there.
    whole: HashSet<(String, RoomId, String)>,
    snapshots: HashSet<(RoomId, i64)>,
}

impl Pair<'_> {
    /// Rows that had to be copied.
    pub async fn equalize(&self, rooms: &[RoomId]) -> Result<u64, DbError> {
        let (here, mut there) =
            try_join(Box::pin(facts(self.source, rooms)), Box::pin(facts(self.destination, rooms))).await?;
        let wrong: Vec<RoomId> = there
            .heads
            .iter()
            .filter(|(room, there)| here.heads.get(room).is_none_or(|here| !here.continues(**there)))
            .map(|(room, _)| *room)
            .collect();
        if !wrong.is_empty() {
            wipe(self.destination, &wrong).await?;
            there = Box::pin(facts(self.destination, rooms)).await?;
        }
        let mut rows = self.whole(&here, &there).await?;
        rows += self.log(&here.heads, &there.heads).await?;
        rows += self.shapes(&here.heads, &there.heads).await?;
        rows += self.snapshots(&here, &there).await?;
        Ok(rows)
    }

    async fn whole(&self, here: &Facts, there: &Facts) -> Result<u64, DbError> {
        let differing: BTreeSet<(&str, RoomId)> = here
            .whole
            .symmetric_difference(&there.whole)
            .map(|(table, room, _)| (table.as_str(), *room))
            .collect();
        // What hangs from a room's row goes with it.
        let is_replaced = |table: &str, room: RoomId| {
            differing.contains(&(table, room))
                || HANGING.contains(&table) && differing.contains(&("room", room))
        };
        let tables = WHOLE.iter().map(|table| {
            let rooms = here.heads.keys().filter(|room| is_replaced(table, **room));
            (*table, rooms.copied().collect::<Vec<RoomId>>())
        });
        let tables: Vec<(&str, Vec<RoomId>)> = tables.filter(|(_, rooms)| !rooms.is_empty()).collect();
        if !tables.is_empty() {
            let deleted: Vec<String> = tables.iter().map(|(table, rooms)| delete(table, rooms)).collect();
            self.destination.batch(&deleted.join(";")).await?;
        }
        let mut copied = 0;
        for (table, rooms) in tables {
            copied += self.pipe(&rows_of(table, &rooms), table).await?;
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

    async fn snapshots(&self, here: &Facts, there: &Facts) -> Result<u64, DbError> {
        let gone = there.snapshots.difference(&here.snapshots);
        let (gone_rooms, gone_seqs): (Vec<i64>, Vec<i64>) =
            gone.map(|(room, seq)| (room.as_i64(), *seq)).unzip();
        if !gone_rooms.is_empty() {
            self.destination.execute(&DROP_SNAPSHOTS, &[&gone_rooms, &gone_seqs]).await?;
        }
        let missing: Vec<(RoomId, i64)> = here.snapshots.difference(&there.snapshots).copied().collect();
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
            let has_gone_on = here.get(room) != there.get(room);
            source.log == destination.log && (has_gone_on || source.shapes == destination.shapes)
        };
        Ok(rooms.iter().filter(|room| !is_equal(room)).copied().collect())
    }

    /// What can be told of fenced rooms without reading them.
    pub async fn is_even(&self, rooms: &[RoomId]) -> Result<bool, DbError> {
        let told = async |connection: &Connection| {
            let shapes = async { connection.query(&SHAPES, &[&ids(rooms)]).await };
            let (heads, shapes) = try_join(heads(connection, rooms), shapes).await?;
            let shapes: HashMap<i64, (i64, Option<String>)> =
                shapes.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
            Ok::<_, DbError>((heads, shapes))
        };
        let (here, there) = try_join(told(self.source), told(self.destination)).await?;
        Ok(here == there)
    }
}

/// What equal copies of a room have in common: every byte of every row counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub log: LogProof,
    pub shapes: Digested,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogProof {
    pub events: Digested,
    /// The first and the last event, if there is one.
    pub span: Option<(i64, i64)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Digested {
    pub count: i64,
    pub digest: i128,
}

/// Of each room's log between two events (inclusive), and of its shapes.
pub(super) async fn proof(
    connection: &Connection,
    bounds: &[(RoomId, i64, i64)],
) -> Result<HashMap<RoomId, Proof>, DbError> {
    let rooms: Vec<i64> = bounds.iter().map(|(room, _, _)| room.as_i64()).collect();
    let since: Vec<i64> = bounds.iter().map(|(_, since, _)| *since).collect();
    let until: Vec<i64> = bounds.iter().map(|(_, _, until)| *until).collect();
    let rows = connection.query(&PROOF, &[&rooms, &since, &until]).await?;
    let digested = |row: &Row, count: usize, digest: usize| {
        Some(Digested { count: row.get(count), digest: row.get::<_, &str>(digest).parse().ok()? })
    };
    let proof = |row: &Row| {
        let span = row.get::<_, Option<i64>>(2).zip(row.get(3));
        let log = LogProof { events: digested(row, 1, 4)?, span };
        Some((room(row, 0)?, Proof { log, shapes: digested(row, 5, 6)? }))
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

async fn facts(connection: &Connection, rooms: &[RoomId]) -> Result<Facts, DbError> {
    let ids = ids(rooms);
    let whole = async {
        let rows = connection.query(&DIGESTS, &[&ids]).await?;
        Ok(rows.iter().filter_map(|row| Some((row.get(0), room(row, 1)?, row.get(2)))).collect())
    };
    let snapshots = async {
        let rows = connection.query(&SNAPSHOTS, &[&ids]).await?;
        Ok(rows.iter().filter_map(|row| Some((room(row, 0)?, row.get(1)))).collect())
    };
    let (heads, whole, snapshots) = try_join3(heads(connection, rooms), whole, snapshots).await?;
    Ok(Facts { heads, whole, snapshots })
}

fn ids(rooms: &[RoomId]) -> Vec<i64> {
    rooms.iter().map(|room| room.as_i64()).collect()
}

fn room(row: &Row, column: usize) -> Option<RoomId> {
    RoomId::from_i64(row.get(column)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in the log after what [`Pair::log`] does.
    fn equalized(here: Head, there: Head) -> Vec<i64> {
        let kept = (there.first.max(1)..=there.seq).filter(|seq| there.first > 0 && *seq >= here.first);
        kept.chain((here.first.max(1)..=here.seq).filter(|seq| *seq > there.seq)).collect()
    }

    #[test]
    fn what_continues_a_copy_makes_it_whole_and_nothing_else_does() {
        let heads = || (0..6).flat_map(|seq| (0..=seq).map(move |first| Head { seq, first }));
        for here in heads().filter(|here| (here.seq == 0) == (here.first == 0)) {
            for there in heads() {
                let is_whole = equalized(here, there).into_iter().eq(here.first.max(1)..=here.seq);
                let is_ahead = there.seq > here.seq;
                assert_eq!(here.continues(there), is_whole && !is_ahead, "{here:?} {there:?}");
            }
        }
    }
}
