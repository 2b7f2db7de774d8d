//! How fast rows are copied, over all slots that move at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::sleep_until;

/// Shared by everybody who copies.
pub struct Pace {
    bytes_per_second: Option<u64>,
    copied: AtomicU64,
    /// Until when what was copied has been paid for.
    paid: Mutex<Instant>,
}

/// What may go through at once after a pause.
const CREDIT: Duration = Duration::from_millis(100);

impl Pace {
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, copied: AtomicU64::new(0), paid: Mutex::new(Instant::now()) }
    }

    /// Counts bytes that can't wait.
    pub fn count(&self, bytes: usize) {
        self.copied.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Waits until so many bytes may be sent.
    pub async fn spend(&self, bytes: usize) {
        self.count(bytes);
        let bytes = bytes as u64;
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else { return };
        let mut paid = self.paid.lock().await;
        let since = (*paid).max(Instant::now().checked_sub(CREDIT).unwrap_or(*paid));
        *paid = since + Duration::from_secs_f64(bytes as f64 / rate as f64);
        let until = *paid;
        drop(paid);
        sleep_until(until.into()).await;
    }

    /// Bytes so far.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_go_no_faster_than_is_allowed_over_all_who_copy() {
        let pace = Pace::new(Some(1_000_000));
        let begun = tokio::time::Instant::now();
        let copies = (0..4).map(|_| async {
            for _ in 0..50 {
                pace.spend(10_000).await;
            }
        });
        futures_util::future::join_all(copies).await;
        let took = begun.elapsed();
        assert_eq!(pace.copied(), 2_000_000);
        assert!(took >= Duration::from_millis(1_850), "{took:?}");
    }
}
