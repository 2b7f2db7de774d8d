//! What a room was: time travel, export, import, retention.

mod agreement;
pub mod export;
mod import;
mod long_logs;
mod plans;
mod retention;
mod time_travel;
pub mod world;
