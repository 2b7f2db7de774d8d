//! What a move says to PostgreSQL, but for the COPY of rows (`tables`).

use crate::db::Sql;

/// What a slot says of itself, here.
pub static STATE: Sql =
    Sql { name: "move_state", text: "SELECT state, moved_to FROM slot_owner WHERE slot = $1" };

/// All of them, with the sums of their rooms' heads and shapes. $1: milliseconds.
pub static SLOTS: Sql = Sql {
    name: "move_slots",
    text: "SELECT owner.slot, owner.state, owner.epoch, owner.moved_to, count(room.id),
                  coalesce(sum(head.head_seq), 0)::bigint, coalesce(sum(head.live_shapes), 0)::bigint,
                  owner.changed_at < now() - $1::bigint * interval '1 ms'
             FROM slot_owner AS owner
             LEFT JOIN room ON room.slot = owner.slot
             LEFT JOIN room_head AS head ON head.room_id = room.id
            GROUP BY owner.slot ORDER BY owner.slot",
};

/// Bytes of the log and of the shapes, with all that belongs to them.
pub static SIZES: Sql = Sql {
    name: "move_sizes",
    text: "SELECT pg_total_relation_size('room_event'), pg_total_relation_size('shape')",
};

/// One mover a slot, for as long as its connection lives. ("move" in ASCII.)
pub const MOVER_LOCKS: i32 = 0x6d6f_7665;

pub static LOCK_MOVER: Sql = Sql { name: "move_lock", text: "SELECT pg_try_advisory_lock($1, $2)" };

pub static UNLOCK_MOVER: Sql = Sql { name: "move_unlock", text: "SELECT pg_advisory_unlock($1, $2)" };

/// Nobody may write here yet; also what has been here before, and left.
pub static IMPORT: Sql = Sql {
    name: "move_import",
    text: "INSERT INTO slot_owner (slot, epoch, state) VALUES ($1, 1, 'importing')
           ON CONFLICT (slot) DO UPDATE SET state = 'importing', moved_to = NULL, changed_at = now()
            WHERE slot_owner.state = 'moved'",
};

pub static FENCE: Sql = Sql { name: "move_fence", text: "SELECT pg_advisory_xact_lock($1, $2)::text" };

/// What is fenced: the claim on which it stands, and the slot's epoch.
pub static FENCED: Sql = Sql {
    name: "move_fenced",
    text: "SELECT claim.timeline, claim.system_id, owner.epoch
             FROM slot_owner AS owner, shard_claim AS claim
            WHERE owner.slot = $1 AND owner.state = $2
              AND claim.timeline = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int",
};

pub static GO: Sql = Sql {
    name: "move_go",
    text: "UPDATE slot_owner SET state = 'moved', moved_to = $2, changed_at = now()
            WHERE slot = $1 AND state = 'active'",
};

/// $1 slot, $2 the new owner; the shard $3 must still be claimed on timeline $4 of
/// system $5, or a primary of it may be writing that heard of no move.
pub static RECORD: Sql = Sql {
    name: "move_record",
    text: "WITH source AS (
             SELECT name FROM directory.shard
              WHERE name = $3 AND timeline = $4 AND system_id = $5 FOR SHARE)
           INSERT INTO directory.slot_move AS move (slot, owner) SELECT $1, $2 FROM source
           ON CONFLICT (slot) DO UPDATE SET owner = excluded.owner, moved_at = now()",
};

/// $2 the epoch of the slot where it was, $3 unix milliseconds.
pub static ACTIVATE: Sql = Sql {
    name: "move_activate",
    text:
        "UPDATE slot_owner SET state = 'active', epoch = greatest(epoch + 1, $2::bigint + 1, $3::bigint), changed_at = now()
            WHERE slot = $1 AND state = 'importing'
              AND (SELECT timeline FROM shard_claim)
                  = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int",
};

