//! Who is in a room on which node, for those who come later: a hash a room.
//!
//! Each entry names its node; each node says every few seconds that it lives.
//! Entries of nodes that stopped saying so are nobody's, and are removed by
//! whoever reads them.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use fred::error::Error;
use fred::interfaces::{HashesInterface, SortedSetsInterface};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Away, Bus};
use crate::clock::UnixMillis;
use crate::ids::RoomId;
use crate::tasks::Stop;

const NODES_KEY: &str = "roomgate:nodes";
const HEARTBEAT: Duration = Duration::from_secs(3);
/// A node that has been silent for so long is dead.
const LEASE: Duration = Duration::from_secs(12);
/// A read for a user doesn't wait longer.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// One run of one node; a restart is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

pub(super) fn members_key(room: RoomId) -> String {
    format!("roomgate:members:{room}")
}

/// An entry: the node, a space, the member.
pub(super) fn stored(node: NodeId, member: &str) -> String {
    format!("{node} {member}")
}

fn read_entry(entry: &str) -> Option<(NodeId, &str)> {
    let (node, member) = entry.split_once(' ')?;
    Some((NodeId(u64::from_str_radix(node, 16).ok()?), member))
}

impl Bus {
    /// Who is in `room` on nodes that live: the node and what was stored.
    pub async fn members(&self, room: RoomId) -> Result<Vec<(NodeId, String)>, Away> {
        let alive = self.alive().await?;
        let client = &self.shared.client;
        let entries: Vec<(String, String)> = bounded(client.hgetall(members_key(room))).await?;
        let (mut members, mut stale) = (Vec::new(), Vec::new());
        for (session, entry) in entries {
            match read_entry(&entry) {
                Some((node, member)) if alive.contains(&node) => members.push((node, member.to_owned())),
                _ => stale.push(session),
            }
        }
        if !stale.is_empty() {
            let _removed: u64 = bounded(client.hdel(members_key(room), stale)).await?;
        }
        Ok(members)
    }

    /// The nodes that live, this one included.
    pub async fn alive(&self) -> Result<HashSet<NodeId>, Away> {
        let now = UnixMillis::now().0 as f64;
        let client = &self.shared.client;
        let names: Vec<String> =
            bounded(client.zrangebyscore(NODES_KEY, now, f64::INFINITY, false, None)).await?;
        let mut alive: HashSet<_> =
            names.iter().filter_map(|name| u64::from_str_radix(name, 16).ok().map(NodeId)).collect();
        alive.insert(self.shared.node);
        Ok(alive)
    }
}

async fn bounded<T>(command: impl Future<Output = Result<T, Error>>) -> Result<T, Away> {
    match timeout(READ_TIMEOUT, command).await {
        Ok(result) => result.map_err(|error| Away(error.to_string())),
        Err(_) => Err(Away("no answer in time".to_owned())),
    }
}

/// Says that this node lives, and forgets those that don't; at the end, that it
/// has gone.
pub(super) async fn heartbeat(bus: Bus, mut stop: Stop) {
    let mut ticks = interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let client = &bus.shared.client;
    let name = bus.shared.node.to_string();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.wait() => break,
        }
        let now = UnixMillis::now().0;
        let expires = (now + LEASE.as_millis() as i64) as f64;
        let beat = async {
            let _added: i64 =
                client.zadd(NODES_KEY, None, None, false, false, (expires, name.as_str())).await?;
            let _removed: i64 = client.zremrangebyscore(NODES_KEY, f64::NEG_INFINITY, now as f64).await?;
            Ok(())
        };
        if let Err(error) = bounded(beat).await {
            tracing::debug!(%error, "can't say that this node lives");
        }
    }
    if let Err(error) = bounded(client.zrem::<i64, _, _>(NODES_KEY, name.as_str())).await {
        tracing::debug!(%error, "can't say that this node has gone");
    }
}
