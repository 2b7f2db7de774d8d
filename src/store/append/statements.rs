//! The SQL of the append: the statements, what goes in by column, what comes out.

use std::collections::{HashMap, HashSet};

use crate::clock::UnixMillis;
use crate::db::{Connection, DbError, JsonText, Row, Sql, ToSql};
use crate::ids::{RoomId, ShapeId, Slot, UserId};
use crate::log::{
    Authority, Before, Digest, Event, KnownOp, OpKey, RoomState, ShapeData, ShapeState, Submit,
};
use crate::placement::slot_of;
use crate::position::{Epoch, Position, Seq};
use crate::protocol::{DefaultRole, Role, Schema, Version};

/// Prepared on every connection that may append.
pub const STATEMENTS: &[&Sql] = &[
    &LOCK_SLOTS,
    &TRY_LOCK_SLOTS,
    &LOCK_HEADS,
    &SKIP_LOCKED_HEADS,
    &ROOMS,
    &SHAPES,
    &OPS,
    &MEMBERS,
    &ADD_EVENTS,
    &PUT_SHAPES,
    &MOVE_HEADS,
];

/// Shared with other writers, against the one who moves the slot away.
pub(super) static LOCK_SLOTS: Sql = Sql {
    name: "append_lock_slots",
    text: "SELECT slot, pg_advisory_xact_lock_shared($1, slot)::text FROM unnest($2::int[]) AS slot",
};

pub(super) static TRY_LOCK_SLOTS: Sql = Sql {
    name: "append_try_lock_slots",
    text: "SELECT slot, null FROM unnest($2::int[]) AS slot WHERE pg_try_advisory_xact_lock_shared($1, slot)",
};

/// In the order of their ids, like every writer: no deadlocks between appends.
pub(super) static LOCK_HEADS: Sql = Sql {
    name: "append_lock_heads",
    text: "SELECT room_id, head_seq, head_epoch, cleared_seq, live_shapes, live_bytes FROM room_head
           WHERE room_id = ANY($1) ORDER BY room_id FOR NO KEY UPDATE OF room_head",
};

pub(super) static SKIP_LOCKED_HEADS: Sql = Sql {
    name: "append_skip_locked_heads",
    text: "SELECT room_id, head_seq, head_epoch, cleared_seq, live_shapes, live_bytes FROM room_head
           WHERE room_id = ANY($1) ORDER BY room_id FOR NO KEY UPDATE OF room_head SKIP LOCKED",
};

/// Who owns the slots, whether this server may be written, what the rooms are.
/// One row a room asked for, also if there is no such room.
pub(super) static ROOMS: Sql = Sql {
    name: "append_rooms",
    text: "SELECT wanted.room_id, owner.epoch, owner.state, room.owner, room.access, room.default_role, room.schema,
                  room.archived_at IS NOT NULL, server.claimed, server.replicated
           FROM (SELECT coalesce((SELECT timeline FROM shard_claim)
                          = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int, false) AS claimed,
                        current_setting('synchronous_standby_names') <> ''
                          AND current_setting('synchronous_commit') IN ('on', 'remote_apply') AS replicated
                ) AS server,
                unnest($1::bigint[], $2::int[]) AS wanted (room_id, slot)
           LEFT JOIN slot_owner AS owner ON owner.slot = wanted.slot
           LEFT JOIN room ON room.id = wanted.room_id",
};

// A lateral subquery with a limit is run once a key, whatever the planner thinks
// of the table's size.

pub(super) static SHAPES: Sql = Sql {
    name: "append_shapes",
    text: "SELECT wanted.at, found.version, found.type, found.data, found.last_seq
           FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS wanted (room_id, shape_id, at),
                LATERAL (SELECT * FROM shape
                          WHERE room_id = wanted.room_id AND shape_id = wanted.shape_id LIMIT 1) AS found",
};

pub(super) static OPS: Sql = Sql {
    name: "append_ops",
    text: "SELECT wanted.at, found.seq, found.epoch, found.digest, found.version, found.cleared,
                  (extract(epoch FROM found.created_at) * 1000)::bigint
           FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS wanted (room_id, user_id, op_id, at),
                LATERAL (SELECT * FROM room_event
                          WHERE room_id = wanted.room_id AND user_id = wanted.user_id AND op_id = wanted.op_id
                          LIMIT 1) AS found",
};

