//! When a session's client was last heard, whether it takes what is sent, and
//! when its token ends. Written by reader and writer, read by the watch.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::socket::Progress;
use crate::clock::UnixMillis;

pub struct Vitals {
    start: Instant,
    /// Nanoseconds since `start`: on a fast link a pong comes within the same
    /// millisecond as its ping, and must not seem older.
    heard: AtomicU64,
    /// Nanoseconds since `start`, plus one; 0 while the client takes all.
    stalled: AtomicU64,
    /// The reader waits for the gateway, so silence proves nothing.
    busy: AtomicBool,
    /// When the token ends; 0 before `welcome`.
    expires_at: AtomicI64,
    /// Something that moves a deadline closer has changed.
    pub changed: Notify,
}

impl Vitals {
    pub fn new(now: Instant) -> Self {
        Self {
            start: now,
            heard: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            expires_at: AtomicI64::new(0),
            changed: Notify::new(),
        }
    }

    /// A sign of life.
    pub fn heard(&self) {
        self.heard.store(self.elapsed(), Ordering::Relaxed);
    }

    pub fn last_heard(&self) -> Instant {
        self.start + Duration::from_nanos(self.heard.load(Ordering::Relaxed))
    }

    /// Runs `work` of the gateway's own, during which nothing is read.
    pub async fn while_busy<T>(&self, work: impl Future<Output = T>) -> T {
        self.set_busy(true);
        let done = work.await;
        self.set_busy(false);
        self.heard();
        done
    }

    pub(super) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    pub fn progress(&self, progress: Progress) {
        match progress {
            // Going on after a stall means that the client acknowledged bytes.
            Progress::Moved if self.stalled.swap(0, Ordering::Relaxed) > 0 => self.heard(),
            Progress::Moved => {}
            Progress::Stalled => {
                let now = self.elapsed() + 1;
                if self.stalled.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    self.changed.notify_one();
                }
            }
        }
    }

    /// Since when the client has taken nothing although something waits.
    pub fn stalled_since(&self) -> Option<Instant> {
        let stalled = self.stalled.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.start + Duration::from_nanos(stalled))
    }

    pub fn token_until(&self, expires_at: UnixMillis) {
        self.expires_at.store(expires_at.0.max(1), Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// `None` until the client has shown a token.
    pub fn expires_at(&self) -> Option<UnixMillis> {
        match self.expires_at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(UnixMillis(at)),
        }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
