//! Pauses between attempts that Redis refuses: they double up to a bound, and are
//! jittered so that nodes don't ask in step.

use std::time::Duration;

pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempts: 0 }
    }

    /// The next pause: between half and the whole of its step.
    pub fn pause(&mut self) -> Duration {
        let pause = self.longest.min(self.first * 2_u32.saturating_pow(self.attempts.min(16)));
        self.attempts = self.attempts.saturating_add(1);
        rand::random_range(pause / 2..=pause)
    }

    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// No attempt failed since the last success.
    pub fn is_fresh(&self) -> bool {
        self.attempts == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_with_jitter() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, longest);
        for expected in [100, 200, 400, 800, 1600, 2000, 2000] {
            let (pause, expected) = (backoff.pause(), Duration::from_millis(expected));
            assert!((expected / 2..=expected).contains(&pause), "{pause:?} for {expected:?}");
        }
        backoff.reset();
        assert!(backoff.is_fresh() && backoff.pause() <= first);
    }
}
