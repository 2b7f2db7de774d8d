//! The SQL of imports. Lines are numbered by the server, so that a hundred
//! thousand of them become events in one statement.

use std::fmt::Write;

use uuid::Uuid;

use super::{Import, Line};
use crate::db::Sql;

/// Prepared on every connection that may write.
pub const STATEMENTS: &[&Sql] = &[
    &STAGE,
    &UNSTAGE,
    &SWEEP,
    &LOCK_HEAD,
    &RIGHTS,
    &KNOWN,
    &COLLISIONS,
    &REFUSE,
    &MEASURE,
    &ADD_EVENTS,
    &ADD_SHAPES,
    &MOVE_HEAD,
    &KEEP,
];

pub(super) static STAGE: Sql = Sql {
    name: "import_stage",
    text: "COPY import_line (import_id, line, shape_id, type, data, digest) FROM STDIN",
};

pub(super) static UNSTAGE: Sql =
    Sql { name: "import_unstage", text: "DELETE FROM import_line WHERE import_id = $1" };

pub(super) static SWEEP: Sql = Sql {
    name: "import_sweep",
    text: "DELETE FROM import_line WHERE staged_at < now() - $1::bigint * interval '1 millisecond'",
};

pub(super) static LOCK_HEAD: Sql = Sql {
    name: "import_lock_head",
    text: "SELECT head_seq, head_epoch, cleared_seq, live_shapes, live_bytes FROM room_head WHERE room_id = $1 FOR NO KEY UPDATE",
};

/// Of user $2.
pub(super) static RIGHTS: Sql = Sql {
    name: "import_rights",
    text: "SELECT room.owner = $2::text, room.access, room.default_role, room.archived_at IS NOT NULL, member.role
             FROM room LEFT JOIN room_member AS member ON member.room_id = room.id
                              AND member.user_id IN ($2::text, erased_member(room.ban_key, $2::text))
            WHERE room.id = $1",
};

/// What the op was used for: an import's digest and answer, or something else.
pub(super) static KNOWN: Sql = Sql {
    name: "import_known",
    text: "SELECT import.digest, import.answer::text
             FROM (VALUES (0)) AS always (here)
             LEFT JOIN room_import AS import
               ON import.room_id = $1 AND import.user_id = $2 AND import.op_id = $3
             LEFT JOIN room_event AS event
               ON event.room_id = $1 AND event.user_id = $2 AND event.op_id = $3
            WHERE import.op_id IS NOT NULL OR event.op_id IS NOT NULL",
};

/// Lines whose shape is there, was there before the clear at $3, or is on an
/// earlier line.
pub(super) static COLLISIONS: Sql = Sql {
    name: "import_collisions",
    text: "SELECT staged.line, staged.nth = 1 AND (known.deleted OR known.last_seq <= $3)
             FROM (SELECT line, shape_id, row_number() OVER (PARTITION BY shape_id ORDER BY line) AS nth
                     FROM import_line WHERE import_id = $2) AS staged
             LEFT JOIN LATERAL (SELECT deleted, last_seq FROM shape
                                 WHERE room_id = $1 AND shape_id = staged.shape_id LIMIT 1) AS known ON true
            WHERE staged.nth > 1 OR known.deleted IS NOT NULL",
};

pub(super) static REFUSE: Sql =
    Sql { name: "import_refuse", text: "DELETE FROM import_line WHERE import_id = $1 AND line = ANY($2)" };

pub(super) static MEASURE: Sql = Sql {
    name: "import_measure",
    text: "SELECT count(*), coalesce(sum(octet_length(data::text)), 0)::bigint FROM import_line WHERE import_id = $1",
};

/// After seq $3, in epoch $4. The first event has the op itself, the others ops
/// that begin with $6.
pub(super) static ADD_EVENTS: Sql = Sql {
    name: "import_add_events",
    text: "INSERT INTO room_event
                  (room_id, seq, epoch, op_id, user_id, kind, body, digest, version, created_at)
           SELECT $1, $3 + n, $4, CASE WHEN n = 1 THEN $5 ELSE $6 || n END, $7, 'shape.add',
                  ('{\"shape\":' || data::text || '}')::json, digest, 1, to_timestamp($8::bigint / 1000.0)
             FROM (SELECT data, digest, row_number() OVER (ORDER BY line) AS n
                     FROM import_line WHERE import_id = $2) AS accepted",
};

pub(super) static ADD_SHAPES: Sql = Sql {
    name: "import_add_shapes",
    text: "INSERT INTO shape (room_id, shape_id, version, type, data, deleted, last_seq)
           SELECT $1, shape_id, 1, type, data, false, $3 + row_number() OVER (ORDER BY line)
             FROM import_line WHERE import_id = $2",
};

pub(super) static MOVE_HEAD: Sql = Sql {
    name: "import_move_head",
    text: "UPDATE room_head SET head_seq = head_seq + $2, head_epoch = $3, live_shapes = live_shapes + $2,
                  live_bytes = live_bytes + $4
            WHERE room_id = $1",
};

pub(super) static KEEP: Sql = Sql {
    name: "import_keep",
    text: "INSERT INTO room_import (room_id, user_id, op_id, digest, answer)
           VALUES ($1, $2, $3, $4, $5::text::json)",
};

/// In the text form of COPY.
pub(super) fn copy_text(id: Uuid, import: &Import, lines: &[Line]) -> String {
    let bytes: usize = lines.iter().map(|line| line.shape.body.json.len() + 160).sum();
    let mut text = String::with_capacity(bytes);
    for line in lines {
        write!(text, "{id}\t{}\t", line.number).expect("writing to a String can't fail");
        escape(&mut text, line.shape.id.as_str());
        text.push('\t');
        match line.shape.body.value.get("type").and_then(|value| value.as_str()) {
            Some(shape_type) => escape(&mut text, shape_type),
            None => text.push_str("\\N"),
        }
        text.push('\t');
        escape(&mut text, &line.shape.body.json);
        text.push_str("\t\\\\x");
        for byte in line.digest(import).0 {
            write!(text, "{byte:02x}").expect("writing to a String can't fail");
        }
        text.push('\n');
    }
    text
}

fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_ends_its_column_or_line() {
        let mut out = String::new();
        escape(&mut out, "a\tb\nc\rd\\N\\.é🦀");
        assert_eq!(out, "a\\tb\\nc\\rd\\\\N\\\\.é🦀");
    }
}