pub(super) static MEMBERS: Sql = Sql {
    name: "append_members",
    text: "SELECT wanted.at, found.role
           FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS wanted (room_id, user_id, at),
                LATERAL (SELECT role FROM room_member
                          WHERE room_id = wanted.room_id
                            AND user_id IN (wanted.user_id, (SELECT erased_member(ban_key, wanted.user_id)
                                                               FROM room WHERE id = wanted.room_id))
                          LIMIT 1) AS found",
};

pub(super) static ADD_EVENTS: Sql = Sql {
    name: "append_add_events",
    text: "INSERT INTO room_event
             (room_id, seq, epoch, user_id, op_id, kind, body, digest, version, cleared, created_at)
           SELECT *, to_timestamp($11::bigint / 1000.0)
           FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::json[],
                       $8::bytea[], $9::bigint[], $10::bigint[])",
};

pub(super) static PUT_SHAPES: Sql = Sql {
    name: "append_put_shapes",
    text: "INSERT INTO shape (room_id, shape_id, version, type, data, deleted, last_seq)
           SELECT room_id, shape_id, version, type, data, data IS NULL, last_seq
           FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::json[], $6::bigint[])
             AS changed (room_id, shape_id, version, type, data, last_seq)
           ON CONFLICT (room_id, shape_id) DO UPDATE
           SET version = excluded.version, type = excluded.type, data = excluded.data,
               deleted = excluded.deleted, last_seq = excluded.last_seq",
};

/// Always an update: the heads are locked. An upsert goes by the key, where an
/// `UPDATE … FROM` would be a join that the planner may turn around.
pub(super) static MOVE_HEADS: Sql = Sql {
    name: "append_move_heads",
    text: "INSERT INTO room_head (room_id, head_seq, head_epoch, cleared_seq, live_shapes, live_bytes)
           SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
           ON CONFLICT (room_id) DO UPDATE
           SET head_seq = excluded.head_seq, head_epoch = excluded.head_epoch,
               cleared_seq = excluded.cleared_seq, live_shapes = excluded.live_shapes,
               live_bytes = excluded.live_bytes",
};

/// What a batch names, by column, each thing once.
pub(super) struct Wanted<'a> {
    /// In order: the order in which they are locked.
    pub slots: Vec<i32>,
    /// In order, likewise.
    pub rooms: Vec<i64>,
    pub room_slots: Vec<i32>,
    pub shapes: Pairs<'a, ShapeId>,
    pub members: Pairs<'a, UserId>,
    pub op_rooms: Vec<i64>,
    pub op_users: Vec<&'a str>,
    pub ops: Vec<&'a str>,
}

/// Things within rooms: as they were asked for, and as two columns.
pub(super) struct Pairs<'a, Id> {
    pub asked: Vec<(RoomId, &'a Id)>,
    pub rooms: Vec<i64>,
    pub ids: Vec<&'a str>,
}

impl<'a> Wanted<'a> {
    /// `witnesses`: ops to be looked up besides those of the submits.
    pub fn of(submits: &'a [Submit], witnesses: &'a [OpKey]) -> Self {
        let mut rooms: Vec<RoomId> = submits.iter().map(|submit| submit.room).collect();
        rooms.sort_unstable();
        rooms.dedup();
        let room_slots: Vec<i32> = rooms.iter().map(|room| slot_column(slot_of(*room))).collect();
        let mut slots = room_slots.clone();
        slots.sort_unstable();
        slots.dedup();
        let shapes = submits.iter().filter_map(|submit| Some((submit.room, submit.operation.shape_id()?)));
        let ops = || {
            let submitted = submits.iter().map(|submit| (submit.room, &submit.user, &submit.op));
            submitted.chain(witnesses.iter().map(|(room, user, op)| (*room, user, op)))
        };
        let members = submits.iter().filter(|submit| submit.authority == Authority::Member);
        Self {
            slots,
            rooms: rooms.into_iter().map(RoomId::as_i64).collect(),
            room_slots,
            shapes: Pairs::distinct(shapes, ShapeId::as_str),
            members: Pairs::distinct(members.map(|submit| (submit.room, &submit.user)), UserId::as_str),
            op_rooms: ops().map(|(room, ..)| room.as_i64()).collect(),
            op_users: ops().map(|(_, user, _)| user.as_str()).collect(),
            ops: ops().map(|(.., op)| op.as_str()).collect(),
        }
    }
}

