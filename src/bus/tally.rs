//! Counts that all nodes share, for limits: a key each, gone with its window.

use std::time::Duration;

use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::ExpireOptions;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join3};

use super::Bus;
use super::client::bounded;
use crate::limits::{Tallied, Tally};

impl Tally for Bus {
    fn count<'a>(&'a self, key: &'a str, window: Duration) -> BoxFuture<'a, Option<Tallied>> {
        self.tally(key, window).boxed()
    }
}

impl Bus {
    /// `None` while Redis is away; a frozen one costs a short wait until that is
    /// known.
    async fn tally(&self, key: &str, window: Duration) -> Option<Tallied> {
        let client = self.shared.line.client();
        if !self.is_up() || !client.is_connected() {
            return None;
        }
        let key = format!("roomgate:limit:{key}");
        let seconds = i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
        // Sent together, done in this order. Only a key without an end gets one,
        // so the window is not prolonged; one that a death in between left
        // without gets it the next time.
        let asked = Box::pin(async {
            let (count, ends, left) = Box::pin(join3(
                client.incr::<u64, _>(&key),
                client.expire::<i64, _>(&key, seconds, Some(ExpireOptions::NX)),
                client.pttl::<i64, _>(&key),
            ))
            .await;
            ends?;
            Ok((count?, left?))
        });
        match bounded(asked).await {
            Ok((count, left_ms)) => {
                Some(Tallied { count, left: Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)) })
            }
            Err(error) => {
                tracing::debug!(%error, "limits are this node's own for now");
                None
            }
        }
    }
}
