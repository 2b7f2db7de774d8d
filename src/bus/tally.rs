//! Counts that all nodes share, for limits: a key each, gone with its window.

use std::time::Duration;

use fred::interfaces::ClientLike;
use fred::types::Value;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Bus;
use super::client::bounded;
use super::command::{Command, Job, limit_key};
use crate::limits::{Tallied, Tally};

impl Tally for Bus {
    fn count<'a>(&'a self, key: &'a str, more: i64, window: Duration) -> BoxFuture<'a, Option<Tallied>> {
        self.tally(key, more, window).boxed()
    }
}

impl Bus {
    /// `None` while Redis is away or refuses this; a frozen one costs a short wait
    /// until that is known.
    async fn tally(&self, key: &str, more: i64, window: Duration) -> Option<Tallied> {
        let client = self.shared.line.client();
        if !self.works(Job::Limits) || !client.is_connected() {
            return None;
        }
        let key = Value::from(limit_key(key));
        let seconds = Value::from(i64::try_from(window.as_secs()).unwrap_or(i64::MAX));
        let begin = vec![key.clone(), "0".into(), "EX".into(), seconds.clone(), "NX".into()];
        // Sent together, done in this order. A key begins with its end, which
        // nothing prolongs; the end is given again only to a key that expired
        // between the first two.
        let asked = async {
            let pipeline = client.pipeline();
            Command::LimitBegin.send::<()>(&pipeline, begin).await?;
            Command::LimitAdd.send::<()>(&pipeline, vec![key.clone(), more.into()]).await?;
            Command::LimitKept.send::<()>(&pipeline, vec![key.clone(), seconds, "NX".into()]).await?;
            Command::LimitLeft.send::<()>(&pipeline, vec![key]).await?;
            let (_, count, _, left_ms) = pipeline.all::<(Value, i64, i64, i64)>().await?;
            Ok((count, left_ms))
        };
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
