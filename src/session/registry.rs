//! The sessions of this node: counted, and sent away in good order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::ending::Ending;
use crate::auth::Claims;
use crate::ids::SessionId;
use crate::protocol::CloseCode;

/// No slower than this: other nodes take two hundred a second without noticing.
const GAP_MAX: Duration = Duration::from_millis(5);

/// How often a drain asks the next few to go.
const PACE: Duration = Duration::from_millis(20);

#[derive(Default)]
pub struct Registry {
    open: Mutex<HashMap<SessionId, Open>>,
    draining: AtomicBool,
    /// A session ended.
    ended: Notify,
}

struct Open {
    ending: Arc<Ending>,
    /// Once it has shown a token.
    claims: Option<Claims>,
}

/// A session's entry; gone when dropped.
pub struct Entry<'a> {
    registry: &'a Registry,
    session: SessionId,
}

/// The node is being stopped and takes no more sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draining;

impl Registry {
    pub fn enter(&self, session: &SessionId, ending: Arc<Ending>) -> Result<Entry<'_>, Draining> {
        let mut open = self.open();
        if self.is_draining() {
            return Err(Draining);
        }
        open.insert(session.clone(), Open { ending, claims: None });
        Ok(Entry { registry: self, session: session.clone() })
    }

    /// What `session` shows from now on.
    pub fn signed_in(&self, session: &SessionId, claims: &Claims) {
        if let Some(open) = self.open().get_mut(session) {
            open.claims = Some(claims.clone());
        }
    }

    /// Asks those to go whose token is such a one. Answers how many.
    pub fn end_where(&self, is_meant: impl Fn(&Claims) -> bool, code: CloseCode) -> usize {
        let open = self.open();
        let meant = open.values().filter(|open| open.claims.as_ref().is_some_and(&is_meant));
        meant.map(|open| open.ending.ask(code)).count()
    }

    pub fn count(&self) -> usize {
        self.open().len()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Asks all to go, evenly over `window` or less if they are few; returns when
    /// they have gone, or after `limit`.
    pub async fn drain(&self, window: Duration, limit: Duration) {
        let leaving: Vec<_> = {
            let open = self.open();
            self.draining.store(true, Ordering::Relaxed);
            open.values().map(|open| open.ending.clone()).collect()
        };
        let start = Instant::now();
        let few = u32::try_from(leaving.len()).map_or(window, |count| GAP_MAX * count);
        let window = window.min(few);
        let paced = async {
            for (asked, ending) in leaving.iter().enumerate() {
                let due = start + share(window, asked, leaving.len());
                if due > Instant::now() + PACE {
                    tokio::time::sleep_until(due).await;
                }
                ending.ask(CloseCode::Restart);
            }
            self.empty().await;
        };
        if tokio::time::timeout(limit, paced).await.is_err() {
            tracing::warn!(left = self.count(), "sessions are left at the end of the drain");
        }
    }

    async fn empty(&self) {
        loop {
            let ended = self.ended.notified();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SessionId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the `index`-th of `count` is due within `window`.
fn share(window: Duration, index: usize, count: usize) -> Duration {
    let (index, count) = (u32::try_from(index).unwrap_or(u32::MAX), u32::try_from(count).unwrap_or(u32::MAX));
    window / count.max(1) * index
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.registry.open().remove(&self.session);
        self.registry.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_paced_over_its_window_and_ends_with_the_last_session() {
        let registry = Registry::default();
        let endings: Vec<Arc<Ending>> = (0..10_000).map(|_| Arc::default()).collect();
        let entries: Vec<_> = endings
            .iter()
            .enumerate()
            .map(|(n, ending)| {
                registry.enter(&SessionId::new(&n.to_string()).unwrap(), ending.clone()).unwrap()
            })
            .collect();
        let start = Instant::now();
        let leave = |(ending, entry): (&Arc<Ending>, _)| {
            let ending = ending.clone();
            async move {
                assert_eq!(ending.asked().await, CloseCode::Restart);
                drop(entry);
                start.elapsed()
            }
        };
        let sessions = futures_util::future::join_all(endings.iter().zip(entries).map(leave));
        let drained = async {
            registry.drain(Duration::from_secs(10), Duration::from_secs(30)).await;
            start.elapsed()
        };
        let (asked_at, drained) = futures_util::future::join(sessions, drained).await;
        let in_first_half = asked_at.iter().filter(|at| **at < Duration::from_secs(5)).count();
        assert!((4_900..=5_100).contains(&in_first_half), "{in_first_half} in the first half");
        assert!(drained < Duration::from_secs(11), "{drained:?}");
        assert!(registry.enter(&SessionId::random(), Arc::default()).is_err());
    }
}
