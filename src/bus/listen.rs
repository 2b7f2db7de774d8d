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
use super::seal::{Complaints, Replays, Seals};
use crate::ids::RoomId;
use crate::metrics::bus::{self as metrics, Forged};
use crate::tasks::Stop;

/// Subscriptions sent at once, so that thousands take a few round trips.
const PIPELINE: usize = 256;
/// The first pause before a refused subscription is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// From a refused message until the rooms read the log and the members again. All
/// messages refused meanwhile cost one such reading.
const LOST_PAUSE: Duration = Duration::from_secs(2);

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
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => future::pending().await,
    }
}

/// The task that hears.
pub(super) struct Listener {
    line: Line,
    standing: Arc<ArcSwap<Standing>>,
    heard: mpsc::Sender<BusEvent>,
    revoked: Arc<Notify>,
    seals: Seals,
    replays: Replays,
    complaints: Complaints,
    /// When the rooms read the log and the members again because of refused messages.
    lost_at: Option<Instant>,
}

impl Listener {
    pub fn new(
        line: Line,
        standing: Arc<ArcSwap<Standing>>,
        heard: mpsc::Sender<BusEvent>,
        revoked: Arc<Notify>,
        seals: Seals,
    ) -> Self {
        let (replays, complaints) = (Replays::default(), Complaints::default());
        Self { line, standing, heard, revoked, seals, replays, complaints, lost_at: None }
    }

    pub async fn run(mut self, mut wishes: mpsc::Receiver<Wish>, mut stop: Stop) {
        let mut messages = self.line.client().message_rx();
        let mut connections = self.line.connections();
        let (mut wanted, mut count) = (HashSet::new(), 0);
        // The client was replaced; messages of the new one count from its connection.
        let mut is_over = false;
        let mut refused = Refused { backoff: Backoff::new(FIRST_PAUSE, REFUSED_INTERVAL), again_at: None };
        loop {
            let again = due(refused.again_at);
            let lost = due(self.lost_at);
            tokio::select! {
                message = messages.recv(), if !is_over => {
                    let event = match message {
                        Ok(message) => self.read(message),
                        Err(RecvError::Lagged(missed)) => {
                            tracing::warn!(missed, "messages of other nodes came faster than they were handled");
                            Some(BusEvent::Lost)
                        }
                        Err(RecvError::Closed) => {
                            is_over = true;
                            None
                        }
                    };
                    if let Some(event) = event && self.heard.send(event).await.is_err() {
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
                    if refused.again_at.is_none() || !self.standing.load().refuses(Job::Events) {
                        refused.note(resubscribe(&client, &wanted).await.is_err());
                    }
                    self.revoked.notify_one();
                    // Messages since the end of the old connection are lost.
                    if self.heard.send(BusEvent::Lost).await.is_err() {
                        return;
                    }
                }
                () = again => {
                    if self.subscribe_again(&mut refused, &wanted).await.is_err() {
                        return;
                    }
                }
                () = lost => {
                    self.lost_at = None;
                    if self.heard.send(BusEvent::Lost).await.is_err() {
                        return;
                    }
                }
                wish = wishes.recv() => {
                    let Some(wish) = wish else { return };
                    let known = self.standing.load_full();
                    if fulfil(&self.line.client(), &known, &mut wanted, wish, &mut wishes).await.is_err() {
                        refused.note(true);
                    }
                }
                () = stop.wait() => return,
            }
        }
    }

    /// An error: nobody listens any more.
    async fn subscribe_again(&self, refused: &mut Refused, wanted: &HashSet<RoomId>) -> Result<(), ()> {
        refused.again_at = None;
        // The trials find out when Redis takes this again.
        let known = self.standing.load_full();
        if known.refuses(Job::Events) || known.refuses(Job::Revocations) {
            refused.again_at = Some(Instant::now() + FIRST_PAUSE);
            return Ok(());
        }
        let subscribed = resubscribe(&self.line.client(), wanted).await.is_ok();
        refused.note(!subscribed);
        self.revoked.notify_one();
        // Nothing was heard meanwhile.
        if subscribed { self.heard.send(BusEvent::Lost).await.map_err(drop) } else { Ok(()) }
    }

    fn read(&mut self, message: Message) -> Option<BusEvent> {
        let room = room_of(&message.channel);
        if room.is_none() && message.channel != REVOKED {
            return None;
        }
        let payload = match message.value {
            Value::Bytes(bytes) => bytes,
            Value::String(text) => text.into_inner(),
            _ => return None,
        };
        if room.is_some() {
            metrics::received(1);
        }
        match self.seals.open(&message.channel, payload, &mut self.replays) {
            Ok(payload) => match room {
                Some(room) => Some(BusEvent::Message { room, payload }),
                None => {
                    self.revoked.notify_one();
                    None
                }
            },
            Err(why) => {
                self.complaints.note(&message.channel, why);
                // It may be of a node whose keys are newer, or have waited for long.
                if matches!(why, Forged::WrongSeal | Forged::Stale) {
                    self.lost_at.get_or_insert_with(|| Instant::now() + LOST_PAUSE);
                }
                None
            }
        }
    }
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
