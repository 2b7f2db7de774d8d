//! Hearing: subscriptions that survive reconnects, and messages in.
//!
//! Sharded subscriptions are used because their confirmation is waited for (a
//! classic SUBSCRIBE resolves before Redis has it), and because they scale out
//! over a Redis cluster.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::{Message, Value};
use futures_util::future;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::BusEvent;
use super::backoff::Backoff;
use super::client::REFUSED_INTERVAL;
use super::command::{Command, Job, REVOKED, channel, room_of};
use super::line::Line;
use super::refusal::{Standing, is_refusal};
use crate::ids::RoomId;
use crate::metrics::bus as metrics;
use crate::tasks::Stop;

/// Subscriptions sent at once, so that thousands take a few round trips.
const PIPELINE: usize = 256;
/// The first pause before a refused subscription is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

pub(super) enum Wish {
    Hear { room: RoomId, confirm: oneshot::Sender<()> },
    Ignore { room: RoomId },
}

/// Subscriptions that Redis refused, to be tried again on the same connection.
struct Refused {
    backoff: Backoff,
    /// None while there are none.
    again_at: Option<Instant>,
}

impl Refused {
    fn note(&mut self, is_refused: bool) {
        if is_refused {
            self.again_at.get_or_insert_with(|| Instant::now() + self.backoff.pause());
        } else {
            self.again_at = None;
            self.backoff.reset();
        }
    }

    fn due(&self) -> impl Future<Output = ()> + use<> {
        let again_at = self.again_at;
        async move {
            match again_at {
                Some(at) => sleep_until(at).await,
                None => future::pending().await,
            }
        }
    }
}

pub(super) async fn run(
    line: Line,
    standing: Arc<ArcSwap<Standing>>,
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
    let mut refused = Refused { backoff: Backoff::new(FIRST_PAUSE, REFUSED_INTERVAL), again_at: None };
    loop {
        let again = refused.due();
        tokio::select! {
            message = messages.recv(), if !is_over => {
                let event = match message {
                    Ok(message) => read(message, &revoked),
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
                // A connection that comes anew after a refusal may come for ever.
                if refused.again_at.is_none() || !standing.load().refuses(Job::Events) {
                    refused.note(resubscribe(&client, &wanted).await.is_err());
                }
                revoked.notify_one();
                // Whatever was said since the old connection died is lost.
                if heard.send(BusEvent::Lost).await.is_err() {
                    return;
                }
            }
            () = again => {
                refused.again_at = None;
                // The trials find out when Redis takes this again.
                let known = standing.load_full();
                if known.refuses(Job::Events) || known.refuses(Job::Revocations) {
                    refused.again_at = Some(Instant::now() + FIRST_PAUSE);
                    continue;
                }
                let subscribed = resubscribe(&line.client(), &wanted).await.is_ok();
                refused.note(!subscribed);
                revoked.notify_one();
                // Nothing was heard meanwhile.
                if subscribed && heard.send(BusEvent::Lost).await.is_err() {
                    return;
                }
            }
            wish = wishes.recv() => {
                let Some(wish) = wish else { return };
                let known = standing.load_full();
                if fulfil(&line.client(), &known, &mut wanted, wish, &mut wishes).await.is_err() {
                    refused.note(true);
                }
            }
            () = stop.wait() => return,
        }
    }
}

fn read(message: Message, revoked: &Notify) -> Option<BusEvent> {
    if message.channel == REVOKED {
        revoked.notify_one();
        return None;
    }
    let room = room_of(&message.channel)?;
    metrics::received(1);
    let payload = match message.value {
        Value::Bytes(bytes) => bytes,
        Value::String(text) => text.into_inner(),
        _ => return None,
    };
    Some(BusEvent::Message { room, payload })
}

/// Redis refused a subscription.
struct SubscriptionRefused;

/// Takes the wishes that wait together; the last one of a room counts.
async fn fulfil(
    client: &Client,
    standing: &Standing,
    wanted: &mut HashSet<RoomId>,
    first: Wish,
    wishes: &mut mpsc::Receiver<Wish>,
) -> Result<(), SubscriptionRefused> {
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
    let drops = ignored
        .iter()
        .filter(|room| wanted.remove(room) && !standing.refuses_command(Command::EventsUnsubscribe))
        .map(|room| Command::EventsUnsubscribe.subscription(client, channel(*room)));
    for dropped in future::join_all(drops).await {
        if let Err(error) = dropped {
            tracing::debug!(%error, "can't unsubscribe now");
        }
    }
    // Also those that fail: a reconnect subscribes all that is wanted.
    wanted.extend(confirms.keys());
    if standing.refuses(Job::Events) {
        return Err(SubscriptionRefused);
    }
    if !client.is_connected() {
        return Ok(());
    }
    let subscribe = confirms.into_iter().map(|(room, confirms)| async move {
        let subscribed = Command::EventsSubscribe.subscription(client, channel(room)).await;
        (room, confirms, subscribed)
    });
    let mut is_refused = false;
    for (room, confirms, subscribed) in future::join_all(subscribe).await {
        match subscribed {
            // A joiner that gave up waiting needs no word.
            Ok(()) => confirms.into_iter().for_each(|confirm| if confirm.send(()).is_err() {}),
            Err(error) => {
                is_refused |= is_refusal(&error);
                tracing::debug!(%room, %error, "can't subscribe now");
            }
        }
    }
    if is_refused { Err(SubscriptionRefused) } else { Ok(()) }
}

/// Each is confirmed on its own (the client can't tell confirmations of one
/// command apart), many are on their way at once.
async fn resubscribe(client: &Client, wanted: &HashSet<RoomId>) -> Result<(), SubscriptionRefused> {
    let mut is_refused = false;
    if let Err(error) = Command::RevokedSubscribe.subscription(client, REVOKED.to_owned()).await {
        // Nodes look by themselves every few seconds.
        tracing::debug!(%error, "can't hear of revoked tokens");
        is_refused = is_refusal(&error);
    }
    let rooms: Vec<RoomId> = wanted.iter().copied().collect();
    for part in rooms.chunks(PIPELINE) {
        let subscribe = |room: &RoomId| Command::EventsSubscribe.subscription(client, channel(*room));
        let subscribed = future::join_all(part.iter().map(subscribe)).await;
        let Some(error) = subscribed.into_iter().find_map(Result::err) else { continue };
        if is_refusal(&error) {
            // A new connection would be refused as well.
            tracing::debug!(%error, "can't subscribe again to all rooms");
            return Err(SubscriptionRefused);
        }
        reconnect(client, &error).await;
        return Ok(());
    }
    if is_refused { Err(SubscriptionRefused) } else { Ok(()) }
}

/// Half subscribed is the one state that must not last. If the connection has died
/// by itself, this one fails, and the next is on its way.
async fn reconnect(client: &Client, error: &Error) {
    tracing::warn!(%error, "can't subscribe again to all rooms; reconnecting");
    if let Err(error) = client.force_reconnection().await {
        tracing::debug!(%error, "already reconnecting");
    }
}
