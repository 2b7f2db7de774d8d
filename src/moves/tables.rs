//! The tables that go with a room, and how rows of them go from shard to shard.

use crate::db::Sql;
use crate::ids::RoomId;

macro_rules! whole {
    ($($table:literal by $key:literal),* $(,)?) => {
        /// Tables whose rows may change in any way: a room's rows are compared by a
        /// digest, and replaced when they differ. `room` first: the others hang from it.
        pub(super) const WHOLE: &[&str] = &[$($table),*];

        /// (table of [`WHOLE`], room, digest) of every room in $1 that has rows.
        pub(super) static DIGESTS: Sql = Sql {
            name: "move_digests",
            text: concat!(
                "SELECT '' AS name, 0::bigint, '' WHERE false",
                $(" UNION ALL SELECT '", $table, "', ", $key, ", sum(hashtextextended(t::text, 0))::text FROM ",
                  $table, " AS t WHERE ", $key, " = ANY($1) GROUP BY ", $key),*
            ),
        };
    };
}

whole!(
    "room" by "id",
    "room_head" by "room_id",
    "room_member" by "room_id",
    "room_invite" by "room_id",
    "room_import" by "room_id",
    "room_legacy_read" by "room_id",
    "room_daily" by "room_id",
    "room_daily_visits" by "room_id",
    "room_counted" by "room_id",
    "room_daily_user" by "room_id",
);

/// Those of them whose rows go when the room's does.
pub(super) const HANGING: [&str; 3] = ["room_head", "room_member", "room_invite"];

/// Everything else of a room.
pub(super) const REST: [&str; 4] = ["room_event", "shape", "room_snapshot", "room_snapshot_part"];

/// The tables that go with a room. Whoever adds one to a shard adds it here.
pub fn all() -> impl Iterator<Item = &'static str> {
    WHOLE.iter().chain(&REST).copied()
}

fn key(table: &str) -> &'static str {
    if table == "room" { "id" } else { "room_id" }
}

/// All of a table that belongs to these rooms.
pub(super) fn rows_of(table: &str, rooms: &[RoomId]) -> String {
    format!("SELECT t.* FROM {table} AS t WHERE t.{} = ANY({})", key(table), array(rooms))
}

pub(super) fn delete(table: &str, rooms: &[RoomId]) -> String {
    format!("DELETE FROM {table} WHERE {} = ANY({})", key(table), array(rooms))
}

/// Rows of rooms with a number above the room's mark.
pub(super) fn rows_above(table: &str, number: &str, marks: &[(RoomId, i64)]) -> String {
    let rooms: Vec<RoomId> = marks.iter().map(|(room, _)| *room).collect();
    let above: Vec<i64> = marks.iter().map(|(_, mark)| *mark).collect();
    format!(
        "SELECT t.* FROM unnest({}, {}) AS mark (room, above)
          CROSS JOIN LATERAL (SELECT * FROM {table} WHERE room_id = room AND {number} > above) AS t",
        array(&rooms),
        numbers(&above)
    )
}

/// Rows of a table with exactly these keys.
pub(super) fn rows_at(table: &str, keys: &[(RoomId, i64)]) -> String {
    let rooms: Vec<RoomId> = keys.iter().map(|(room, _)| *room).collect();
    let seqs: Vec<i64> = keys.iter().map(|(_, seq)| *seq).collect();
    format!(
        "SELECT t.* FROM {table} AS t JOIN unnest({}, {}) AS wanted (room, at)
            ON t.room_id = wanted.room AND t.seq = wanted.at",
        array(&rooms),
        numbers(&seqs)
    )
}

pub(super) fn out(select: &str) -> String {
    format!("COPY ({select}) TO STDOUT (FORMAT binary)")
}

pub(super) fn into(table: &str) -> String {
    format!("COPY {table} FROM STDIN (FORMAT binary)")
}

/// Ids are numbers, so that they can stand in a statement that takes no parameters.
fn array(rooms: &[RoomId]) -> String {
    let ids: Vec<i64> = rooms.iter().map(|room| room.as_i64()).collect();
    numbers(&ids)
}

fn numbers(numbers: &[i64]) -> String {
    let texts: Vec<String> = numbers.iter().map(i64::to_string).collect();
    format!("'{{{}}}'::bigint[]", texts.join(","))
}
