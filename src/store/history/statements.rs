//! The SQL of reads. Each is one statement and so one snapshot: who owns the
//! slot, where the head is, what the log says at the positions that matter, and
//! the rows.

use super::daily;
use super::judge::{At, Facts};
use super::{EventDigest, LogEvent, RoomHead, SnapshotShape};
use crate::clock::UnixMillis;
use crate::db::{Row, Sql};
use crate::ids::{OpId, RoomId, UserId};
use crate::log::{Digest, Event};
use crate::position::{Epoch, Position, Seq};
use crate::protocol::{Kind, Version, server};

/// To be prepared on every connection that is read from.
pub const STATEMENTS: &[&Sql] = &[
    &HEAD,
    &PAGE,
    &EVENTS,
    &SNAPSHOT,
    &SHAPES,
    &HEADS,
    &PLACE,
    &BASE,
    &BEHIND,
    &ADD_SNAPSHOT,
    &ADD_PART,
    &EXPIRED,
    &DELETE_EVENTS,
    &DELETE_SNAPSHOTS,
    &daily::UNCOUNTED,
    &daily::BEGIN,
    &daily::COUNT,
    &daily::CLOSE,
    &daily::DAILY,
];

/// $1 room, $2 slot, $3 a seq whose epoch is asked, $4 another. One row at
/// least, whatever there is.
macro_rules! facts {
    ($more:literal, $from:literal) => {
        concat!(
            "SELECT owner.state = 'active', owner.epoch, head.head_seq, head.head_epoch, head.access_rev,
       head.live_bytes + 256 * head.live_shapes,
       (SELECT seq FROM room_event WHERE room_id = $1 ORDER BY seq LIMIT 1),
       (SELECT epoch FROM room_event WHERE room_id = $1 AND seq = $3),
       (SELECT epoch FROM room_event WHERE room_id = $1 AND seq = $4)",
            $more,
            "
  FROM (VALUES (0)) AS always (here)
  LEFT JOIN slot_owner AS owner ON owner.slot = $2
  LEFT JOIN room_head AS head ON head.room_id = $1",
            $from
        )
    };
}

pub(super) use facts as with_facts;

pub(super) static HEAD: Sql = Sql { name: "read_head", text: facts!("", "") };

/// The events after $5 up to and including $6, or until their bodies have $7 bytes.
pub(super) static PAGE: Sql = Sql {
    name: "read_page",
    text: facts!(
        ", event.seq, event.epoch, event.op_id, event.user_id, event.kind, event.body::text, event.digest,
       event.version, event.cleared, event.at",
        "
  LEFT JOIN LATERAL (
       SELECT seq, epoch, op_id, user_id, kind, body, digest, version, cleared,
              (extract(epoch FROM created_at) * 1000)::bigint AS at,
              sum(octet_length(body::text)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING)
                - octet_length(body::text) AS bytes_before
         FROM room_event WHERE room_id = $1 AND seq > $5 AND seq <= $6) AS event ON event.bytes_before < $7"
    ),
};

/// Of the events after $5 up to and including $6: those of user $7 since $8,
/// the first $9, or until their bodies have $10 bytes.
pub(super) static EVENTS: Sql = Sql {
    name: "read_events",
    text: facts!(
        ", event.seq, event.epoch, event.op_id, event.user_id, event.kind, event.body::text, event.digest,
       event.version, event.cleared, event.at",
        "
  LEFT JOIN LATERAL (
       SELECT seq, epoch, op_id, user_id, kind, body, digest, version, cleared,
              (extract(epoch FROM created_at) * 1000)::bigint AS at,
              sum(octet_length(body::text)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING)
                - octet_length(body::text) AS bytes_before
         FROM (SELECT * FROM room_event
                WHERE room_id = $1 AND seq > $5 AND seq <= $6
                  AND ($7::text IS NULL OR user_id = $7)
                  AND ($8::bigint IS NULL OR created_at >= to_timestamp($8::bigint / 1000.0))
                ORDER BY seq LIMIT $9) AS wanted) AS event ON event.bytes_before < $10"
    ),
};

