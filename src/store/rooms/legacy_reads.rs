//! Positions at which clients of the first protocol read a room's history.
//!
//! Such a client reads the history over HTTP and then joins over a WebSocket,
//! maybe on another node. It sends no position, so the shard keeps that of the
//! read for two minutes. Not Redis, because correctness must not depend on it. Not
//! the directory, because a room's readers need the room's shard and nothing else.
//!
//! Tabs of one sign-in look alike. Reads that wait for a join at the same time
//! are therefore one group: each of their joins gets the group's lowest and
//! highest position, until the last read of the group has its join.

use std::time::Instant;

use uuid::Uuid;

use super::read::of_primary;
use super::write::Change;
use super::{Rooms, RoomsError};
use crate::db::{Connection, Row, Sql};
use crate::digests::ReaderDigest;
use crate::ids::RoomId;
use crate::position::{Epoch, Position, Seq};
use crate::routing::Shard;

pub(super) static FORGET: Sql = Sql {
    name: "legacy_read_forget",
    text: "DELETE FROM room_legacy_read WHERE room_id = $1 AND read_at <= now() - interval '2 minutes'",
};

pub(super) static NOTE: Sql = Sql {
    name: "legacy_read_note",
    text: "INSERT INTO room_legacy_read (room_id, reader, id, epoch, seq) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT DO NOTHING",
};

// A join whose COMMIT lost its answer runs again, and finds the group it closed.
pub(super) static WAITING: Sql = Sql {
    name: "legacy_read_waiting",
    text: "SELECT id, epoch, seq, claimed_by FROM room_legacy_read
            WHERE room_id = $1 AND reader = $2 AND (closed_by IS NULL OR closed_by = $3)
              AND read_at > now() - interval '2 minutes'
            ORDER BY seq FOR UPDATE",
};

pub(super) static CLAIM: Sql = Sql {
    name: "legacy_read_claim",
    text: "UPDATE room_legacy_read SET claimed_by = $4 WHERE room_id = $1 AND reader = $2 AND id = $3",
};

// A read that was stored after the group was looked at waits for its own join.
pub(super) static CLOSE: Sql = Sql {
    name: "legacy_read_close",
    text: "UPDATE room_legacy_read SET closed_by = $3
            WHERE room_id = $1 AND reader = $2 AND closed_by IS NULL AND claimed_by IS NOT NULL",
};

// Rows left behind by a move are not swept here: they go with the room's others.
pub(super) static EXPIRED: Sql = Sql {
    name: "legacy_reads_expired",
    text: "SELECT DISTINCT room_id FROM (
               SELECT read.room_id FROM room_legacy_read AS read
                 JOIN room ON room.id = read.room_id
                 JOIN slot_owner ON slot_owner.slot = room.slot AND slot_owner.state = 'active'
                WHERE read.read_at <= now() - interval '2 minutes'
                ORDER BY read.read_at LIMIT $1) AS oldest",
};

const SWEEP_MOST: i64 = 1000;

/// Where the history ends that a joiner has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBefore {
    /// The joiner has everything up to here.
    pub from: Position,
    /// It may have the events after `from` up to this one: another tab's read
    /// can't be told from its own.
    pub unsure_to: Seq,
}

impl Rooms {
    /// Remembers that `reader` read the history up to `at`.
    pub async fn note_legacy_read(
        &self,
        room: RoomId,
        reader: ReaderDigest,
        at: Position,
        deadline: Instant,
    ) -> Result<(), RoomsError> {
        self.change(&Note { room, reader, id: Uuid::new_v4(), at }, deadline).await
    }

    /// The read that `reader` joins after; `None` if there was none in the last
    /// two minutes. A read has one join; the same `join` gets the same read again.
    pub async fn claim_legacy_read(
        &self,
        room: RoomId,
        reader: ReaderDigest,
        join: Uuid,
        deadline: Instant,
    ) -> Result<Option<ReadBefore>, RoomsError> {
        self.change(&Claim { room, reader, join }, deadline).await
    }

    /// Deletes some of a shard's expired reads. Returns the number of their rooms.
    pub async fn sweep_legacy_reads(&self, shard: &Shard, deadline: Instant) -> Result<usize, RoomsError> {
        let expired = of_primary(shard, &EXPIRED, &[&SWEEP_MOST]).await?;
        for row in &expired {
            let room = RoomId::from_i64(row.get(0));
            let room = room.map_err(|_| RoomsError::Corrupt { what: "a legacy history read" })?;
            self.change(&Forget { room }, deadline).await?;
        }
        Ok(expired.len())
    }
}

