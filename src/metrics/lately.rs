//! The last minutes by this node's own metrics, for `/health/detailed`: the same
//! figures that the alerts compare, of this node alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// As long as the windows of the alerts.
const WINDOW: Duration = Duration::from_secs(300);
const SAMPLE_INTERVAL: Duration = Duration::from_secs(15);

/// What is kept of a scrape: names, and the labels by which they are told apart;
/// all others are added up. Without a bound on these, the memory would have none.
const KEPT: [(&str, [&str; 2]); 6] = [
    ("roomgate_submit_seconds_bucket", ["", "le"]),
    ("db_query_duration_seconds_bucket", ["shard", "le"]),
    ("db_slow_queries_total", ["", ""]),
    ("db_transactions_total", ["shard", "outcome"]),
    ("db_reads_total", ["shard", ""]),
    ("db_replica_fallbacks_total", ["shard", "reason"]),
];

/// Of no request: a new connection prepares all its statements at once, each
/// timed from the first.
const NOT_COUNTED: &str = "statement=\"prepare\"";

static SAMPLES: Mutex<VecDeque<Sample>> = Mutex::new(VecDeque::new());

#[derive(Clone)]
struct Sample {
    at: Instant,
    values: HashMap<Key, f64>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    name: &'static str,
    shard: String,
    detail: String,
}

/// Counters as they were at the beginning of the window and as they are now.
pub struct Lately {
    from: Sample,
    to: Sample,
}

/// Takes a sample, if it is time for one.
pub(super) fn sample() {
    let now = Instant::now();
    let mut samples = SAMPLES.lock().unwrap_or_else(PoisonError::into_inner);
    if samples.back().is_some_and(|last| now.duration_since(last.at) < SAMPLE_INTERVAL) {
        return;
    }
    samples.push_back(Sample::read(now, &super::render()));
    while samples.front().is_some_and(|first| now.duration_since(first.at) > WINDOW) {
        samples.pop_front();
    }
}

pub fn lately() -> Lately {
    let to = Sample::read(Instant::now(), &super::render());
    let samples = SAMPLES.lock().unwrap_or_else(PoisonError::into_inner);
    Lately { from: samples.front().cloned().unwrap_or_else(|| to.clone()), to }
}

impl Lately {
    /// In a minute, on the average.
    pub fn per_minute(&self, name: &str) -> f64 {
        let minutes = self.to.at.duration_since(self.from.at).as_secs_f64() / 60.0;
        if minutes > 0.0 { self.increase(name, "", |_| true) / minutes } else { 0.0 }
    }

    /// How much the counters of `shard` rose whose second label `fits`.
    pub fn increase(&self, name: &str, shard: &str, fits: impl Fn(&str) -> bool) -> f64 {
        self.rises(name, shard).filter(|(detail, _)| fits(detail)).map(|(_, rise)| rise).sum()
    }

    /// As `histogram_quantile`; none without observations.
    pub fn quantile(&self, name: &str, shard: &str, share: f64) -> Option<f64> {
        let bound = |le: &str| if le == "+Inf" { Some(f64::INFINITY) } else { le.parse().ok() };
        let mut buckets: Vec<(f64, f64)> =
            self.rises(name, shard).filter_map(|(le, rise)| Some((bound(le)?, rise))).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        quantile(&buckets, share)
    }

    fn rises(&self, name: &str, shard: &str) -> impl Iterator<Item = (&str, f64)> {
        let of = move |key: &&Key| key.name == name && key.shard == shard;
        self.to.values.keys().filter(of).map(|key| {
            let before = self.from.values.get(key).copied().unwrap_or_default();
            (key.detail.as_str(), (self.to.values[key] - before).max(0.0))
        })
    }
}

/// `buckets`: upper bounds in rising order, and how many are not above each. The
/// observations of a bucket are taken to lie evenly in it.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let (_, all) = *buckets.last()?;
    let rank = share * all;
    let (mut low, mut below) = (0.0, 0.0);
    for &(bound, count) in buckets.iter().filter(|_| all > 0.0) {
        if count >= rank {
            // Above the last bound there is only "more than that".
            let inside =
                if bound.is_finite() { (bound - low) * (rank - below) / (count - below) } else { 0.0 };
            return Some(low + inside);
        }
        (low, below) = (bound, count);
    }
    None
}

impl Sample {
    fn read(at: Instant, text: &str) -> Self {
        let mut values = HashMap::new();
        for (key, value) in text.lines().filter_map(series) {
            *values.entry(key).or_default() += value;
        }
        Self { at, values }
    }
}

/// One line of the text format, if it is kept.
fn series(line: &str) -> Option<(Key, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let (name, [shard, detail]) = KEPT.iter().find(|(kept, _)| *kept == name)?;
    if labels.contains(NOT_COUNTED) {
        return None;
    }
    let label = |wanted: &str| {
        let mut pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
        let value = pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.trim_matches('"'));
        value.unwrap_or_default().to_owned()
    };
    Some((Key { name, shard: label(shard), detail: label(detail) }, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(before: &str, after: &str) -> Lately {
        let start = Instant::now();
        Lately {
            from: Sample::read(start, before),
            to: Sample::read(start + Duration::from_secs(120), after),
        }
    }

    #[test]
    fn quantiles_are_those_that_prometheus_computes() {
        let buckets = [(0.1, 50.0), (0.5, 90.0), (f64::INFINITY, 100.0)];
        assert_eq!(quantile(&buckets, 0.25), Some(0.05));
        assert_eq!(quantile(&buckets, 0.7), Some(0.1 + 0.4 * 20.0 / 40.0));
        assert_eq!(quantile(&buckets, 0.99), Some(0.5), "above the last bound");
        assert_eq!(quantile(&[(0.1, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn only_what_came_in_the_window_counts_by_shard_and_without_preparing() {
        let lately = between(
            "db_transactions_total{shard=\"a\",outcome=\"committed\"} 10\ndb_slow_queries_total{statement=\"x\"} 1\n",
            "# HELP x\ndb_transactions_total{shard=\"a\",outcome=\"committed\"} 14\n\
             db_transactions_total{shard=\"b\",outcome=\"committed\"} 7\n\
             db_slow_queries_total{statement=\"x\"} 4\ndb_slow_queries_total{statement=\"y\"} 1\n\
             db_slow_queries_total{statement=\"prepare\"} 90\nroomgate_rooms_active 3\n",
        );
        assert_eq!(lately.increase("db_transactions_total", "a", |outcome| outcome == "committed"), 4.0);
        assert_eq!(lately.increase("db_transactions_total", "b", |_| true), 7.0);
        assert_eq!(lately.per_minute("db_slow_queries_total"), 2.0);
    }
}
