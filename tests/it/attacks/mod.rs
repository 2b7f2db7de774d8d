//! Attacks that are measured, not judged by a clock: `make attacks`.

mod accounts;
mod lanes;
mod memory;
mod messages;
mod redis;
mod signals;
