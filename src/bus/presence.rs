//! Who is in a room on which node, for those who come later: a hash a room.
//!
//! Each entry names its node; each node says every few seconds that it lives, by
//! Redis' clock. Entries of nodes that stopped saying so are nobody's, and are
//! removed by whoever reads them. A node says that it lives before it stores any
//! entry, and readers ask in the opposite order, so that a node that has just
//! started is not taken for a dead one.

use std::collections::HashSet;
use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, HashesInterface, SortedSetsInterface};
use fred::types::CustomCommand;
use futures_util::future::{join, join_all};
use tokio::time::{Instant, sleep_until, timeout};

use super::ledger::Write;
use super::{Away, Bus};
use crate::ids::RoomId;
use crate::tasks::Stop;

const NODES_KEY: &str = "roomgate:nodes";
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How soon it is said again when it could not be said.
const HEARTBEAT_RETRY: Duration = Duration::from_millis(100);
/// A node that has been silent for so long is dead.
const LEASE_MS: f64 = 12_000.0;
/// Nothing here waits longer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Entries written at once.
const PIPELINE: usize = 256;

/// One run of one node; a restart is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn members_key(room: RoomId) -> String {
    format!("roomgate:members:{room}")
}

/// An entry: the node, a space, the member.
pub(super) fn read_entry(entry: &str) -> Option<(NodeId, &str)> {
    let (node, member) = entry.split_once(' ')?;
    Some((NodeId(u64::from_str_radix(node, 16).ok()?), member))
}

impl Bus {
    /// Who is in `room` on nodes that live: the node and what was stored.
    pub async fn members(&self, room: RoomId) -> Result<Vec<(NodeId, String)>, Away> {
        let client = self.shared.line.client();
        // In this order, see above; sent together.
        let entries = client.hgetall::<Vec<(String, String)>, _>(members_key(room));
        let (entries, alive) = Box::pin(join(bounded(entries), self.alive())).await;
        let (entries, alive) = (entries?, alive?);
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
        let client = self.shared.line.client();
        let nodes = client.zrangebyscore::<Vec<(String, f64)>, _, _, _>(
            NODES_KEY,
            f64::NEG_INFINITY,
            f64::INFINITY,
            true,
            None,
        );
        let (nodes, now) =
            bounded(Box::pin(async { Ok(join(nodes, server_time_ms(&client)).await) })).await?;
        let (nodes, now) = (nodes.map_err(away)?, now.map_err(away)?);
        let living = nodes.into_iter().filter(|(_, expires)| *expires > now);
        let mut alive: HashSet<_> =
            living.filter_map(|(name, _)| u64::from_str_radix(&name, 16).ok().map(NodeId)).collect();
        alive.insert(self.shared.node);
        Ok(alive)
    }
}

pub(super) async fn bounded<T>(command: impl Future<Output = Result<T, Error>>) -> Result<T, Away> {
    match timeout(ANSWER_TIMEOUT, command).await {
        Ok(result) => result.map_err(away),
        Err(_) => Err(Away("no answer in time".to_owned())),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn away(error: Error) -> Away {
    Away(error.to_string())
}

/// The nodes' clocks may differ; Redis has one.
async fn server_time_ms(client: &Client) -> Result<f64, Error> {
    let time = CustomCommand::new_static("TIME", None, false);
    let (seconds, micros): (f64, f64) = client.custom(time, Vec::<String>::new()).await?;
    Ok(seconds * 1000.0 + micros / 1000.0)
}

/// Keeps Redis to what the ledger says, and says that this node lives; at the
/// end, that it has gone.
pub(super) async fn keep(bus: Bus, mut stop: Stop) {
    let mut connections = bus.shared.line.connections();
    let mut beat_at = Instant::now();
    let mut known_alive = false;
    loop {
        let due = tokio::select! {
            () = sleep_until(beat_at) => true,
            _ = connections.next() => {
                bus.ledger().owe_all();
                true
            }
            () = bus.shared.presence_changed.notified(), if known_alive => false,
            () = stop.wait() => break,
        };
        if due {
            known_alive = beat(&bus).await;
            beat_at = Instant::now() + HEARTBEAT;
        }
        known_alive = known_alive && settle(&bus).await;
        if !known_alive {
            beat_at = Instant::now() + HEARTBEAT_RETRY;
        }
    }
    let (client, name) = (bus.shared.line.client(), bus.shared.node.to_string());
    if let Err(error) = bounded(client.zrem::<i64, _, _>(NODES_KEY, name.as_str())).await {
        tracing::debug!(%error, "can't say that this node has gone");
    }
}

/// Says that this node lives, and forgets those that don't. False if that could
/// not be said.
async fn beat(bus: &Bus) -> bool {
    let (client, name) = (bus.shared.line.client(), bus.shared.node.to_string());
    if !client.is_connected() {
        return false;
    }
    let beat = async {
        let now = server_time_ms(&client).await?;
        let life = (now + LEASE_MS, name.as_str());
        let added: i64 = client.zadd(NODES_KEY, None, None, false, false, life).await?;
        let _removed: i64 = client.zremrangebyscore(NODES_KEY, f64::NEG_INFINITY, now).await?;
        Ok(added > 0)
    };
    match bounded(beat).await {
        Ok(was_dead) => {
            if was_dead {
                // Others have removed this node's entries, or Redis is empty.
                bus.ledger().owe_all();
            }
            true
        }
        Err(error) => {
            tracing::debug!(%error, "can't say that this node lives");
            false
        }
    }
}

/// Writes what is owed. False if Redis doesn't take it; it stays owed.
async fn settle(bus: &Bus) -> bool {
    loop {
        let writes = bus.ledger().take(PIPELINE);
        if writes.is_empty() {
            return true;
        }
        let results = join_all(writes.iter().map(|write| store(bus, write))).await;
        let mut ledger = bus.ledger();
        let mut all = true;
        for (write, result) in writes.into_iter().zip(results) {
            if result.is_ok() {
                ledger.written(&write);
            } else {
                all = false;
                ledger.failed(write);
            }
        }
        if !all {
            return false;
        }
    }
}

async fn store(bus: &Bus, write: &Write) -> Result<(), Away> {
    let (room, session) = &write.key;
    let client = bus.shared.line.client();
    match &write.member {
        Some(member) => {
            let entry = (session.as_str(), format!("{} {member}", bus.shared.node));
            bounded(client.hset(members_key(*room), entry)).await
        }
        None => bounded(client.hdel(members_key(*room), session.as_str())).await,
    }
}

impl Bus {
    fn ledger(&self) -> std::sync::MutexGuard<'_, super::ledger::Ledger> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a session is in a room, for those who come later. Never waits;
    /// while Redis is away it is kept and told later.
    pub fn presence_enter(&self, room: RoomId, session: &crate::ids::SessionId, member: String) {
        self.ledger().enter((room, session.clone()), member);
        self.shared.presence_changed.notify_one();
    }

    pub fn presence_leave(&self, room: RoomId, session: &crate::ids::SessionId) {
        self.ledger().leave((room, session.clone()));
        self.shared.presence_changed.notify_one();
    }
}
