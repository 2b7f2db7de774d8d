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
use fred::interfaces::ClientLike;

use super::client::bounded;
use super::command::{Command, Job, NODES_KEY};
use super::{Away, Bus};

pub(super) const HEARTBEAT: Duration = Duration::from_secs(3);
/// How soon it is said again when it could not be said.
pub(super) const HEARTBEAT_RETRY: Duration = Duration::from_millis(100);
/// A node that has been silent for so long is dead. With the time until others
/// look, its sessions are gone within 15 s.
const LEASE_MS: f64 = 10_000.0;
/// Keys expire by themselves after this time. A node stores its part of each
/// again at every heartbeat.
pub(super) const KEPT_S: i64 = 30;

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
        if self.shared.standing.load().refuses(Job::Presence) {
            return Err(Away("presence is refused".to_owned()));
        }
        let client = self.shared.line.client();
        let now = bounded(server_time_ms(&client)).await?;
        // In this order, sent together.
        let pipeline = client.pipeline();
        let left = vec![NODES_KEY.into(), "-inf".into(), "+inf".into()];
        let asked = async {
            let dead = vec![NODES_KEY.into(), "-inf".into(), now.into()];
            Command::NodesExpire.send::<()>(&pipeline, dead).await?;
            Command::NodesList.send::<()>(&pipeline, left).await?;
            pipeline.all::<(i64, Vec<String>)>().await
        };
        let (_, left) = bounded(asked).await?;
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
        let now = server_time_ms(&client).await?;
        bus.shared.seals.clock.learn(now as i64);
        let until = now + LEASE_MS;
        let pipeline = client.pipeline();
        let entry = vec![NODES_KEY.into(), until.into(), name.into()];
        Command::NodeAlive.send::<()>(&pipeline, entry).await?;
        Command::NodesKept.send::<()>(&pipeline, vec![NODES_KEY.into(), KEPT_S.into()]).await?;
        let (added, _) = pipeline.all::<(i64, i64)>().await?;
        Ok(added > 0)
    })
    .await
}

/// Says that this node has gone.
pub(super) async fn end(bus: &Bus) {
    let (client, name) = (bus.shared.line.client(), bus.shared.node.to_string());
    let gone = Command::NodeGone.send::<()>(&client, vec![NODES_KEY.into(), name.into()]);
    if let Err(error) = bounded(gone).await {
        tracing::debug!(%error, "can't say that this node has gone");
    }
}

/// The nodes' clocks may differ; Redis has one.
async fn server_time_ms(client: &Client) -> Result<f64, Error> {
    let (seconds, micros): (f64, f64) = Command::Time.send(client, Vec::new()).await?;
    Ok(seconds * 1000.0 + micros / 1000.0)
}