impl<'a, Id: Eq + std::hash::Hash> Pairs<'a, Id> {
    fn distinct(things: impl Iterator<Item = (RoomId, &'a Id)>, text: fn(&Id) -> &str) -> Self {
        let mut seen = HashSet::new();
        let asked: Vec<_> = things.filter(|thing| seen.insert(*thing)).collect();
        let rooms = asked.iter().map(|(room, _)| room.as_i64()).collect();
        let ids = asked.iter().map(|(_, id)| text(id)).collect();
        Self { asked, rooms, ids }
    }
}

/// A room as the locked rows describe it, before its members are looked at.
pub(super) struct RoomRow {
    pub room: RoomId,
    pub ownership: Ownership,
    /// `None`: there is no such room here.
    pub facts: Option<RoomFacts>,
    /// The server stands on the timeline that this shard's claim names.
    pub claimed: bool,
    /// The server waits for synchronous standbys.
    pub replicated: bool,
}

pub(super) enum Ownership {
    Active(Epoch),
    /// This shard doesn't have the slot yet, or no longer.
    Elsewhere,
}

pub(super) struct RoomFacts {
    pub owner: String,
    /// What everyone may do in a room that is open to everyone.
    pub public_role: Option<Role>,
    pub schema: Schema,
    pub archived: bool,
}

/// A locked head.
pub(super) struct Head {
    pub position: Position,
    pub cleared: Seq,
    pub live_shapes: u64,
    pub live_bytes: u64,
}

pub(super) fn heads(rows: &[Row]) -> HashMap<RoomId, Head> {
    let head = |row: &Row| {
        let head = Head {
            position: Position::new(Epoch::from_i64(row.get(2)), Seq::from_i64(row.get(1))),
            cleared: Seq::from_i64(row.get(3)),
            live_shapes: row.get::<_, i64>(4).unsigned_abs(),
            live_bytes: row.get::<_, i64>(5).unsigned_abs(),
        };
        Some((room_id(row, 0)?, head))
    };
    rows.iter().filter_map(head).collect()
}

pub(super) fn rooms(rows: &[Row]) -> Vec<RoomRow> {
    let room = |row: &Row| {
        let ownership = match (row.get::<_, Option<i64>>(1), row.get::<_, Option<&str>>(2)) {
            (Some(epoch), Some("active")) => Ownership::Active(Epoch::from_i64(epoch)),
            _ => Ownership::Elsewhere,
        };
        Some(RoomRow {
            room: room_id(row, 0)?,
            ownership,
            facts: row.get::<_, Option<&str>>(3).and_then(|owner| facts(row, owner)),
            claimed: row.get(8),
            replicated: row.get(9),
        })
    };
    rows.iter().filter_map(room).collect()
}

fn facts(row: &Row, owner: &str) -> Option<RoomFacts> {
    let is_public = row.get::<_, &str>(4) == "public";
    let default_role = DefaultRole::parse(row.get(5)).map(Role::from);
    Some(RoomFacts {
        owner: owner.to_owned(),
        public_role: default_role.filter(|_| is_public),
        schema: Schema::parse(row.get(6))?,
        archived: row.get(7),
    })
}

pub(super) fn shapes(rows: &[Row], wanted: &Wanted<'_>, before: &mut Before) {
    for row in rows {
        let Some((room, id)) = wanted.shapes.asked.get(ordinal(row)) else { continue };
        let data = row.get::<_, Option<JsonText<'_>>>(3).map(|JsonText(json)| ShapeData {
            json: json.into(),
            shape_type: row.get::<_, Option<&str>>(2).map(Into::into),
        });
        let state =
            ShapeState { version: Version::from_i64(row.get(1)), data, last_seq: Seq::from_i64(row.get(4)) };
        before.shapes.insert((*room, (*id).clone()), state);
    }
}

/// Rows of `room_event`, by their place among the submits, then the witnesses.
pub(super) fn ops(rows: &[Row], submits: &[Submit], witnesses: &[OpKey], before: &mut Before) {
    for row in rows {
        let at = ordinal(row);
        let witness = || witnesses.get(at.checked_sub(submits.len())?).cloned();
        let Some(op) = submits.get(at).map(Submit::op_key).or_else(witness) else { continue };
        // A digest of another length was not written by us; it equals none.
        let Ok(digest) = <[u8; 16]>::try_from(row.get::<_, &[u8]>(3)) else { continue };
        let known = KnownOp {
            position: Position::new(Epoch::from_i64(row.get(2)), Seq::from_i64(row.get(1))),
            at: UnixMillis(row.get(6)),
            digest: Digest(digest),
            version: row.get::<_, Option<i64>>(4).map(Version::from_i64),
            cleared: row.get::<_, Option<i64>>(5).map(i64::unsigned_abs),
        };
        before.ops.insert(op, known);
    }
}

