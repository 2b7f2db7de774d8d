//! Redis: what one node tells the others at once. The only user of `fred`.
//!
//! Carries opaque payloads, one channel a room, and who is present where. At
//! most once: whoever listens must find what it missed elsewhere, and is told
//! ([`BusEvent::Lost`]) when something may have been missed. Redis may be absent
//! at start, for hours, or for ever; nothing here then blocks or fails.

mod backoff;
mod client;
mod command;
mod ledger;
mod life;
mod line;
mod listen;
#[cfg(test)]
mod loss_tests;
mod presence;
mod refusal;
#[cfg(test)]
mod refusal_tests;
mod revoked;
mod seal;
mod speak;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use self::command::{Job, Side};
use self::seal::Seals;
use crate::auth::Sealer;
use crate::config;
use crate::ids::RoomId;
use crate::metrics::bus as metrics;
use crate::tasks::Tasks;

pub use client::probe;
pub use life::NodeId;
pub use presence::Teller;

/// Messages that may wait to be published. More are dropped and counted.
const SPEAK_QUEUE: usize = 8192;
/// Messages that may wait to be handled. When it is full, they wait in the client;
/// when that is full too, it drops the oldest and tells, which counts as lost.
const HEARD_QUEUE: usize = 4096;
const LISTEN_QUEUE: usize = 1024;
/// How long a joiner waits for a subscription to be confirmed before it goes on
/// without: the head check stands in for what it then misses.
const SUBSCRIBE_WAIT: Duration = Duration::from_millis(500);

/// A cheap handle.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

struct Shared {
    speak: mpsc::Sender<speak::Saying>,
    listen: mpsc::Sender<listen::Wish>,
    line: line::Line,
    standing: Arc<ArcSwap<refusal::Standing>>,
    /// As an ACL names the gateway's user.
    user: String,
    node: NodeId,
    seals: Seals,
    /// Of entries; the listener has its own of messages.
    complaints: Mutex<seal::Complaints>,
    ledger: Mutex<ledger::Ledger>,
    presence_changed: Notify,
    /// Tokens may have been revoked.
    revoked: Arc<Notify>,
}

/// What the bus brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    Message {
        room: RoomId,
        payload: Bytes,
    },
    /// Messages of any room may have been missed.
    Lost,
}

/// Redis did not answer in time, or said no.
#[derive(Debug, thiserror::Error)]
#[error("Redis is away: {0}")]
pub struct Away(String);

impl Bus {
    /// Starts connecting and returns at once. Events come out of the receiver.
    /// `sealer` is the same for all nodes; `teller` makes the presence messages.
    pub fn start(
        config: &config::Redis,
        node: NodeId,
        sealer: Sealer,
        teller: Teller,
        tasks: &Tasks,
    ) -> Result<(Self, mpsc::Receiver<BusEvent>), Away> {
        let (speak, sayings) = mpsc::channel(SPEAK_QUEUE);
        let (listen, wishes) = mpsc::channel(LISTEN_QUEUE);
        let (heard, incoming) = mpsc::channel(HEARD_QUEUE);
        let (speaker, speaking) = line::Guard::start(client::build(config)?, Side::Speaking);
        let (listener, listening) = line::Guard::start(client::build(config)?, Side::Listening);
        let revoked = Arc::new(Notify::new());
        let standing = Arc::new(ArcSwap::from_pointee(refusal::Standing::Away));
        let seals = Seals::new(sealer, node, config.unsigned);
        let shared = Shared {
            speak,
            listen,
            line: speaking.clone(),
            standing: standing.clone(),
            user: client::user(config).to_owned(),
            node,
            seals: seals.clone(),
            complaints: Mutex::default(),
            ledger: Mutex::default(),
            presence_changed: Notify::new(),
            revoked: revoked.clone(),
        };
        let bus = Self { shared: Arc::new(shared) };
        client::show(&refusal::Standing::Away);
        tasks.spawn(
            "bus-listen",
            listen::Listener::new(listening.clone(), standing, heard, revoked, seals.clone())
                .run(wishes, tasks.stop_signal()),
        );
        tasks.spawn("bus-presence", presence::keep(bus.clone(), teller, tasks.stop_signal()));
        tasks.spawn("bus-speak", speak::run(speaking.clone(), seals, sayings, tasks.stop_signal()));
        let (guards, lines) = ([speaker, listener], [speaking, listening]);
        tasks.spawn("bus-watch", client::watch(bus.clone(), guards, lines, tasks.stop_signal()));
        Ok((bus, incoming))
    }

    /// Whether Redis takes every command that the gateway sends.
    pub fn is_up(&self) -> bool {
        **self.shared.standing.load() == refusal::Standing::Works
    }

    /// A line for each cause that keeps the bus from working, with its cure.
    pub fn problems(&self) -> Vec<String> {
        self.shared.standing.load().problems(&self.shared.user)
    }

    /// Whether the nodes can share who is present. Otherwise each node
    /// shows only its own people.
    pub fn shares_presence(&self) -> bool {
        self.works(Job::Presence)
    }

    fn works(&self, job: Job) -> bool {
        self.shared.standing.load().works(job)
    }

    /// Resolves when Redis confirmed that messages of `room` will come, or with
    /// false after a short wait without it.
    pub async fn subscribe(&self, room: RoomId) -> bool {
        let (confirm, confirmed) = oneshot::channel();
        let wish = listen::Wish::Hear { room, confirm };
        let heard = async {
            if self.shared.listen.send(wish).await.is_ok() {
                // The sender is dropped unanswered while Redis is away.
                return confirmed.await.is_ok();
            }
            false
        };
        let is_confirmed = matches!(timeout(SUBSCRIBE_WAIT, heard).await, Ok(true));
        if !is_confirmed {
            tracing::debug!(%room, "a room goes on without a confirmed subscription");
        }
        is_confirmed
    }

    /// Messages of `room` are no longer wanted. Takes effect after every earlier
    /// and before every later [`Bus::subscribe`].
    pub fn unsubscribe(&self, room: RoomId) {
        if self.shared.listen.try_send(listen::Wish::Ignore { room }).is_err() {
            // Messages of a room that nobody is in cost a look-up each, no more.
            tracing::debug!(%room, "a room stays subscribed: too many wishes wait");
        }
    }

    /// Never waits. While Redis is away or refuses it, or too much waits, it is
    /// dropped and counted.
    pub fn publish(&self, room: RoomId, payload: Bytes) {
        if !self.works(Job::Events) || self.shared.speak.try_send(speak::Saying { room, payload }).is_err() {
            metrics::dropped(1);
        }
    }
}