/// All live shapes, unless they need more than $5 bytes of memory. A tombstone has no
/// data; a shape that a clear has passed reads as deleted.
pub(super) static SNAPSHOT: Sql = Sql {
    name: "read_snapshot",
    text: facts!(
        ", shape.shape_id, shape.version, shape.type, shape.data::text",
        "
  LEFT JOIN shape ON shape.room_id = $1 AND NOT shape.deleted AND shape.last_seq > head.cleared_seq
       AND head.live_bytes + 256 * head.live_shapes <= $5"
    ),
};

/// The live shapes whose ids come after $5, of type $6 if it is given: the first $7,
/// or until their texts have $8 bytes.
pub(super) static SHAPES: Sql = Sql {
    name: "read_shapes",
    text: facts!(
        ", shape.shape_id, shape.version, shape.type, shape.data::text",
        "
  LEFT JOIN LATERAL (
       SELECT shape_id, version, type, data,
              sum(octet_length(data::text)) OVER (ORDER BY shape_id ROWS UNBOUNDED PRECEDING)
                - octet_length(data::text) AS bytes_before
         FROM (SELECT shape_id, version, type, data FROM shape
                WHERE room_id = $1 AND shape_id > $5 AND NOT deleted AND last_seq > head.cleared_seq
                  AND ($6::text IS NULL OR type = $6)
                ORDER BY shape_id LIMIT $7) AS wanted) AS shape ON shape.bytes_before < $8"
    ),
};

/// Of many rooms: the epoch of the slot, if it is owned here; the head, if the room is
/// here, which it may not be yet on a replica; and the head's event, if $3 asks for it.
pub(super) static HEADS: Sql = Sql {
    name: "read_heads",
    text: "SELECT wanted.room_id, owner.epoch, head.head_seq, head.head_epoch, head.access_rev,
       event.seq, event.epoch, event.op_id, event.user_id, event.kind, event.body::text, event.digest,
       event.version, event.cleared, (extract(epoch FROM event.created_at) * 1000)::bigint
  FROM unnest($1::bigint[], $2::int[], $3::boolean[]) AS wanted (room_id, slot, has_event)
  LEFT JOIN slot_owner AS owner ON owner.slot = wanted.slot AND owner.state = 'active'
  LEFT JOIN room_head AS head ON head.room_id = wanted.room_id
  LEFT JOIN room_event AS event ON event.room_id = wanted.room_id
       AND event.seq = CASE WHEN wanted.has_event THEN head.head_seq END",
};

/// The newest snapshot at or before $5.
pub(super) static PLACE: Sql = Sql {
    name: "read_place",
    text: facts!(
        ", base.seq, base.epoch",
        "
  LEFT JOIN LATERAL (
       SELECT seq, epoch FROM room_snapshot
        WHERE room_id = $1 AND seq <= $5 ORDER BY seq DESC LIMIT 1) AS base ON true"
    ),
};

/// The same with all it holds.
pub(super) static BASE: Sql = Sql {
    name: "read_base",
    text: facts!(
        ", base.seq, base.epoch, base.parts, part.shape_ids, part.versions, part.types, part.shapes",
        "
  LEFT JOIN LATERAL (
       SELECT seq, epoch, parts FROM room_snapshot
        WHERE room_id = $1 AND seq <= $5 ORDER BY seq DESC LIMIT 1) AS base ON true
  LEFT JOIN room_snapshot_part AS part ON part.room_id = $1 AND part.seq = base.seq"
    ),
};

/// Whether the shard owns a room. What is left of one that moved away says nothing
/// about the room, and a node that missed the move can't tell them apart. (EXISTS
/// would be planned for all rooms at once.)
macro_rules! is_owned {
    ($room:literal) => {
        concat!(
            "coalesce((SELECT slot_owner.state = 'active' FROM room AS owned
               JOIN slot_owner ON slot_owner.slot = owned.slot
              WHERE owned.id = ",
            $room,
            "), false)"
        )
    };
}
pub(super) use is_owned;