/// Rows of `room_member`, by their place in `wanted.members`.
pub(super) fn members(rows: &[Row]) -> HashMap<usize, Member> {
    let member = |row: &Row| (ordinal(row), Role::parse(row.get(1)).map_or(Member::Removed, Member::Role));
    rows.iter().map(member).collect()
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Member {
    Role(Role),
    Removed,
}

/// Puts events into the log. The caller compares the count.
pub(super) async fn add_events(connection: &Connection, events: &[Event]) -> Result<u64, DbError> {
    let Some(first) = events.first() else { return Ok(0) };
    let rooms: Vec<i64> = events.iter().map(|event| event.room.as_i64()).collect();
    let seqs: Vec<i64> = events.iter().map(|event| event.position.seq.as_i64()).collect();
    let epochs: Vec<i64> = events.iter().map(|event| event.position.epoch.as_i64()).collect();
    let users: Vec<&str> = events.iter().map(|event| event.user.as_str()).collect();
    let ops: Vec<&str> = events.iter().map(|event| event.op.as_str()).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let bodies: Vec<JsonText<'_>> = events.iter().map(|event| JsonText(&event.body)).collect();
    let digests: Vec<&[u8]> = events.iter().map(|event| &event.digest.0[..]).collect();
    let versions: Vec<Option<i64>> = events.iter().map(|event| event.version.map(Version::as_i64)).collect();
    let cleared: Vec<Option<i64>> = events.iter().map(|event| event.cleared.map(count_column)).collect();
    let params: [&(dyn ToSql + Sync); 11] =
        [&rooms, &seqs, &epochs, &users, &ops, &kinds, &bodies, &digests, &versions, &cleared, &first.at.0];
    connection.execute(&ADD_EVENTS, &params).await
}

pub(super) async fn put_shapes(
    connection: &Connection,
    shapes: &[(RoomId, ShapeId, ShapeState)],
) -> Result<u64, DbError> {
    if shapes.is_empty() {
        return Ok(0);
    }
    let rooms: Vec<i64> = shapes.iter().map(|(room, _, _)| room.as_i64()).collect();
    let ids: Vec<&str> = shapes.iter().map(|(_, id, _)| id.as_str()).collect();
    let versions: Vec<i64> = shapes.iter().map(|(_, _, state)| state.version.as_i64()).collect();
    let data = || shapes.iter().map(|(_, _, state)| state.data.as_ref());
    let kinds: Vec<Option<&str>> = data().map(|data| data?.shape_type.as_deref()).collect();
    let bodies: Vec<Option<JsonText<'_>>> = data().map(|data| Some(JsonText(&data?.json))).collect();
    let last_seqs: Vec<i64> = shapes.iter().map(|(_, _, state)| state.last_seq.as_i64()).collect();
    connection.execute(&PUT_SHAPES, &[&rooms, &ids, &versions, &kinds, &bodies, &last_seqs]).await
}

pub(super) async fn move_heads(
    connection: &Connection,
    rooms: &[(RoomId, RoomState)],
) -> Result<u64, DbError> {
    let ids: Vec<i64> = rooms.iter().map(|(room, _)| room.as_i64()).collect();
    let seqs: Vec<i64> = rooms.iter().map(|(_, state)| state.head.seq.as_i64()).collect();
    let epochs: Vec<i64> = rooms.iter().map(|(_, state)| state.head.epoch.as_i64()).collect();
    let cleared: Vec<i64> = rooms.iter().map(|(_, state)| state.cleared.as_i64()).collect();
    let live: Vec<i64> = rooms.iter().map(|(_, state)| count_column(state.live_shapes)).collect();
    let bytes: Vec<i64> = rooms.iter().map(|(_, state)| count_column(state.live_bytes)).collect();
    connection.execute(&MOVE_HEADS, &[&ids, &seqs, &epochs, &cleared, &live, &bytes]).await
}

pub(super) fn slot_column(slot: Slot) -> i32 {
    i32::from(slot.0)
}

fn count_column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// From `WITH ORDINALITY`, which counts from 1.
fn ordinal(row: &Row) -> usize {
    usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX)
}

/// A check constraint keeps stored ids valid.
pub(super) fn room_id(row: &Row, column: usize) -> Option<RoomId> {
    RoomId::from_i64(row.get(column)).ok()
}

pub(super) fn slot_of_room(room: RoomId) -> i32 {
    slot_column(slot_of(room))
}
