//! Limits that hold over all nodes: a count that they share, if it can be had.
//!
//! It stands beside the node's own gate and never in its place: while nobody
//! keeps the count, each node allows as much as it would alone. A request waits
//! for the answer of the count, and is accepted within the limit only. One request
//! at a time may go ahead of its answer, on the one node that made the whole count,
//! while that is fresh and far from the limit. So a limit is exceeded by one request
//! at most, and only if other nodes used the whole rest within [`FRESH`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use moka::future::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::gate::{MAX_KEYS, refusal};
use crate::protocol::Refusal;
use crate::tasks::Tasks;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// The age up to which an answer stands for the counts of other nodes.
const FRESH: Duration = Duration::from_secs(1);
/// Requests below the limit, at least, from which on each waits for its answer;
/// of larger limits a tenth.
const NEAR: i64 = 10;
/// Ends of one window, as two answers tell them, differ by less.
const SAME_WINDOW: Duration = Duration::from_secs(1);

/// Keeps the counts.
pub trait Tally: Send + Sync {
    /// Adds `more` to the count of `key`; a window begins with its first. `None`:
    /// the count can't be had now, which must be said soon.
    fn count<'a>(&'a self, key: &'a str, more: i64, window: Duration) -> BoxFuture<'a, Option<Tallied>>;
}

/// In the window of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tallied {
    pub count: i64,
    pub left: Duration,
}

/// A request that is counted.
pub(super) struct Counted<'a> {
    /// Named in a refusal.
    pub what: &'static str,
    /// Hashed, so that Redis holds no address and no account.
    pub parts: &'a [&'a str],
    pub count: u32,
    /// 0: no limit.
    pub most: u32,
    /// From the first request to the end of its budget.
    pub window: Duration,
    /// The request may go ahead of its answer, if it is of one.
    pub eager: bool,
}

/// The counts that this node takes part in. Cheap to clone.
#[derive(Clone)]
pub(super) struct SharedCounts {
    tally: Arc<dyn Tally>,
    tasks: Tasks,
    /// The least recently used is forgotten first, and asked for again.
    known: Cache<String, Arc<Count>>,
}

struct Count {
    key: String,
    /// One request of a key at a time waits for an answer.
    turn: Arc<Semaphore>,
    known: Mutex<Known>,
}

/// The last answer for a count, and this node's part in it.
#[derive(Debug, Clone, Copy)]
struct Known {
    count: i64,
    /// Accepted by this node in the window.
    own: i64,
    /// The end of the window.
    until: Instant,
    answered: Instant,
}

impl SharedCounts {
    pub fn new(tally: Arc<dyn Tally>, tasks: &Tasks) -> Self {
        let known = Cache::builder().max_capacity(MAX_KEYS as u64).time_to_idle(HOUR).build();
        Self { tally, tasks: tasks.clone(), known }
    }

    /// All of a request or nothing.
    pub async fn pass(&self, counted: Counted<'_>) -> Result<(), Refusal> {
        let Counted { what, parts, window, eager, .. } = counted;
        let (more, most) = (i64::from(counted.count), i64::from(counted.most));
        if most == 0 {
            return Ok(());
        }
        let key = key(parts);
        let count = self.known.get_with(key.clone(), async { Arc::new(Count::new(key)) }).await;
        count.check(what, more, most)?;
        let Ok(turn) = count.turn.clone().acquire_owned().await else { return Ok(()) };
        count.check(what, more, most)?;
        if eager && more == 1 && count.known().is_far_from(most, more) {
            let counts = self.clone();
            self.tasks.spawn("limit-count", async move {
                if let Some(answer) = counts.tally.count(&count.key, more, window).await {
                    counts.note(&count, more, answer, window).await;
                }
                drop(turn);
            });
            return Ok(());
        }
        let Some(answer) = self.tally.count(&count.key, more, window).await else { return Ok(()) };
        if answer.count <= most {
            self.note(&count, more, answer, window).await;
            return Ok(());
        }
        // A smaller request may still fit.
        let returned = if answer.count - more < most { more } else { 0 };
        if returned > 0 {
            self.tally.count(&count.key, -returned, window).await;
        }
        self.note(&count, 0, Tallied { count: answer.count - returned, ..answer }, window).await;
        Err(refusal(what, answer.left))
    }

