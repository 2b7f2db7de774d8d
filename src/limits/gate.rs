//! One limit: a budget per key, or for a sole holder.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota};

use crate::protocol::{Code, Refusal};

/// Keys that one gate remembers, give or take [`SWEEP_EVERY`]. A gate that is
/// full of keys whose budget is in use refuses everybody until one is not.
pub const MAX_KEYS: usize = 100_000;

/// Keys with a full budget are forgotten every so many passes.
const SWEEP_EVERY: usize = 4096;

/// The same while the gate is full.
const SWEEP_EVERY_WHEN_FULL: usize = 64;

type Instant = <DefaultClock as Clock>::Instant;

/// A budget for each key. Keys are kept as keyed hashes: 8 bytes whatever the
/// caller sends, and not to be aimed at.
pub(super) struct Gate {
    what: &'static str,
    /// None: no limit.
    quota: Option<Quota>,
    limiter: Option<DefaultKeyedRateLimiter<u64>>,
    hasher: RandomState,
    passes: AtomicUsize,
    full: AtomicBool,
}

/// A budget for whoever holds it.
pub(super) struct SoleGate {
    what: &'static str,
    quota: Option<Quota>,
    limiter: Option<DefaultDirectRateLimiter>,
}

impl Gate {
    /// The whole minute's budget may be used at once.
    pub fn per_minute(what: &'static str, count: u32) -> Self {
        Self::new(what, NonZeroU32::new(count).map(Quota::per_minute))
    }

    /// The whole hour's budget may be used at once.
    pub fn per_hour(what: &'static str, count: u32) -> Self {
        Self::new(what, NonZeroU32::new(count).map(Quota::per_hour))
    }

    /// A burst of 0 means the rate.
    pub fn per_second(what: &'static str, rate: u32, burst: u32) -> Self {
        Self::new(what, per_second(rate, burst))
    }

    fn new(what: &'static str, quota: Option<Quota>) -> Self {
        Self {
            what,
            quota,
            limiter: quota.map(DefaultKeyedRateLimiter::keyed),
            hasher: RandomState::new(),
            passes: AtomicUsize::new(0),
            full: AtomicBool::new(false),
        }
    }

    /// All `count` or none.
    pub fn pass(&self, key: impl Hash, count: NonZeroU32) -> Result<(), Refusal> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        self.sweep_at_times(limiter);
        if self.full.load(Ordering::Relaxed) {
            return Err(refusal(self.what, Duration::from_secs(1)));
        }
        match limiter.check_key_n(&self.hasher.hash_one(key), count) {
            Ok(answer) => answer.map_err(|until| refused_until(self.what, &until)),
            Err(_) => Err(refusal(self.what, Duration::from_secs(60))),
        }
    }

    /// As [`Gate::pass`], and a request above the whole budget takes all of it.
    pub fn pass_most(&self, key: impl Hash, count: NonZeroU32) -> Result<(), Refusal> {
        self.pass(key, at_most(count, self.quota))
    }

    /// What is left of `before`, if that has the same limit; else a whole budget.
    pub fn after(self, before: &Arc<Self>) -> Arc<Self> {
        if self.quota == before.quota { before.clone() } else { Arc::new(self) }
    }

    fn sweep_at_times(&self, limiter: &DefaultKeyedRateLimiter<u64>) {
        let full = self.full.load(Ordering::Relaxed);
        let every = if full { SWEEP_EVERY_WHEN_FULL } else { SWEEP_EVERY };
        if self.passes.fetch_add(1, Ordering::Relaxed).is_multiple_of(every) {
            limiter.retain_recent();
            limiter.shrink_to_fit();
            self.full.store(limiter.len() >= MAX_KEYS, Ordering::Relaxed);
        }
    }
}

impl SoleGate {
    /// A burst of 0 means the rate.
    pub fn per_second(what: &'static str, rate: u32, burst: u32) -> Self {
        let quota = per_second(rate, burst);
        Self { what, quota, limiter: quota.map(DefaultDirectRateLimiter::direct) }
    }

    /// Becomes `now`, with a whole budget, if that has another limit.
    pub fn follow(&mut self, now: Self) {
        if self.quota != now.quota {
            *self = now;
        }
    }

    /// All `count` or none; a count above the whole budget takes all of it.
    pub fn pass_n(&self, count: NonZeroU32) -> Result<(), Refusal> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        match limiter.check_n(at_most(count, self.quota)) {
            Ok(answer) => answer.map_err(|until| refused_until(self.what, &until)),
            Err(_) => Err(refusal(self.what, Duration::from_secs(1))),
        }
    }

    pub fn pass(&self) -> Result<(), Refusal> {
        match &self.limiter {
            Some(limiter) => limiter.check().map_err(|until| refused_until(self.what, &until)),
            None => Ok(()),
        }
    }
}

/// A count above the whole budget takes all of it.
fn at_most(count: NonZeroU32, quota: Option<Quota>) -> NonZeroU32 {
    quota.map_or(count, |quota| count.min(quota.burst_size()))
}

/// None: no limit.
fn per_second(rate: u32, burst: u32) -> Option<Quota> {
    let rate = NonZeroU32::new(rate)?;
    let burst = NonZeroU32::new(burst).unwrap_or(rate);
    Some(Quota::per_second(rate).allow_burst(burst))
}

fn refused_until(what: &'static str, until: &NotUntil<Instant>) -> Refusal {
    refusal(what, until.wait_time_from(DefaultClock::default().now()))
}

pub(super) fn refusal(what: &'static str, wait: Duration) -> Refusal {
    let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
    Refusal::new(Code::RateLimited, format!("too many {what}; slow down")).retry_after_ms(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_keys_costs_bounded_memory() {
        let gate = Gate::per_minute("knocks", 1);
        for key in 0..MAX_KEYS * 2 {
            if let Err(refusal) = gate.pass(key, NonZeroU32::MIN) {
                assert_eq!(refusal.code, Code::RateLimited);
            }
        }
        let kept = gate.limiter.as_ref().unwrap().len();
        assert!(kept <= MAX_KEYS + SWEEP_EVERY, "{kept} keys");
    }
}
