//! Named tasks. The only user of `tokio::spawn`.
//!
//! Every task has a name, an owner (the [`Tasks`] it was spawned on), a stop
//! signal, and a policy for failing: a panic is logged with the task's name and
//! never takes another task down. A drain can ask who is still running.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

/// A cheap handle to the group of tasks of one process.
#[derive(Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    stop: watch::Sender<bool>,
    running: Mutex<BTreeMap<&'static str, usize>>,
    ended: tokio::sync::Notify,
}

/// Resolves once the group is told to stop. Cheap to clone and to poll.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Cancel-safe.
    pub async fn wait(&mut self) {
        // An error means that the group is gone, which is a stop as well.
        if self.0.wait_for(|stopped| *stopped).await.is_err() {}
    }

    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    pub fn new() -> Self {
        let shared = Shared {
            stop: watch::Sender::new(false),
            running: Mutex::new(BTreeMap::new()),
            ended: tokio::sync::Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs `work` under `name`. A panic in it is logged, not propagated.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        spawn(name, work, Running::start(self.shared.clone(), name));
    }

    /// As [`Tasks::spawn`], for what serves a handle and ends when that is dropped:
    /// it watches no [`Stop`], and [`Tasks::ended`] doesn't wait for it.
    pub fn spawn_for_handle(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        spawn(name, work, ());
    }

    pub fn stop_signal(&self) -> Stop {
        Stop(self.shared.stop.subscribe())
    }

    /// Tells every task that watches its [`Stop`] to end.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
    }

    /// Waits until all tasks have ended, or until `limit`; then names those that
    /// have not, with how many of each there are.
    pub async fn ended(&self, limit: Duration) -> Result<(), BTreeMap<&'static str, usize>> {
        let all = async {
            loop {
                let ended = self.shared.ended.notified();
                if self.running().is_empty() {
                    return;
                }
                ended.await;
            }
        };
        tokio::time::timeout(limit, all).await.map_err(|_| self.running())
    }

    /// Who is running, and how many of each.
    pub fn running(&self) -> BTreeMap<&'static str, usize> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `held` is dropped when the task has ended.
#[allow(clippy::disallowed_methods, reason = "the one place that may spawn")]
fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static, held: impl Send + 'static) {
    // Combinators, not an async block: that would hold `work` twice, and there
    // are tasks by the ten thousand.
    let task = AssertUnwindSafe(work).catch_unwind().map(move |ended| {
        if ended.is_err() {
            tracing::error!(task = name, "task panicked");
        }
        drop(held);
    });
    drop(tokio::spawn(task));
}

/// Counts a task in, and out again when dropped, panic or not.
struct Running {
    shared: Arc<Shared>,
    name: &'static str,
}

impl Running {
    fn start(shared: Arc<Shared>, name: &'static str) -> Self {
        *shared.running.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        Self { shared, name }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
        drop(running);
        self.shared.ended.notify_waiters();
    }
}
