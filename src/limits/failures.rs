//! Failed sign-ins, counted by account and address, by account, and by address.
//!
//! An attempt takes a place in each of its counts before its password is checked. A
//! wrong password keeps the place until the end of the window, a right one gives it
//! back. So attempts at the same time can't exceed a limit on a node, and no right
//! password is ever counted. An attempt that finds all places taken by others in
//! flight waits for their outcome.
//!
//! Nodes add up their failures in a [`Tally`]. Each node looks there before it admits
//! an attempt, so guesses at the same moment may exceed a limit once for each node.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::gate::{MAX_KEYS, refusal};
use super::network;
use super::tally::{MINUTE, SharedCounts, key};
use crate::protocol::Refusal;

const WHAT: &str = "failed sign-ins";
/// How long an attempt waits for the outcome of others.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A sign-in before its password is checked.
#[derive(Debug, Clone, Copy)]
pub struct Guess<'a> {
    /// Its address, whether or not the account exists.
    pub email: &'a str,
    pub from: IpAddr,
    /// A sign-in of the account that the same client had before.
    pub device: Option<Uuid>,
    /// The account has signed in from this address before.
    pub is_known: bool,
}

/// A place in the counts of a guess. Dropped without an outcome, it is a failure.
pub struct Attempt {
    counts: Arc<Failures>,
    shared: Option<SharedCounts>,
    /// The pair comes first.
    keys: Vec<Key>,
    is_settled: bool,
}

#[derive(Debug, Clone)]
struct Key {
    local: u64,
    shared: String,
    /// Counts the first failure of each pair alone: a client that mistypes one
    /// password takes one place of its address, not all.
    is_of_address: bool,
}

/// The counts of a node.
pub(super) struct Failures {
    /// 0: no limit.
    most: u32,
    counts: Mutex<HashMap<u64, Count>>,
    settled: Notify,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    failed: u32,
    in_flight: u32,
    /// The end of the window in which they failed.
    until: Instant,
}

impl Failures {
    pub fn new(most: u32) -> Self {
        Self { most, counts: Mutex::default(), settled: Notify::new(), hasher: RandomState::new() }
    }

    /// As it was `before`, if the limit is the same.
    pub fn after(self, before: &Arc<Self>) -> Arc<Self> {
        if self.most == before.most { before.clone() } else { Arc::new(self) }
    }

