//! Who is in a room on which node: a hash a room for those who come later, and a
//! message for those who listen now.
//!
//! An entry is stored first and told then, so that whoever listens too late to
//! hear of it reads it; what could be stored but not told is owed again. Entries
//! of nodes that have died are nobody's, and are removed by whoever reads them. A
//! node says that it lives before it stores any entry, and readers ask in the
//! opposite order, so that a node that has just started is not taken for dead.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use bytes::Bytes;
use fred::interfaces::{HashesInterface, PubsubInterface};
use futures_util::future::{join, join_all};
use tokio::time::{Instant, sleep_until};

use super::client::bounded;
use super::ledger::{Ledger, Write};
use super::life::{self, HEARTBEAT, HEARTBEAT_RETRY};
use super::listen::channel;
use super::{Away, Bus, NodeId};
use crate::ids::{RoomId, SessionId};
use crate::metrics::bus as metrics;
use crate::tasks::Stop;

/// Entries written at once.
const PIPELINE: usize = 256;

/// Makes the message that tells of entries of one room: of a session with what
/// is stored for it, or without when it has left.
pub type Teller = fn(NodeId, &[(&SessionId, Option<&str>)]) -> Bytes;

fn members_key(room: RoomId) -> String {
    format!("roomgate:members:{room}")
}

/// An entry: the node, a space, the member.
pub(super) fn read_entry(entry: &str) -> Option<(NodeId, &str)> {
    let (node, member) = entry.split_once(' ')?;
    Some((NodeId::parse(node)?, member))
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

    /// Notes that a session is in a room, and tells the other nodes. Never waits;
    /// while Redis is away it is kept and told later. What is the same for a
    /// session as before is told again.
    pub fn presence_enter(&self, room: RoomId, session: &SessionId, member: String) {
        self.ledger().enter((room, session.clone()), member);
        self.shared.presence_changed.notify_one();
    }

    pub fn presence_leave(&self, room: RoomId, session: &SessionId) {
        self.ledger().leave((room, session.clone()));
        self.shared.presence_changed.notify_one();
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps Redis to what the ledger says, and says that this node lives; at the
/// end, that it has gone.
pub(super) async fn keep(bus: Bus, teller: Teller, mut stop: Stop) {
    let mut connections = bus.shared.line.connections();
    let mut beat_at = Instant::now();
    let (mut known_alive, mut was_new) = (false, false);
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
            let said = life::beat(&bus).await;
            known_alive = said.is_ok();
            match said {
                Ok(is_new) => {
                    // Others have removed this node's entries, or Redis is empty.
                    // The next time again: somebody may be removing them just now.
                    if is_new || was_new {
                        bus.ledger().owe_all();
                    }
                    was_new = is_new;
                }
                Err(error) => tracing::debug!(%error, "can't say that this node lives"),
            }
            beat_at = Instant::now() + HEARTBEAT;
        }
        known_alive = known_alive && settle(&bus, teller).await;
        if !known_alive {
            beat_at = Instant::now() + HEARTBEAT_RETRY;
        }
    }
    if known_alive {
        settle(&bus, teller).await;
    }
    life::end(&bus).await;
}

/// Writes and tells what is owed. False if Redis doesn't take it; it stays owed.
async fn settle(bus: &Bus, teller: Teller) -> bool {
    loop {
        let writes = bus.ledger().take(PIPELINE);
        if writes.is_empty() {
            return true;
        }
        let stored = join_all(writes.iter().map(|write| store(bus, write))).await;
        let mut failed = Vec::new();
        let mut by_room: BTreeMap<RoomId, Vec<Write>> = BTreeMap::new();
        for (write, stored) in writes.into_iter().zip(stored) {
            match stored {
                Ok(()) => by_room.entry(write.key.0).or_default().push(write),
                Err(_) => failed.push(write),
            }
        }
        let told = join_all(by_room.iter().map(|(room, writes)| tell(bus, teller, *room, writes))).await;
        let mut ledger = bus.ledger();
        for (writes, told) in by_room.into_values().zip(told) {
            match told {
                Ok(()) => writes.iter().for_each(|write| ledger.written(write)),
                Err(_) => failed.extend(writes),
            }
        }
        let all = failed.is_empty();
        failed.into_iter().for_each(|write| ledger.failed(write));
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

async fn tell(bus: &Bus, teller: Teller, room: RoomId, writes: &[Write]) -> Result<(), Away> {
    let changes: Vec<_> = writes.iter().map(|write| (&write.key.1, write.member.as_deref())).collect();
    let payload = teller(bus.shared.node, &changes);
    bounded(bus.shared.line.client().spublish::<(), _, _>(channel(room), payload)).await?;
    metrics::published(1);
    Ok(())
}
