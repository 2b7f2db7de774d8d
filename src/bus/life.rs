//! Which nodes live, by Redis' clock: each says so every few seconds, and who has
//! been silent for long is dead.
//!
//! Whoever finds a node dead takes it out of the list first. So a node that comes
//! back from a long sleep learns from its next word that others took it for dead,
//! and says again all that it had said.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, SortedSetsInterface};
use fred::types::CustomCommand;
use futures_util::future::try_join;

use super::client::bounded;
use super::{Away, Bus};

const NODES_KEY: &str = "roomgate:nodes";
pub(super) const HEARTBEAT: Duration = Duration::from_secs(3);
/// How soon it is said again when it could not be said.
pub(super) const HEARTBEAT_RETRY: Duration = Duration::from_millis(100);
/// A node that has been silent for so long is dead. With the time until others
/// look, its sessions are gone within 15 s.
const LEASE_MS: f64 = 10_000.0;

/// One run of one node; a restart is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl NodeId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl Bus {
    /// The nodes that live, this one included.
    pub async fn alive(&self) -> Result<HashSet<NodeId>, Away> {
        let client = self.shared.line.client();
        let (oldest, latest) = (f64::NEG_INFINITY, f64::INFINITY);
        let now = bounded(server_time_ms(&client)).await?;
        let removed = client.zremrangebyscore::<i64, _, _, _>(NODES_KEY, oldest, now);
        let left = client.zrangebyscore::<Vec<String>, _, _, _>(NODES_KEY, oldest, latest, false, None);
        // In this order, sent together.
        let (_, left) = bounded(Box::pin(try_join(removed, left))).await?;
        let mut alive: HashSet<_> = left.iter().filter_map(|name| NodeId::parse(name)).collect();
        alive.insert(self.shared.node);
        Ok(alive)
    }
}

/// Says that this node lives. True if others may not have known.
pub(super) async fn beat(bus: &Bus) -> Result<bool, Away> {
    let client = bus.shared.line.client();
    if !client.is_connected() {
        return Err(Away("not connected".to_owned()));
    }
    let name = bus.shared.node.to_string();
    bounded(async {
        let until = server_time_ms(&client).await? + LEASE_MS;
        let added: i64 = client.zadd(NODES_KEY, None, None, false, false, (until, name.as_str())).await?;
        Ok(added > 0)
    })
    .await
}

/// Says that this node has gone.
pub(super) async fn end(bus: &Bus) {
    let (client, name) = (bus.shared.line.client(), bus.shared.node.to_string());
    if let Err(error) = bounded(client.zrem::<i64, _, _>(NODES_KEY, name.as_str())).await {
        tracing::debug!(%error, "can't say that this node has gone");
    }
}

/// The nodes' clocks may differ; Redis has one.
async fn server_time_ms(client: &Client) -> Result<f64, Error> {
    let time = CustomCommand::new_static("TIME", None, false);
    let (seconds, micros): (f64, f64) = client.custom(time, Vec::<String>::new()).await?;
    Ok(seconds * 1000.0 + micros / 1000.0)
}
