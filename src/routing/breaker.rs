//! Keeps reads away from an endpoint that fails them, and lets one through now
//! and then to see whether it is back. Writes don't ask it: they go on waiting.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const TOLERATED: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A probe that has not been heard of for so long was abandoned.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration },
    HalfOpen { since: Instant, pause: Duration },
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: Mutex::new(State::Closed { failures: 0 }) }
    }
}

impl Breaker {
    /// Whether [`Breaker::enter`] would let a read through now.
    pub fn allows(&self, now: Instant) -> bool {
        match *self.state() {
            State::Closed { .. } => true,
            State::Open { until, .. } => now >= until,
            State::HalfOpen { since, .. } => now >= since + PROBE_LIMIT,
        }
    }

    /// Lets a read through, or not. While half open, only one at a time.
    pub fn enter(&self, now: Instant) -> bool {
        let mut state = self.state();
        match *state {
            State::Closed { .. } => true,
            State::Open { until, pause } if now >= until => {
                *state = State::HalfOpen { since: now, pause };
                true
            }
            State::HalfOpen { since, pause } if now >= since + PROBE_LIMIT => {
                *state = State::HalfOpen { since: now, pause };
                true
            }
            State::Open { .. } | State::HalfOpen { .. } => false,
        }
    }

    /// The endpoint answered.
    pub fn succeeded(&self) {
        *self.state() = State::Closed { failures: 0 };
    }

    /// It didn't, or could not; `at_once` when one failure says enough, as a
    /// full disk does.
    pub fn failed(&self, now: Instant, at_once: bool) {
        let mut state = self.state();
        *state = match *state {
            State::Closed { failures } if failures + 1 < TOLERATED && !at_once => {
                State::Closed { failures: failures + 1 }
            }
            State::Closed { .. } => State::Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE },
            // Reads that were under way when it opened don't prolong it.
            open @ State::Open { .. } => open,
            State::HalfOpen { pause, .. } => {
                let pause = (pause * 2).min(LONGEST_PAUSE);
                State::Open { until: now + pause, pause }
            }
        };
    }

    /// 0 closed, 1 half open, 2 open.
    pub fn level(&self) -> u8 {
        match *self.state() {
            State::Closed { .. } => 0,
            State::HalfOpen { .. } => 1,
            State::Open { .. } => 2,
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..TOLERATED - 1 {
            breaker.failed(now, false);
        }
        breaker.succeeded();
        for _ in 0..TOLERATED - 1 {
            breaker.failed(now, false);
        }
        assert!(breaker.enter(now));
        breaker.failed(now, false);
        assert!(!breaker.allows(now) && !breaker.enter(now));
        assert_eq!(breaker.level(), 2);
    }

    #[test]
    fn one_probe_at_a_time_decides_and_pauses_grow() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        breaker.failed(now, true);
        let later = now + FIRST_PAUSE;
        assert!(breaker.enter(later) && !breaker.enter(later), "one probe");
        breaker.failed(later, false);
        assert!(!breaker.allows(later + FIRST_PAUSE), "the pause has doubled");
        let later = later + 2 * FIRST_PAUSE;
        assert!(breaker.enter(later));
        assert!(breaker.enter(later + PROBE_LIMIT), "an abandoned probe doesn't close the door for ever");
        breaker.succeeded();
        assert!(breaker.enter(later) && breaker.enter(later));
    }
}