    /// # Errors
    /// `rate_limited` if a count of the guess is at its limit.
    pub async fn begin(
        self: &Arc<Self>,
        guess: Guess<'_>,
        shared: Option<SharedCounts>,
    ) -> Result<Attempt, Refusal> {
        let keys = if self.most == 0 { Vec::new() } else { self.keys(guess) };
        for key in &keys {
            self.look(key, shared.as_ref(), 0).await;
        }
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let settled = self.settled.notified();
            if self.take(&keys)? {
                return Ok(Attempt { counts: self.clone(), shared, keys, is_settled: false });
            }
            if timeout_at(deadline, settled).await.is_err() {
                return Err(refusal(WHAT, Duration::from_secs(1)));
            }
        }
    }

    fn keys(&self, guess: Guess<'_>) -> Vec<Key> {
        let (email, network) = (guess.email.to_lowercase(), network(guess.from).to_string());
        let device = guess.device.map(|device| device.to_string());
        let key = |parts: &[&str]| {
            let shared = key(parts);
            let local = self.hasher.hash_one(&shared);
            Key { local, shared, is_of_address: parts[0] == "failed-by-address" }
        };
        let pair = match &device {
            Some(device) => key(&["failed-by-device", &email, device]),
            None => key(&["failed-by-pair", &email, &network]),
        };
        if device.is_some() || guess.is_known {
            return vec![pair];
        }
        vec![pair, key(&["failed-by-account", &email]), key(&["failed-by-address", &network])]
    }

    /// Adds `more` failures to the count of all nodes, and takes over the sum.
    async fn look(&self, key: &Key, shared: Option<&SharedCounts>, more: i64) {
        let Some(shared) = shared else { return };
        let Some(answer) = shared.add(&key.shared, more, MINUTE).await else { return };
        let failed = u32::try_from(answer.count).unwrap_or(0);
        if failed == 0 {
            return;
        }
        let mut counts = self.counts();
        let now = Instant::now();
        let until = now + answer.left;
        let count = counts.entry(key.local).or_insert(Count { failed: 0, in_flight: 0, until });
        count.forget(now);
        if failed > count.failed {
            (count.failed, count.until) = (failed, until);
        }
    }

    /// A place in all counts, or in none: false if an outcome is to be waited for.
    fn take(&self, keys: &[Key]) -> Result<bool, Refusal> {
        let (mut counts, now) = (self.counts(), Instant::now());
        if counts.len() + keys.len() > MAX_KEYS {
            counts.retain(|_, count| count.is_in_use(now));
            if counts.len() + keys.len() > MAX_KEYS {
                return Err(refusal(WHAT, Duration::from_secs(1)));
            }
        }
        let mut is_free = true;
        for key in keys {
            let Some(count) = counts.get_mut(&key.local) else { continue };
            count.forget(now);
            if count.failed >= self.most {
                return Err(refusal(WHAT, count.until - now));
            }
            is_free &= count.failed + count.in_flight < self.most;
        }
        if is_free {
            for key in keys {
                let fresh = Count { failed: 0, in_flight: 0, until: now };
                counts.entry(key.local).or_insert(fresh).in_flight += 1;
            }
        }
        Ok(is_free)
    }

    /// Gives the places back, and counts the failure. Returns the keys that it
    /// counted for.
    fn settle(&self, keys: &[Key], has_failed: bool) -> Vec<Key> {
        let (mut counts, now) = (self.counts(), Instant::now());
        let (mut counted, mut is_first) = (Vec::new(), false);
        for (place, key) in keys.iter().enumerate() {
            let Some(count) = counts.get_mut(&key.local) else { continue };
            count.in_flight = count.in_flight.saturating_sub(1);
            count.forget(now);
            if place == 0 {
                is_first = count.failed == 0;
            }
            if has_failed && (is_first || !key.is_of_address) {
                if count.failed == 0 {
                    count.until = now + MINUTE;
                }
                count.failed += 1;
                counted.push(key.clone());
            }
            if !count.is_in_use(now) {
                counts.remove(&key.local);
            }
        }
        drop(counts);
        self.settled.notify_waiters();
        counted
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u64, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn forget(&mut self, now: Instant) {
        if now >= self.until {
            self.failed = 0;
        }
    }

    fn is_in_use(&self, now: Instant) -> bool {
        self.in_flight > 0 || self.failed > 0 && now < self.until
    }
}

impl Attempt {
    /// The password was right, or nobody looked at it.
    pub fn give_back(mut self) {
        self.is_settled = true;
        self.counts.settle(&self.keys, false);
    }

    /// The password was wrong. Returns whether that was the first failure of the
    /// account from the address in a while.
    pub async fn fail(mut self) -> bool {
        self.is_settled = true;
        let counted = self.counts.settle(&self.keys, true);
        for key in &counted {
            self.counts.look(key, self.shared.as_ref(), 1).await;
        }
        counted.first().is_some_and(|key| self.counts.failed(key) == 1)
    }
}

impl Failures {
    fn failed(&self, key: &Key) -> u32 {
        self.counts().get(&key.local).map_or(0, |count| count.failed)
    }
}

impl Drop for Attempt {
    /// A client that goes away before the answer has guessed nevertheless.
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let counted = self.counts.settle(&self.keys, true);
        if let Some(shared) = self.shared.take() {
            let counts = self.counts.clone();
            shared.clone().spawn(async move {
                for key in &counted {
                    counts.look(key, Some(&shared), 1).await;
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u32 = 3;

    fn guess<'a>(email: &'a str, from: &str) -> Guess<'a> {
        Guess { email, from: from.parse().unwrap(), device: None, is_known: false }
    }

    fn known<'a>(email: &'a str, from: &str) -> Guess<'a> {
        Guess { is_known: true, ..guess(email, from) }
    }

