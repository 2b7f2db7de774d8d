//! Limits that hold over all nodes: a count that they share, if it can be had.
//!
//! It stands beside the node's own gate and never in its place: while nobody
//! keeps the count, each node allows what it would alone.

use std::time::Duration;

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};

use super::gate::refusal;
use crate::protocol::Refusal;

pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Who keeps the count.
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

/// `most` = 0: no limit. The key's parts are hashed: whose they are is nobody's
/// business where the count is kept.
pub(super) async fn pass(
    tally: Option<&dyn Tally>,
    what: &'static str,
    parts: &[&str],
    most: u32,
) -> Result<(), Refusal> {
    let Some(tally) = tally.filter(|_| most > 0) else { return Ok(()) };
    match tally.count(&key(parts), 1, WINDOW).await {
        Some(tallied) if tallied.count > i64::from(most) => Err(refusal(what, tallied.left)),
        _ => Ok(()),
    }
}

fn key(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
