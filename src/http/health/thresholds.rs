//! From where on something is a warning, and from where on critical: the same
//! numbers as in `grafana/prometheus/rules/alerts.yml`, which a test holds.

use serde::Serialize;

use super::levels::Level;
use crate::auth::LEEWAY;

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Threshold {
    /// The label `topic` of its alerts.
    topic: &'static str,
    unit: &'static str,
    warn: f64,
    /// None: it is never critical by itself.
    critical: Option<f64>,
    /// It is bad to be below, not above.
    below: bool,
}

/// Connections in use of those the pool may open.
pub const POOL_USE: Threshold = Threshold::above("pool_use", "ratio", 0.70, 0.85);
pub const LAG: Threshold = Threshold::above("replication_lag", "seconds", 1.0, 10.0);
/// Connections at work of those the server allows.
pub const CONNECTIONS: Threshold = Threshold::above("connections", "ratio", 0.80, 1.0);
pub const DISK: Threshold = Threshold::above("disk", "ratio", 0.70, 0.85);
pub const SUBMIT_P99: Threshold = Threshold::above("submit_p99", "seconds", 0.25, 1.0);
pub const QUERY_P95: Threshold = Threshold::above("query_p95", "seconds", 0.1, 0.5);
pub const SLOW_QUERIES: Threshold = Threshold::above("slow_queries", "per minute", 1.0, 10.0);
/// By which a node's clock differs from the databases'. Beyond it tokens are refused
/// that are good.
pub const CLOCK: Threshold = Threshold::above("clock", "seconds", 1.0, LEEWAY.as_secs() as f64);
/// Append transactions that ended as they should.
pub const TRANSACTIONS: Threshold =
    Threshold { below: true, ..Threshold::above("transactions", "ratio", 0.99, 0.95) };
/// Reads that the primary served because no replica would do.
pub const FALLBACKS: Threshold =
    Threshold { critical: None, ..Threshold::above("read_fallbacks", "ratio", 0.2, 0.0) };

pub const ALL: [Threshold; 10] =
    [POOL_USE, LAG, CONNECTIONS, DISK, SUBMIT_P99, QUERY_P95, SLOW_QUERIES, CLOCK, TRANSACTIONS, FALLBACKS];

impl Threshold {
    const fn above(topic: &'static str, unit: &'static str, warn: f64, critical: f64) -> Self {
        Self { topic, unit, warn, critical: Some(critical), below: false }
    }

    pub fn level(&self, value: f64) -> Level {
        let reaches = |bound: f64| if self.below { value < bound } else { value >= bound };
        match self.critical {
            Some(critical) if reaches(critical) => Level::Critical,
            _ if reaches(self.warn) => Level::Warn,
            _ => Level::Ok,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Of every alert with a topic of ours: (topic, severity) and the number that
    /// its expression compares with.
    fn alerts() -> HashMap<(String, String), Vec<f64>> {
        let text = include_str!("../../../grafana/prometheus/rules/alerts.yml");
        let mut found: HashMap<_, Vec<f64>> = HashMap::new();
        for alert in text.split("- alert: ").skip(1) {
            let after = |key: &str| alert.split_once(key).map_or("", |(_, rest)| rest);
            let word = |text: &str| text.split(['"', ',', '}', '\n']).next().unwrap_or("").to_owned();
            let (severity, topic) = (word(after("severity: ")), word(after("topic: ")));
            if let Ok(threshold) = word(after("threshold: \"")).parse() {
                let compared =
                    alert.lines().any(|line| line.trim_end().ends_with(&word(after("threshold: \""))));
                assert!(compared, "the annotation is not what is compared with: {alert}");
                found.entry((topic, severity)).or_default().push(threshold);
            }
        }
        found
    }

    #[test]
    fn alerts_fire_where_health_warns() {
        let alerts = alerts();
        for threshold in ALL {
            let of = |severity: &str| alerts.get(&(threshold.topic.to_owned(), severity.to_owned()));
            assert!(
                of("warn").is_some_and(|at| at.contains(&threshold.warn)),
                "{threshold:?}: {:?}",
                of("warn")
            );
            if let Some(critical) = threshold.critical {
                let found = of("critical");
                assert!(found.is_some_and(|at| at.contains(&critical)), "{threshold:?}: {found:?}");
            }
        }
    }

    #[test]
    fn a_bound_belongs_to_what_it_begins() {
        let levels = |threshold: Threshold, values: [f64; 3]| values.map(|value| threshold.level(value));
        let all = [Level::Ok, Level::Warn, Level::Critical];
        assert_eq!(levels(LAG, [0.99, 1.0, 10.0]), all);
        assert_eq!(levels(TRANSACTIONS, [0.99, 0.98, 0.94]), all);
        assert_eq!(FALLBACKS.level(1.0), Level::Warn, "the primary serves");
    }
}