/// The $2 rooms after $1, with their heads and their newest snapshots; there is
/// nothing to do in those that the shard doesn't own.
pub(super) static BEHIND: Sql = Sql {
    name: "read_behind",
    text: concat!(
        "SELECT head.room_id, head.head_seq, CASE WHEN ",
        is_owned!("head.room_id"),
        " THEN coalesce(newest.seq, 0) ELSE head.head_seq END
  FROM (SELECT room_id, head_seq FROM room_head WHERE room_id > $1 ORDER BY room_id LIMIT $2) AS head
  LEFT JOIN LATERAL (
       SELECT seq FROM room_snapshot
        WHERE room_snapshot.room_id = head.room_id ORDER BY seq DESC LIMIT 1) AS newest ON true
 ORDER BY head.room_id"
    ),
};

/// Only of a position that is in the log.
pub(super) static ADD_SNAPSHOT: Sql = Sql {
    name: "snapshot_add",
    text: "INSERT INTO room_snapshot (room_id, seq, epoch, parts, as_of)
           SELECT room_id, seq, epoch, $4, created_at FROM room_event
            WHERE room_id = $1 AND seq = $2 AND epoch = $3
           ON CONFLICT DO NOTHING",
};

pub(super) static ADD_PART: Sql = Sql {
    name: "snapshot_add_part",
    text: "INSERT INTO room_snapshot_part (room_id, seq, part, shape_ids, versions, types, shapes)
           VALUES ($1, $2, $3, $4, $5, $6, $7)",
};

/// Of the $2 rooms after $1: the newest snapshot that is older than the room's
/// retention, else $3, and is not at the head; and the first event there is. None
/// in rooms that the shard doesn't own.
pub(super) static EXPIRED: Sql = Sql {
    name: "read_expired",
    text: concat!(
        "SELECT room.id, kept.seq, oldest.seq
  FROM (SELECT id, least(coalesce(retention_ms, $3), 3000000000000) AS retention_ms
          FROM room WHERE id > $1 ORDER BY id LIMIT $2) AS room
  LEFT JOIN LATERAL (
       SELECT room_snapshot.seq FROM room_snapshot
        WHERE room.retention_ms > 0 AND room_snapshot.room_id = room.id AND ",
        is_owned!("room.id"),
        "
          AND room_snapshot.seq < (SELECT head_seq FROM room_head WHERE room_head.room_id = room.id)
          AND room_snapshot.as_of < now() - room.retention_ms * interval '1 millisecond'
        ORDER BY room_snapshot.seq DESC LIMIT 1) AS kept ON true
  LEFT JOIN LATERAL (
       SELECT room_event.seq FROM room_event
        WHERE room_event.room_id = room.id AND kept.seq IS NOT NULL
        ORDER BY room_event.seq LIMIT 1) AS oldest ON true
 ORDER BY room.id"
    ),
};

/// From $2 to $3, which are behind the snapshot at $4, and counted.
pub(super) static DELETE_EVENTS: Sql = Sql {
    name: "retention_delete_events",
    text: "DELETE FROM room_event
            WHERE room_id = $1 AND seq >= $2 AND seq <= $3 AND seq <= $4
              AND seq <= (SELECT counted.seq FROM room_counted AS counted WHERE counted.room_id = $1)
              AND EXISTS (SELECT FROM room_snapshot WHERE room_snapshot.room_id = $1 AND room_snapshot.seq = $4)",
};

pub(super) static DELETE_SNAPSHOTS: Sql = Sql {
    name: "retention_delete_snapshots",
    text: "DELETE FROM room_snapshot WHERE room_id = $1 AND seq < $2",
};

/// How many columns come before a statement's own.
pub(super) const OWN: usize = 9;