    /// A request that passed is not to count after all.
    pub async fn give_back(&self, parts: &[&str], window: Duration) {
        let key = key(parts);
        let Some(count) = self.known.get(&key).await else { return };
        let Ok(_turn) = count.turn.acquire().await else { return };
        // In a later window there is nothing to give back.
        if count.known().count > 0
            && Instant::now() < count.known().until
            && let Some(answer) = self.tally.count(&key, -1, window).await
        {
            self.note(&count, -1, answer, window).await;
        }
    }

    /// Adds `more` without a limit.
    pub async fn add(&self, key: &str, more: i64, window: Duration) -> Option<Tallied> {
        self.tally.count(key, more, window).await
    }

    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn("limit-count", work);
    }

    /// If the count was lost, adds what this node had accepted.
    async fn note(&self, count: &Count, accepted: i64, answer: Tallied, window: Duration) {
        let lost = count.known().note(accepted, answer, Instant::now());
        if lost > 0
            && let Some(answer) = self.tally.count(&count.key, lost, window).await
        {
            count.known().count = answer.count;
        }
    }
}

impl Count {
    fn new(key: String) -> Self {
        let now = Instant::now();
        let known = Known { count: 0, own: 0, until: now, answered: now };
        Self { key, turn: Arc::new(Semaphore::new(1)), known: Mutex::new(known) }
    }

    /// Refuses a request that exceeds the limit by the last answer alone.
    fn check(&self, what: &'static str, more: i64, most: i64) -> Result<(), Refusal> {
        let (known, now) = (*self.known(), Instant::now());
        if now < known.until && known.count + more > most {
            return Err(refusal(what, known.until - now));
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_far_from(&self, most: i64, more: i64) -> bool {
        let now = Instant::now();
        let is_fresh = now < self.until && now < self.answered + FRESH;
        let is_alone = self.count == self.own;
        is_fresh && is_alone && self.count + more + NEAR.max(most / 10) <= most
    }

    /// Returns how much this node has to add because the count was lost: its
    /// window began anew before its end.
    fn note(&mut self, accepted: i64, answer: Tallied, now: Instant) -> i64 {
        let until = now + answer.left;
        let is_new = until > self.until + SAME_WINDOW;
        let is_lost = is_new && now + SAME_WINDOW < self.until;
        let before = if is_new && !is_lost { 0 } else { self.own };
        *self = Self { count: answer.count, own: before + accepted, until, answered: now };
        if is_lost { before } else { 0 }
    }
}

pub(super) fn key(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: i64 = 100;

    fn known(count: i64, own: i64, left_s: u64) -> Known {
        let now = Instant::now();
        Known { count, own, until: now + Duration::from_secs(left_s), answered: now }
    }

    fn noted(known: &mut Known, count: i64, left_s: u64) -> (i64, i64, i64) {
        let answer = Tallied { count, left: Duration::from_secs(left_s) };
        let lost = known.note(1, answer, Instant::now());
        (lost, known.count, known.own)
    }

    #[test]
    fn a_count_that_begins_before_its_end_was_lost() {
        assert_eq!(noted(&mut known(20, 7, 30), 21, 30), (0, 21, 8), "the same window");
        assert_eq!(noted(&mut known(20, 7, 0), 1, 60), (0, 1, 1), "the next window");
        assert_eq!(noted(&mut known(20, 7, 30), 1, 60), (7, 1, 8), "lost");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_node_alone_and_far_from_the_limit_does_not_wait() {
        assert!(known(20, 20, 30).is_far_from(MOST, 1));
        assert!(!known(21, 20, 30).is_far_from(MOST, 1), "another node counts");
        assert!(known(89, 89, 30).is_far_from(MOST, 1));
        assert!(!known(90, 90, 30).is_far_from(MOST, 1), "near the limit");
        assert!(!known(1, 1, 30).is_far_from(NEAR, 1), "a small limit");
        assert!(!known(20, 20, 0).is_far_from(MOST, 1), "the window is over");
        let answered = known(20, 20, 30);
        tokio::time::advance(FRESH).await;
        assert!(!answered.is_far_from(MOST, 1), "too old");
    }
}
