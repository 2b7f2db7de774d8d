//! A room as Server-Sent Events.

mod delivery;
mod doors;
mod ends;
pub mod reader;
