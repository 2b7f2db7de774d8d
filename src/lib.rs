//! roomgate: a horizontally scaled realtime gateway for rooms.
//!
//! Modules import only from those listed above them; `tests/tidy.rs` holds it.

pub mod clock;
pub mod digests;
pub mod ids;
pub mod position;

pub mod protocol;

pub mod config;

pub mod metrics;
pub mod tls;

pub mod memory;
pub mod planted;
pub mod tasks;

pub mod traces;

pub mod placement;

pub mod log;

pub mod db;

pub mod routing;

pub mod store;

pub mod directory;

pub mod auth;
pub mod limits;
pub mod mail;

pub mod bus;

pub mod room;

pub mod session;

pub mod http;

pub mod jobs;

pub mod databases;

pub mod moves;

pub mod dev;
pub mod reload;

pub mod node;

pub mod cli;

#[cfg(fuzzing)]
pub mod fuzz;
