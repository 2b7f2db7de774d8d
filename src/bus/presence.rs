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
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::Value;
use futures_util::future::{join, join_all};
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::client::{REFUSED_INTERVAL, bounded};
use super::command::{Command, Job, channel, members_key};
use super::ledger::{Ledger, Write};
use super::life::{self, HEARTBEAT, HEARTBEAT_RETRY, KEPT_S};
use super::seal::Entry;
use super::{Away, Bus, NodeId};
use crate::ids::{RoomId, SessionId};
use crate::metrics::bus::{self as metrics, Forged};
use crate::tasks::Stop;

/// Entries written at once.
const PIPELINE: usize = 256;
/// Parts of rooms, of up to [`PIPELINE`] entries, that are stored again at once.
const PARTS: usize = 64;

/// Makes the message that tells of entries of one room: of a session with what
/// is stored for it, or without when it has left.
pub type Teller = fn(NodeId, &[(&SessionId, Option<&str>)]) -> Bytes;

impl Bus {
    /// Who is in `room` on nodes that live: the node and what was stored.
    pub async fn members(&self, room: RoomId) -> Result<Vec<(NodeId, String)>, Away> {
        let client = self.shared.line.client();
        // In this order, see above; sent together.
        let entries = Command::MembersList.send(&client, vec![members_key(room).into()]);
        let (entries, alive) = Box::pin(join(bounded(entries), self.alive())).await;
        let (entries, alive): (Vec<(String, String)>, _) = (entries?, alive?);
        let (mut members, mut stale) = (Vec::new(), Vec::new());
        let key = members_key(room);
        for (session, text) in entries {
            match Entry::read(&text) {
                Some(entry) if alive.contains(&entry.node) => {
                    match self.shared.seals.check_entry(&key, &session, &entry) {
                        Ok(()) => members.push((entry.node, entry.member.to_owned())),
                        // It stays: a node whose keys are newer may have stored it.
                        Err(why) => self.complain(&key, why),
                    }
                }
                _ => stale.push(session),
            }
        }
        remove(&client, key, stale).await?;
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

    fn complain(&self, key: &str, why: Forged) {
        self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner).note(key, why);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes sessions out of a room's hash.
pub(super) async fn remove(client: &Client, key: String, sessions: Vec<String>) -> Result<(), Away> {
    if sessions.is_empty() {
        return Ok(());
    }
    let args = std::iter::once(key).chain(sessions).map(Value::from).collect();
    bounded(Command::MemberLeave.send(client, args)).await
}

/// Keeps Redis to what the ledger says, and says that this node lives; at the
/// end, that it has gone.
pub(super) async fn keep(bus: Bus, teller: Teller, mut stop: Stop) {
    let mut connections = bus.shared.line.connections();
    let mut beat_at = Instant::now();
    let (mut known_alive, mut was_new) = (false, false);
    let mut backoff = Backoff::new(HEARTBEAT_RETRY, REFUSED_INTERVAL);
    loop {
        let due = tokio::select! {
            () = sleep_until(beat_at) => true,
            _ = connections.next() => {
                bus.ledger().owe_all();
                // A connection that comes anew after a refusal may come for ever.
                backoff.is_fresh()
            }
            () = bus.shared.presence_changed.notified(), if known_alive => false,
            () = stop.wait() => break,
        };
        // The trials find out when Redis takes this again.
        if due && bus.shared.standing.load().refuses(Job::Presence) {
            known_alive = false;
            beat_at = Instant::now() + HEARTBEAT_RETRY;
            continue;
        }
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
            known_alive = known_alive && store_again(&bus, teller).await;
            beat_at = Instant::now() + HEARTBEAT;
        }
        let has_asked = due || known_alive;
        known_alive = known_alive && settle(&bus, teller).await;
        if known_alive {
            backoff.reset();
        } else if has_asked {
            let is_connected = bus.shared.line.client().is_connected();
            beat_at = Instant::now() + if is_connected { backoff.pause() } else { HEARTBEAT_RETRY };
        }
    }
    if known_alive {
        settle(&bus, teller).await;
    }
    life::end(&bus).await;
}

/// Stores all stored entries once more. An entry that Redis had lost is owed, so
/// that the other nodes are told of it again. Many rooms take longer than a
/// heartbeat: changes and heartbeats go in between. False if Redis refuses.
async fn store_again(bus: &Bus, teller: Teller) -> bool {
    let stored = bus.ledger().stored(PIPELINE);
    let mut beaten = Instant::now();
    for parts in stored.chunks(PARTS) {
        if beaten.elapsed() > HEARTBEAT {
            if life::beat(bus).await.is_err() || !settle(bus, teller).await {
                return false;
            }
            beaten = Instant::now();
        }
        let again = join_all(parts.iter().map(|(room, writes)| store(bus, *room, writes))).await;
        for ((_, writes), added) in parts.iter().zip(again) {
            match added {
                Ok(0) => {}
                Ok(_) => bus.ledger().owe(writes),
                Err(error) => {
                    tracing::debug!(%error, "can't store again who is here");
                    return false;
                }
            }
        }
    }
    true
}

/// Writes and tells what is owed. False if Redis doesn't take it; it stays owed.
async fn settle(bus: &Bus, teller: Teller) -> bool {
    loop {
        let mut by_room: BTreeMap<RoomId, Vec<Write>> = BTreeMap::new();
        for write in bus.ledger().take(PIPELINE) {
            by_room.entry(write.key.0).or_default().push(write);
        }
        if by_room.is_empty() {
            return true;
        }
        let done = join_all(by_room.iter().map(|(room, writes)| async move {
            store(bus, *room, writes).await?;
            tell(bus, teller, *room, writes).await
        }))
        .await;
        let mut ledger = bus.ledger();
        let mut all = true;
        for (writes, done) in by_room.into_values().zip(done) {
            match done {
                Ok(()) => writes.iter().for_each(|write| ledger.written(write)),
                Err(_) => {
                    all = false;
                    writes.into_iter().for_each(|write| ledger.failed(write));
                }
            }
        }
        if !all {
            return false;
        }
    }
}

/// Returns the number of sessions that were not there before. One write: a hash
/// without an end must not be left behind by a node that is killed in between.
async fn store(bus: &Bus, room: RoomId, writes: &[Write]) -> Result<i64, Away> {
    let name = members_key(room);
    let key = Value::from(name.as_str());
    let (mut entered, mut left) = (vec![key.clone()], vec![key.clone()]);
    for write in writes {
        let session = write.key.1.as_str();
        match &write.member {
            Some(member) => {
                let entry = bus.shared.seals.close_entry(&name, session, member);
                entered.extend([session.into(), entry.into()]);
            }
            None => left.push(session.into()),
        }
    }
    let has_entered = entered.len() > 1;
    let pipeline = bus.shared.line.client().pipeline();
    let answers = bounded(async {
        if has_entered {
            Command::MemberEnter.send::<()>(&pipeline, entered).await?;
        }
        if left.len() > 1 {
            Command::MemberLeave.send::<()>(&pipeline, left).await?;
        }
        Command::MembersKept.send::<()>(&pipeline, vec![key, KEPT_S.into()]).await?;
        pipeline.all::<Vec<i64>>().await
    });
    Ok(answers.await?.first().copied().filter(|_| has_entered).unwrap_or(0))
}

async fn tell(bus: &Bus, teller: Teller, room: RoomId, writes: &[Write]) -> Result<(), Away> {
    let changes: Vec<_> = writes.iter().map(|write| (&write.key.1, write.member.as_deref())).collect();
    let payload = teller(bus.shared.node, &changes);
    let client = bus.shared.line.client();
    let channel = channel(room);
    let sealed = bus.shared.seals.close(&channel, &payload);
    let args = vec![channel.into(), sealed.into()];
    bounded(Command::EventSend.send::<()>(&client, args)).await?;
    metrics::published(1);
    Ok(())
}
