//! Integration tests against real servers: PostgreSQL, Redis, HAProxy, nodes.
//!
//! One binary, so that it is linked once and tests which break nothing share a
//! cluster (`World::shared`). Tests that break things start what they need.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on fails; helpers of tests are not seen as tests"
)]

mod access_changes;
mod append;
mod attacks;
mod broken_frames;
mod burst;
mod client;
mod clocks;
mod closes;
mod connections;
mod convergence;
mod delivery;
mod drain;
mod embedded;
mod floods;
mod forged;
mod head_checks;
mod health;
mod history;
mod idempotency;
mod legacy;
mod legacy_app;
mod legacy_joins;
mod live;
mod logs;
mod memory;
mod metrics;
mod moves;
#[cfg(feature = "otlp")]
mod otlp;
mod patroni;
mod people;
mod pgbouncer;
mod pools;
mod presence;
mod promotion;
mod protocol;
mod reads;
mod real_drawings;
mod redis;
mod refusals;
mod rolling_restart;
mod routing;
mod search;
mod session;
mod settings;
mod signals;
mod slow;
mod slugs;
mod starts;
mod statements;
mod stats;
mod stopwatch;
mod straw;
mod tls;
mod view;
mod world;