struct Note {
    room: RoomId,
    reader: ReaderDigest,
    id: Uuid,
    at: Position,
}

impl Change for Note {
    type Done = ();

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<(), RoomsError> {
        let (room, reader) = (self.room.as_i64(), &self.reader.0[..]);
        let (epoch, seq) = (self.at.epoch.as_i64(), self.at.seq.as_i64());
        connection.execute(&FORGET, &[&room]).await?;
        connection.execute(&NOTE, &[&room, &reader, &self.id, &epoch, &seq]).await?;
        Ok(())
    }
}

struct Claim {
    room: RoomId,
    reader: ReaderDigest,
    join: Uuid,
}

impl Change for Claim {
    type Done = Option<ReadBefore>;

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<Option<ReadBefore>, RoomsError> {
        let (room, reader, join) = (self.room.as_i64(), &self.reader.0[..], self.join);
        let rows = connection.query(&WAITING, &[&room, &reader, &join]).await?;
        let reads: Vec<Waiting> = rows.iter().map(waiting).collect();
        let Some(claimed) = claimed(&reads, join) else { return Ok(None) };
        if let Some(id) = claimed.takes {
            connection.execute(&CLAIM, &[&room, &reader, &id, &join]).await?;
        }
        if claimed.closes {
            connection.execute(&CLOSE, &[&room, &reader, &join]).await?;
        }
        Ok(Some(claimed.read))
    }
}

struct Forget {
    room: RoomId,
}

impl Change for Forget {
    type Done = ();

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<(), RoomsError> {
        connection.execute(&FORGET, &[&self.room.as_i64()]).await?;
        Ok(())
    }
}

/// A read of the open group.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    id: Uuid,
    at: Position,
    claimed_by: Option<Uuid>,
}

fn waiting(row: &Row) -> Waiting {
    let at = Position::new(Epoch::from_i64(row.get(1)), Seq::from_i64(row.get(2)));
    Waiting { id: row.get(0), at, claimed_by: row.get(3) }
}

#[derive(Debug, PartialEq, Eq)]
struct Claimed {
    read: ReadBefore,
    /// `None`: this join has one already.
    takes: Option<Uuid>,
    /// No other read waits for its join.
    closes: bool,
}

/// `reads` in the order of their seqs.
fn claimed(reads: &[Waiting], join: Uuid) -> Option<Claimed> {
    let (first, last) = (reads.first()?, reads.last()?);
    let read = ReadBefore { from: first.at, unsure_to: last.at.seq };
    if reads.iter().any(|read| read.claimed_by == Some(join)) {
        return Some(Claimed { read, takes: None, closes: false });
    }
    let mut free = reads.iter().filter(|read| read.claimed_by.is_none());
    let takes = Some(free.next()?.id);
    Some(Claimed { read, takes, closes: free.next().is_none() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(id: u128, seq: u64, claimed_by: Option<u128>) -> Waiting {
        let at = Position::new(Epoch(1), Seq(seq));
        Waiting { id: Uuid::from_u128(id), at, claimed_by: claimed_by.map(Uuid::from_u128) }
    }

    fn claim(reads: &[Waiting], join: u128) -> Option<(u64, u64, Option<u128>, bool)> {
        let claimed = claimed(reads, Uuid::from_u128(join))?;
        let ReadBefore { from, unsure_to } = claimed.read;
        Some((from.seq.0, unsure_to.0, claimed.takes.map(|id| id.as_u128()), claimed.closes))
    }

    #[test]
    fn a_join_after_one_read_continues_from_it() {
        assert_eq!(claim(&[], 1), None);
        assert_eq!(claim(&[read(7, 20, None)], 1), Some((20, 20, Some(7), true)));
    }

    #[test]
    fn a_repeated_claim_gets_the_same_read() {
        assert_eq!(claim(&[read(7, 20, Some(1))], 1), Some((20, 20, None, false)));
    }

    #[test]
    fn joins_of_tabs_miss_nothing_in_any_order() {
        let both = [read(7, 20, None), read(8, 25, None)];
        assert_eq!(claim(&both, 1), Some((20, 25, Some(7), false)));
        let one_left = [read(7, 20, Some(1)), read(8, 25, None)];
        assert_eq!(claim(&one_left, 2), Some((20, 25, Some(8), true)));
    }

    #[test]
    fn a_join_without_a_free_read_gets_none() {
        // The group's other read expired before its join.
        assert_eq!(claim(&[read(7, 20, Some(1))], 2), None);
    }
}
