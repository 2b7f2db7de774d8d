//! Hearing: subscriptions that survive reconnects, and messages in.
//!
//! Sharded subscriptions are used because their confirmation is waited for (a
//! classic SUBSCRIBE resolves before Redis has it), and because they scale out
//! over a Redis cluster.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::{Message, Value};
use futures_util::future;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, oneshot};

use super::BusEvent;
use super::line::Line;
use super::revoked::REVOKED;
use crate::ids::RoomId;
use crate::metrics::bus as metrics;
use crate::tasks::Stop;

/// Subscriptions sent at once, so that thousands take a few round trips.
const PIPELINE: usize = 256;

pub(super) enum Wish {
    Hear { room: RoomId, confirm: oneshot::Sender<()> },
    Ignore { room: RoomId },
}

pub(super) fn channel(room: RoomId) -> String {
    format!("roomgate:room:{room}")
}

fn room_of(channel: &str) -> Option<RoomId> {
    RoomId::new(channel.strip_prefix("roomgate:room:")?.parse().ok()?).ok()
}

pub(super) async fn run(
    line: Line,
    mut wishes: mpsc::Receiver<Wish>,
    heard: mpsc::Sender<BusEvent>,
    revoked: Arc<Notify>,
    mut stop: Stop,
) {
    let mut messages = line.client().message_rx();
    let mut connections = line.connections();
    let (mut wanted, mut count) = (HashSet::new(), 0);
    // The client was replaced; what the new one brings counts from its connection.
    let mut is_over = false;
    loop {
        tokio::select! {
            message = messages.recv(), if !is_over => {
                let event = match message {
                    Ok(message) if message.channel == REVOKED => {
                        revoked.notify_one();
                        None
                    }
                    Ok(message) => read(message),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "messages of other nodes came faster than they were handled");
                        Some(BusEvent::Lost)
                    }
                    Err(RecvError::Closed) => {
                        is_over = true;
                        None
                    }
                };
                if let Some(event) = event && heard.send(event).await.is_err() {
                    return;
                }
            }
            client = connections.next() => {
                count += 1;
                if count > 1 {
                    metrics::reconnected();
                }
                (messages, is_over) = (client.message_rx(), false);
                resubscribe(&client, &wanted).await;
                revoked.notify_one();
                // Whatever was said since the old connection died is lost.
                if heard.send(BusEvent::Lost).await.is_err() {
                    return;
                }
            }
            wish = wishes.recv() => {
                let Some(wish) = wish else { return };
                fulfil(&line.client(), &mut wanted, wish, &mut wishes).await;
            }
            () = stop.wait() => return,
        }
    }
}

fn read(message: Message) -> Option<BusEvent> {
    let room = room_of(&message.channel)?;
    metrics::received(1);
    let payload = match message.value {
        Value::Bytes(bytes) => bytes,
        Value::String(text) => text.into_inner(),
        _ => return None,
    };
    Some(BusEvent::Message { room, payload })
}

/// Takes the wishes that wait together; the last one of a room counts.
async fn fulfil(
    client: &Client,
    wanted: &mut HashSet<RoomId>,
    first: Wish,
    wishes: &mut mpsc::Receiver<Wish>,
) {
    let mut confirms: HashMap<RoomId, Vec<oneshot::Sender<()>>> = HashMap::new();
    let mut ignored = HashSet::new();
    let mut next = Some(first);
    let mut taken = 0;
    while let Some(wish) = next {
        match wish {
            Wish::Hear { room, confirm } => {
                ignored.remove(&room);
                confirms.entry(room).or_default().push(confirm);
            }
            Wish::Ignore { room } => {
                confirms.remove(&room);
                ignored.insert(room);
            }
        }
        taken += 1;
        next = if taken < PIPELINE { wishes.try_recv().ok() } else { None };
    }
    let drops =
        ignored.iter().filter(|room| wanted.remove(room)).map(|room| client.sunsubscribe(channel(*room)));
    for dropped in future::join_all(drops).await {
        if let Err(error) = dropped {
            tracing::debug!(%error, "can't unsubscribe now");
        }
    }
    // Also those that fail: a reconnect subscribes all that is wanted.
    wanted.extend(confirms.keys());
    if !client.is_connected() {
        return;
    }
    let subscribe = confirms.into_iter().map(|(room, confirms)| async move {
        let subscribed = client.ssubscribe(channel(room)).await;
        (room, confirms, subscribed)
    });
    for (room, confirms, subscribed) in future::join_all(subscribe).await {
        match subscribed {
            // A joiner that gave up waiting needs no word.
            Ok(()) => confirms.into_iter().for_each(|confirm| if confirm.send(()).is_err() {}),
            Err(error) => tracing::debug!(%room, %error, "can't subscribe now"),
        }
    }
}

/// Each is confirmed on its own (the client can't tell confirmations of one
/// command apart), many are on their way at once.
async fn resubscribe(client: &Client, wanted: &HashSet<RoomId>) {
    if let Err(error) = client.ssubscribe(REVOKED).await {
        // Nodes look by themselves every few seconds.
        tracing::debug!(%error, "can't hear of revoked tokens");
    }
    let rooms: Vec<RoomId> = wanted.iter().copied().collect();
    for part in rooms.chunks(PIPELINE) {
        let subscribed = future::join_all(part.iter().map(|room| client.ssubscribe(channel(*room)))).await;
        let Some(error) = subscribed.into_iter().find_map(Result::err) else { continue };
        // Half subscribed is the one state that must not last. If the connection
        // has died by itself, this one fails, and the next is on its way.
        tracing::warn!(%error, "can't subscribe again to all rooms; reconnecting");
        if let Err(error) = client.force_reconnection().await {
            tracing::debug!(%error, "already reconnecting");
        }
        return;
    }
}
