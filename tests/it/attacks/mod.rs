//! Attacks that are measured, not judged by a clock: `make attacks`.

mod accounts;
mod memory;
mod messages;
mod redis;