/// A position ($1, else the end of all that was written), the standbys that stream,
/// and how many of them have it on disk; bytes that the slowest has not replayed.
pub static STANDBYS: Sql = Sql {
    name: "move_standbys",
    text: "SELECT wanted.lsn::text, count(flush_lsn), count(*) FILTER (WHERE flush_lsn >= wanted.lsn),
                  coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::bigint
             FROM (SELECT coalesce($1::text::pg_lsn, pg_current_wal_insert_lsn()) AS lsn) AS wanted
             LEFT JOIN pg_stat_replication ON true
            GROUP BY wanted.lsn",
};

/// The nodes that have a connection here.
pub static NODES: Sql = Sql {
    name: "move_nodes",
    text: "SELECT DISTINCT substr(application_name, 10) FROM pg_stat_activity
            WHERE application_name LIKE 'roomgate/%' AND datname = current_database()",
};

pub static ROOMS: Sql = Sql { name: "move_rooms", text: "SELECT id FROM room WHERE slot = $1 ORDER BY id" };

/// Of rooms: id, head, first event that is kept.
pub static HEADS: Sql = Sql {
    name: "move_heads",
    text: "SELECT room.id, coalesce(head.head_seq, 0),
                  coalesce((SELECT min(seq) FROM room_event WHERE room_id = room.id), 0)
             FROM room LEFT JOIN room_head AS head ON head.room_id = room.id
            WHERE room.id = ANY($1) ORDER BY room.id",
};

pub static SNAPSHOTS: Sql =
    Sql { name: "move_snapshots", text: "SELECT room_id, seq FROM room_snapshot WHERE room_id = ANY($1)" };

pub static DROP_SNAPSHOTS: Sql = Sql {
    name: "move_drop_snapshots",
    text: "DELETE FROM room_snapshot AS snapshot USING unnest($1::bigint[], $2::bigint[]) AS gone (room, seq)
            WHERE snapshot.room_id = gone.room AND snapshot.seq = gone.seq",
};

/// Behind a room's first event at its source.
pub static DROP_EVENTS: Sql = Sql {
    name: "move_drop_events",
    text: "DELETE FROM room_event AS event USING unnest($1::bigint[], $2::bigint[]) AS kept (room, seq)
            WHERE event.room_id = kept.room AND event.seq < kept.seq",
};

/// Of rooms ($1): count, first, last and digest of the events from a seq ($2) to
/// another ($3), inclusive; count and digest of all shapes. Every byte of a row
/// counts.
pub static PROOF: Sql = Sql {
    name: "move_proof",
    text: "SELECT room, log.count, log.first, log.last, log.digest, shapes.count, shapes.digest
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS wanted (room, since, until)
            CROSS JOIN LATERAL (
              SELECT count(*) AS count, min(seq) AS first, max(seq) AS last,
                     coalesce(sum(hashtextextended(event::text, 0)), 0)::text AS digest
                FROM room_event AS event WHERE room_id = room AND seq BETWEEN since AND until) AS log
            CROSS JOIN LATERAL (
              SELECT count(*) AS count, coalesce(sum(hashtextextended(shape::text, 0)), 0)::text AS digest
                FROM shape WHERE room_id = room) AS shapes",
};

/// What may be compared while writers wait: no row is read whole.
pub static SHAPES: Sql = Sql {
    name: "move_shapes",
    text: "SELECT room_id, count(*), sum(hashtextextended(shape_id, version # (last_seq << 20)))::text
             FROM shape WHERE room_id = ANY($1) GROUP BY room_id",
};

pub static MERGE_SHAPES: Sql = Sql {
    name: "move_merge_shapes",
    text: "INSERT INTO shape SELECT * FROM incoming_shape
           ON CONFLICT (room_id, shape_id) DO UPDATE
              SET version = excluded.version, type = excluded.type, data = excluded.data,
                  deleted = excluded.deleted, last_seq = excluded.last_seq",
};

/// Who owns a slot that has moved.
pub static OWNER: Sql =
    Sql { name: "move_owner", text: "SELECT owner FROM directory.slot_move WHERE slot = $1" };

/// A slot's row goes last, so that a deletion that was cut short is gone on with.
pub static FORGET_SLOT: Sql =
    Sql { name: "move_forget_slot", text: "DELETE FROM slot_owner WHERE slot = $1 AND state = 'moved'" };