    async fn fails(counts: &Arc<Failures>, guess: Guess<'_>) -> bool {
        match counts.begin(guess, None).await {
            Ok(attempt) => {
                attempt.fail().await;
                true
            }
            Err(_) => false,
        }
    }

    async fn passes(counts: &Arc<Failures>, guess: Guess<'_>) -> bool {
        counts.begin(guess, None).await.map(Attempt::give_back).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_from_many_addresses_lock_out_no_known_one() {
        let counts = Arc::new(Failures::new(MOST));
        for n in 0..MOST {
            assert!(fails(&counts, guess("a@x", &format!("10.0.0.{n}"))).await);
        }
        assert!(!passes(&counts, guess("a@x", "10.0.0.9")).await, "an unknown address");
        assert!(passes(&counts, known("a@x", "10.0.0.9")).await);
        let device = Some(Uuid::new_v4());
        assert!(passes(&counts, Guess { device, ..guess("a@x", "10.0.0.8") }).await);
        assert!(passes(&counts, guess("b@x", "10.0.0.9")).await, "another account");
        tokio::time::advance(MINUTE).await;
        assert!(passes(&counts, guess("a@x", "10.0.0.9")).await, "a minute later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_address_is_limited_by_its_own_failures() {
        let counts = Arc::new(Failures::new(MOST));
        for _ in 0..MOST {
            assert!(fails(&counts, known("a@x", "10.0.0.1")).await);
        }
        assert!(!passes(&counts, known("A@x", "10.0.0.1")).await);
        assert!(passes(&counts, known("a@x", "10.0.0.2")).await);
        let device = Some(Uuid::new_v4());
        assert!(passes(&counts, Guess { device, ..guess("a@x", "10.0.0.1") }).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_limited_by_the_accounts_that_failed() {
        let counts = Arc::new(Failures::new(MOST));
        while fails(&counts, guess("a@x", "10.0.0.1")).await {}
        assert!(passes(&counts, guess("b@x", "10.0.0.1")).await, "one account failed");
        assert!(fails(&counts, guess("b@x", "10.0.0.1")).await);
        assert!(fails(&counts, guess("c@x", "10.0.0.1")).await);
        assert!(!passes(&counts, guess("d@x", "10.0.0.1")).await, "three accounts failed");
        assert!(passes(&counts, known("d@x", "10.0.0.1")).await);
        assert!(passes(&counts, guess("d@x", "10.0.0.2")).await);
    }

    #[tokio::test(start_paused = true)]
    async fn right_passwords_are_never_counted() {
        let counts = Arc::new(Failures::new(MOST));
        for n in 0..MOST * 10 {
            assert!(passes(&counts, guess("a@x", "10.0.0.1")).await, "{n}");
        }
        assert!(counts.counts().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_at_the_same_time_do_not_exceed_the_limit() {
        let counts = Arc::new(Failures::new(MOST));
        let tries = (0..50).map(|_| fails(&counts, guess("a@x", "10.0.0.1")));
        let admitted = futures_util::future::join_all(tries).await;
        assert_eq!(admitted.into_iter().filter(|&admitted| admitted).count(), MOST as usize);
        let given_up = counts.begin(guess("b@x", "10.0.0.1"), None).await.unwrap();
        drop(given_up);
        assert_eq!(counts.counts().values().map(|count| count.in_flight).sum::<u32>(), 0);
        assert!(fails(&counts, guess("b@x", "10.0.0.1")).await);
        assert!(fails(&counts, guess("b@x", "10.0.0.1")).await);
        assert!(!passes(&counts, guess("b@x", "10.0.0.1")).await, "a guess that nobody waited for counts");
    }

    #[tokio::test(start_paused = true)]
    async fn right_passwords_at_the_same_time_wait_for_each_other() {
        let counts = Arc::new(Failures::new(MOST));
        let tries = (0..50).map(|_| async {
            let attempt = counts.begin(known("a@x", "10.0.0.1"), None).await.ok()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            attempt.give_back();
            Some(())
        });
        let passed = futures_util::future::join_all(tries).await;
        assert_eq!(passed.into_iter().flatten().count(), 50);
    }
}
