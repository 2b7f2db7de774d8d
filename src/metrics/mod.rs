//! Every metric: its name, labels, help text, unit and buckets, a file an area.
//!
//! The rest of the code calls typed functions and handles; nobody else names
//! the `metrics` crate. The registry is the process's: a metric describes the
//! process, and handing thirty counters through every layer would hide the
//! paths they count. No label is a room or a user: those have no bound.
//!
//! May import ids, clock, protocol, config.

pub mod bus;
pub mod database;
pub mod gateway;
pub mod http;
mod lately;
pub mod moves;
mod process;
mod registry;
mod shards;

use std::future::Future;
use std::time::Duration;

pub use lately::{Lately, lately};
pub use shards::{DiskMetrics, EndpointMetrics, PoolUse, Role, ShardMetrics, Transaction};

/// How often recorded samples are folded into their buckets. Between two folds
/// they take memory, whether anyone scrapes or not.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Registers everything that has no labels known only later, so that the first
/// scrape shows zeros: a rate over a series that appears with its first failure
/// misses that failure.
pub fn init() {
    gateway::init();
    bus::init();
    moves::init();
    process::init();
}

/// What `/metrics` answers: the Prometheus text format.
pub fn render() -> String {
    process::measure();
    registry::render()
}

/// Keeps the registry's memory bounded; to be run as a task of the process.
/// Ends when `stopped` does.
pub async fn upkeep(stopped: impl Future<Output = ()>) {
    let mut stopped = std::pin::pin!(stopped);
    let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = tick.tick() => {
                registry::fold();
                lately::sample();
            }
        }
    }
}

/// The name of every metric that is defined here; the process's own are not.
pub fn names() -> impl Iterator<Item = &'static str> {
    registry::families().map(|family| family.name)
}

#[cfg(test)]
mod tests {
    /// Dashboards and alerts of outsiders are written against these.
    #[test]
    fn every_family_is_described_and_named_by_the_rules() {
        let mut names = std::collections::HashSet::new();
        for family in super::registry::families() {
            assert!(names.insert(family.name), "{} is defined twice", family.name);
            assert!(family.help.ends_with('.'), "{}: the help text is a sentence", family.name);
            let counter = matches!(family.kind, super::registry::Kind::Counter);
            assert_eq!(counter, family.name.ends_with("_total"), "{}", family.name);
            for label in family.labels {
                assert!(
                    !["room", "user", "session"].contains(label),
                    "{}: {label} has no bound",
                    family.name
                );
            }
        }
    }

    #[test]
    fn a_scrape_shows_zeros_and_explicit_buckets() {
        super::init();
        super::gateway::submit_done(super::gateway::Submit::Accepted, std::time::Duration::from_millis(3));
        let text = super::render();
        assert!(text.contains("# HELP roomgate_submit_seconds "), "{text}");
        assert!(text.contains("# TYPE roomgate_submit_seconds histogram"), "{text}");
        assert!(text.contains("roomgate_submit_seconds_bucket{le=\"0.005\"} "), "{text}");
        assert!(text.contains("roomgate_bus_reconnects_total "), "{text}");
        assert!(text.contains("roomgate_build_info{version="), "{text}");
    }
}
