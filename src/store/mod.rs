//! Room SQL: the append, history, rooms. Guarantees: every write to a room's
//! rows takes the slot's shared lock and checks the owner in the same
//! transaction; every read checks owner and position in the snapshot of its rows.

pub mod append;
pub mod audit;
pub mod guard;
pub mod history;
pub mod imports;
pub mod promotion;
pub mod rooms;
pub mod slots;
pub mod topology;

use crate::config;
use crate::db::{DbError, Sql};
use crate::log::RoomBounds;
use crate::protocol::{Code, Refusal};

/// Prepared on every connection to a shard when it is made.
pub const STATEMENTS: &[&[&Sql]] = &[
    append::STATEMENTS,
    audit::STATEMENTS,
    guard::STATEMENTS,
    history::STATEMENTS,
    imports::STATEMENTS,
    rooms::STATEMENTS,
    topology::STATEMENTS,
];

/// A list ends at these bytes as well as at its limit.
pub const PAGE_BYTES: usize = 4 << 20;

/// The bounds of all rooms.
pub fn bounds(limits: &config::Limits) -> RoomBounds {
    RoomBounds {
        shape_bytes: limits.message_bytes as u64,
        room_shapes: limits.shapes_per_room,
        room_bytes: limits.room_bytes,
    }
}

/// The answer while a database lacks something that only an operator can give back.
/// `database`: e.g. "the room's shard". The log names the remedy, since it may name
/// tables and roles.
pub fn misconfigured(database: &str, error: &DbError) -> Refusal {
    tracing::error!(%error, "a database lacks a table, a privilege or a setting that the gateway needs");
    let message = format!(
        "{database} lacks a table, a privilege or a setting that the gateway needs; nothing was changed. \
         An operator must act: the gateway's log names the remedy"
    );
    Refusal::new(Code::ShardUnavailable, message).retry_after_ms(1000)
}
