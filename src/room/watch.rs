//! What a node does for all its rooms together: hears the bus, and compares
//! their heads with the log so that nothing stays unnoticed.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::hub::Hub;
use crate::bus::BusEvent;
use crate::ids::RoomId;
use crate::placement::ShardIndex;
use crate::planted::{self, Bug};

/// How often it is looked who else is alive.
const ALIVE_CHECK: Duration = Duration::from_secs(2);

/// Starts the tasks.
pub fn start(hub: &Hub, incoming: mpsc::Receiver<BusEvent>) {
    let tasks = hub.context().tasks.clone();
    tasks.spawn("bus-hear", hear(hub.clone(), incoming));
    tasks.spawn("head-check", check_heads(hub.clone()));
    tasks.spawn("alive-check", check_alive(hub.clone()));
}

async fn hear(hub: Hub, mut incoming: mpsc::Receiver<BusEvent>) {
    let mut stop = hub.context().tasks.stop_signal();
    loop {
        tokio::select! {
            event = incoming.recv() => match event {
                Some(event) => hub.hear(event),
                None => return,
            },
            () = stop.wait() => return,
        }
    }
}

/// A lost last event, in a room that has gone quiet, is found here.
async fn check_heads(hub: Hub) {
    let mut stop = hub.context().tasks.stop_signal();
    let mut ticks = interval(hub.context().sessions.head_check);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = hub.context().heads_due.notified() => {}
            () = stop.wait() => return,
        }
        let gone = check_rooms(&hub, hub.live()).await;
        if !gone.is_empty() {
            // Their slots have moved, and nobody here wrote to them since.
            hub.context().history.find_owners().await;
            check_rooms(&hub, gone.into_iter().map(|room| (room, true))).await;
        }
    }
}

/// Answers with rooms that are not where they are thought to be.
async fn check_rooms(hub: &Hub, rooms: impl IntoIterator<Item = (RoomId, bool)>) -> Vec<RoomId> {
    let mut by_shard: HashMap<_, Vec<_>> = HashMap::new();
    for room in rooms {
        // A room whose slot nobody owns now is asked for at the next tick.
        match hub.context().history.shard_of(room.0) {
            Some(shard) => by_shard.entry(shard).or_default().push(room),
            None => hub.doubt_heads(&[room]),
        }
    }
    let checks = by_shard.into_iter().map(|(shard, rooms)| check_shard(hub, shard, rooms));
    futures_util::future::join_all(checks).await.concat()
}

async fn check_shard(hub: &Hub, shard: ShardIndex, rooms: Vec<(RoomId, bool)>) -> Vec<RoomId> {
    if planted::has(Bug::HeadCheckOff) {
        return Vec::new();
    }
    match hub.context().history.heads(shard, &rooms, hub.context().states.max_stale).await {
        Ok((heads, gone)) => {
            heads.iter().for_each(|head| hub.head(head));
            gone
        }
        // Asked again at the next tick; joins and submits say it to people.
        Err(error) => {
            tracing::debug!(%error, "can't compare rooms with their logs");
            hub.doubt_heads(&rooms);
            Vec::new()
        }
    }
}

/// The members of a node that has died leave its rooms; while the bus is away,
/// those of all other nodes.
async fn check_alive(hub: Hub) {
    let mut stop = hub.context().tasks.stop_signal();
    let mut ticks = interval(ALIVE_CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = BTreeSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.wait() => return,
        }
        match hub.context().bus.alive().await {
            Ok(alive) => {
                let alive: BTreeSet<_> = alive.into_iter().collect();
                if known.difference(&alive).next().is_some() {
                    hub.recall_members();
                }
                known = alive;
            }
            Err(_) if !hub.context().bus.shares_presence() => hub.forget_remote(),
            Err(error) => tracing::debug!(%error, "can't look which nodes live"),
        }
    }
}
