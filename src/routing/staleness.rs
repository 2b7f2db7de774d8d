//! How old a replica's answer can be, without comparing clocks.
//!
//! The monitor samples the primary's flushed position; a sample's instant is
//! taken *before* the question was sent. Whatever was committed before that
//! instant lies at or below the sampled position, so a replica that has
//! replayed that far is at most `now − instant` behind. An idle replica isn't
//! called late (it has replayed the newest sample), one whose receiver is gone
//! isn't called fresh (new samples pass it by), and while the primary can't be
//! sampled the figure grows honestly.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A place in the write-ahead log of one timeline, in bytes. Positions of
/// different timelines are not comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The bytes from `other` up to here, 0 if `other` is further.
    pub fn bytes_since(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

/// As PostgreSQL writes it: `16/B374D848`.
impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not a `pg_lsn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a pg_lsn")]
pub struct InvalidLsn;

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let (high, low) = text.split_once('/').ok_or(InvalidLsn)?;
        let half = |s: &str| u32::from_str_radix(s, 16).map_err(|_| InvalidLsn);
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

/// A history of the log's bytes. It rises by one at a promotion, though two
/// standbys promoted side by side get the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Samples of one primary's flushed position, oldest first.
#[derive(Debug)]
pub struct Samples {
    timeline: Timeline,
    /// Instants and positions both rise.
    ring: VecDeque<(Instant, Lsn)>,
    keep: usize,
}

impl Samples {
    /// `keep` samples at one per monitor interval bound the longest staleness
    /// that can still be told exactly; beyond it a replica has none.
    pub fn new(keep: usize) -> Self {
        Self { timeline: Timeline::default(), ring: VecDeque::new(), keep: keep.max(2) }
    }

    /// `before` is the instant before the question was sent. A new timeline
    /// forgets the old one's samples.
    pub fn record(&mut self, timeline: Timeline, before: Instant, flushed: Lsn) {
        if timeline != self.timeline {
            self.ring.clear();
            self.timeline = timeline;
        }
        if self.ring.back().is_some_and(|(instant, lsn)| *instant >= before || *lsn > flushed) {
            // Known already, or overtaken by a later one: it teaches nothing.
            return;
        }
        if self.ring.len() >= self.keep {
            self.ring.pop_front();
        }
        self.ring.push_back((before, flushed));
    }

    /// Up to when everything that was committed is known to be contained in a
    /// server that has replayed up to `replayed`. `None`: nothing is known.
    pub fn fresh_at(&self, timeline: Timeline, replayed: Lsn) -> Option<Instant> {
        if timeline != self.timeline {
            return None;
        }
        let passed = self.ring.partition_point(|(_, lsn)| *lsn <= replayed);
        passed.checked_sub(1).and_then(|i| self.ring.get(i)).map(|(instant, _)| *instant)
    }

    /// [`Samples::fresh_at`] as an age.
    pub fn staleness(&self, timeline: Timeline, replayed: Lsn, now: Instant) -> Option<Duration> {
        self.fresh_at(timeline, replayed).map(|instant| now.saturating_duration_since(instant))
    }

    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// The instant of the oldest sample.
    pub fn oldest(&self) -> Option<Instant> {
        self.ring.front().map(|(instant, _)| *instant)
    }

    /// The newest flushed position.
    pub fn newest(&self) -> Option<Lsn> {
        self.ring.back().map(|(_, lsn)| *lsn)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T1: Timeline = Timeline(1);

    #[test]
    fn an_lsn_reads_back_as_postgresql_writes_it() {
        for text in ["0/0", "0/16B3748", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "0", "x/y", "1/2/3", "100000000/0"] {
            assert_eq!(text.parse::<Lsn>(), Err(InvalidLsn));
        }
    }

    #[test]
    fn an_idle_replica_is_not_called_late() {
        let start = Instant::now();
        let mut samples = Samples::new(240);
        for i in 0..100 {
            samples.record(T1, start + Duration::from_millis(250 * i), Lsn(500));
        }
        let now = start + Duration::from_millis(250 * 99 + 10);
        assert_eq!(samples.staleness(T1, Lsn(500), now), Some(Duration::from_millis(10)));
    }

    #[test]
    fn a_replica_that_stands_still_grows_stale_and_one_on_another_timeline_is_unknown() {
        let start = Instant::now();
        let mut samples = Samples::new(8);
        for i in 0..4 {
            samples.record(T1, start + Duration::from_secs(i), Lsn(100 * (i + 1)));
        }
        let now = start + Duration::from_secs(4);
        assert_eq!(samples.staleness(T1, Lsn(250), now), Some(Duration::from_secs(3)));
        assert_eq!(samples.staleness(T1, Lsn(99), now), None);
        assert_eq!(samples.staleness(Timeline(2), Lsn(999), now), None);
        samples.record(Timeline(2), now, Lsn(300));
        assert_eq!(samples.staleness(T1, Lsn(999), now), None, "a new timeline forgets the old one");
    }

    proptest! {
        /// A made-up history: the primary commits at instants; a sample sees
        /// what was committed when it was *answered*. Whatever the delays, a
        /// commit before the promised instant is contained in the replica.
        #[test]
        fn nothing_committed_before_the_promised_instant_is_missing(
            steps in prop::collection::vec((1u64..50, 0u64..40, any::<bool>()), 1..200),
            replayed in 0u64..5_000,
            keep in 2usize..64,
        ) {
            let start = Instant::now();
            let mut samples = Samples::new(keep);
            let (mut clock, mut lsn, mut commits) = (0u64, 0u64, Vec::new());
            for (bytes, answer_delay, sampled) in steps {
                let asked = clock;
                clock += answer_delay;
                lsn += bytes;
                commits.push((clock, lsn));
                if sampled {
                    samples.record(T1, start + Duration::from_millis(asked), Lsn(lsn));
                }
                clock += 1;
            }
            if let Some(instant) = samples.fresh_at(T1, Lsn(replayed)) {
                for (at, lsn) in commits {
                    if start + Duration::from_millis(at) < instant {
                        prop_assert!(lsn <= replayed);
                    }
                }
            }
        }
    }
}
