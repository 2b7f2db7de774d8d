//! Tries of which only the wrong ones count: each is charged before it is looked at,
//! and a right one is given back.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use moka::future::Cache;
use tokio::time::Instant;

use super::gate::{MAX_KEYS, refusal};
use super::tally::MINUTE;
use crate::protocol::Refusal;

/// A budget for each key, whole again a minute after its first try.
pub(super) struct Tries {
    what: &'static str,
    /// 0: no limit.
    most: u32,
    /// The tries of each key. The least recently used is forgotten first.
    counts: Cache<u64, Arc<Count>>,
    hasher: RandomState,
}

struct Count {
    tries: AtomicU32,
    until: Instant,
}

impl Tries {
    pub fn new(what: &'static str, most: u32) -> Self {
        let counts = Cache::builder().max_capacity(MAX_KEYS as u64).time_to_live(MINUTE).build();
        Self { what, most, counts, hasher: RandomState::new() }
    }

    /// The rest of `before`, if that has the same limit; else a whole budget.
    pub fn after(self, before: &Arc<Self>) -> Arc<Self> {
        if self.most == before.most { before.clone() } else { Arc::new(self) }
    }

    pub async fn pass(&self, key: impl Hash) -> Result<(), Refusal> {
        if self.most == 0 {
            return Ok(());
        }
        let begins = async { Arc::new(Count { tries: AtomicU32::new(0), until: Instant::now() + MINUTE }) };
        let count = self.counts.get_with(self.hasher.hash_one(key), begins).await;
        let more = |tries| (tries < self.most).then_some(tries + 1);
        let passed = count.tries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        passed
            .map(drop)
            .map_err(|_| refusal(self.what, count.until.saturating_duration_since(Instant::now())))
    }

    pub async fn give_back(&self, key: impl Hash) {
        if let Some(count) = self.counts.get(&self.hasher.hash_one(key)).await {
            let less = |tries: u32| Some(tries.saturating_sub(1));
            count
                .tries
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .map(drop)
                .unwrap_or_default();
        }
    }
}