/// `asked` are the positions that went in as $3 and $4.
pub(super) fn facts(row: &Row, asked: [Option<Position>; 2]) -> Facts {
    let at = |index: usize| {
        let position = asked[index]?;
        let epoch: Option<i64> = row.get(7 + index);
        Some(At { position, epoch: epoch.map(Epoch::from_i64) })
    };
    let head: Option<i64> = row.get(2);
    Facts {
        slot_epoch: row
            .get::<_, Option<bool>>(0)
            .unwrap_or_default()
            .then(|| Epoch::from_i64(row.get::<_, Option<i64>>(1).unwrap_or_default())),
        head: head.map(|seq| Position::new(Epoch::from_i64(row.get(3)), Seq::from_i64(seq))),
        access_rev: row.get::<_, Option<i64>>(4).unwrap_or_default().unsigned_abs(),
        state_bytes: count(row.get::<_, Option<i64>>(5)),
        first: row.get::<_, Option<i64>>(6).map(Seq::from_i64),
        asked: [at(0), at(1)],
        peeked: row.get::<_, Option<i64>>(8).map(Epoch::from_i64),
    }
}

fn count(column: Option<i64>) -> usize {
    usize::try_from(column.unwrap_or_default()).unwrap_or_default()
}

/// `None`: there is no event on this row.
pub(super) fn event(row: &Row, room: RoomId) -> Option<Result<Event, Unreadable>> {
    let seq = Seq::from_i64(row.get::<_, Option<i64>>(OWN)?);
    Some(read_event(row, OWN, room, seq).ok_or(Unreadable { room, seq }))
}

/// A row that this version can't have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("room {room}: event {seq} can't be read")]
pub struct Unreadable {
    pub room: RoomId,
    pub seq: Seq,
}

/// Its columns begin at `at`.
fn read_event(row: &Row, at: usize, room: RoomId, seq: Seq) -> Option<Event> {
    Some(Event {
        room,
        position: Position::new(Epoch::from_i64(row.get(at + 1)), seq),
        op: OpId::new(row.get(at + 2)).ok()?,
        user: UserId::new(row.get(at + 3)).ok()?,
        kind: Kind::parse(row.get(at + 4))?,
        body: row.get::<_, &str>(at + 5).into(),
        digest: Digest(row.get::<_, &[u8]>(at + 6).try_into().ok()?),
        version: row.get::<_, Option<i64>>(at + 7).map(Version::from_i64),
        cleared: row.get::<_, Option<i64>>(at + 8).map(i64::unsigned_abs),
        at: UnixMillis(row.get(at + 9)),
    })
}

pub(super) fn log_event(event: &Event) -> LogEvent {
    LogEvent { position: event.position, json: event.to_json() }
}

/// `None`: there is no shape on this row.
pub(super) fn shape(row: &Row) -> Option<SnapshotShape> {
    let id: String = row.get::<_, Option<String>>(OWN)?;
    let version = Version::from_i64(row.get(OWN + 1));
    let json = server::shape_item(version, row.get::<_, Option<&str>>(OWN + 3)?);
    Some(SnapshotShape { id, shape_type: row.get(OWN + 2), json })
}

/// Of a row of [`HEADS`] whose slot is owned.
pub(super) fn head(row: &Row, slot_epoch: i64) -> Option<RoomHead> {
    let seq = Seq::from_i64(row.get::<_, Option<i64>>(2)?);
    Some(RoomHead {
        room: RoomId::from_i64(row.get(0)).ok()?,
        position: Position::new(Epoch::from_i64(row.get(3)), seq),
        access_rev: row.get::<_, i64>(4).unsigned_abs(),
        slot_epoch: Epoch::from_i64(slot_epoch),
        event: head_event(row),
    })
}

fn head_event(row: &Row) -> Option<EventDigest> {
    let seq = Seq::from_i64(row.get::<_, Option<i64>>(HEAD_EVENT)?);
    let event = read_event(row, HEAD_EVENT, RoomId::from_i64(row.get(0)).ok()?, seq)?;
    Some(log_event(&event).digest())
}

/// Where the event begins on a row of [`HEADS`].
const HEAD_EVENT: usize = 5;
