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

use crate::db::Sql;

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
