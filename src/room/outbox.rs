//! What waits for one client's socket: bounded, in order, one per session.
//!
//! Answers are always taken, because the reader bounds how many requests are in
//! flight. Events are taken while there is room; a feeder that finds none stops
//! feeding from memory and continues from the log once the socket has drained.
//! Signals never queue: the last value of each sender waits, no more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::ids::{RoomId, SessionId};
use crate::metrics::gateway;
use crate::protocol::{CloseCode, Json};

/// How far a feeder that reads the log is ahead of the socket: when thousands
/// come back at once, each of them waits for its socket with so much.
const AHEAD_BYTES: usize = 64 * 1024;

/// A cheap handle; all clones are the same outbox.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    limit_bytes: usize,
    /// The session is there for one room.
    is_for_one_room: bool,
    /// Something to write, for the one writer.
    ready: Notify,
    /// The queue became empty or closed, for feeders.
    drained: Notify,
    /// The session is to end at once.
    expelled: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Json>,
    bytes: usize,
    signals: BTreeMap<(RoomId, SessionId), Json>,
    close: Option<CloseCode>,
    expelled: bool,
    closed: bool,
}

/// The outbox has no room for more now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The session is ending; nobody will write any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// What the writer takes at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order; may be empty when `close` is set.
    pub messages: Vec<Json>,
    /// Write the messages, say goodbye if the code asks for it, and close.
    pub close: Option<CloseCode>,
}

impl Outbox {
    pub fn new(limit_bytes: usize) -> Self {
        Self::made(limit_bytes, false)
    }

    /// Of a session that ends with its room.
    pub fn for_one_room(limit_bytes: usize) -> Self {
        Self::made(limit_bytes, true)
    }

    fn made(limit_bytes: usize, is_for_one_room: bool) -> Self {
        let shared = Shared {
            state: Mutex::default(),
            limit_bytes,
            is_for_one_room,
            ready: Notify::new(),
            drained: Notify::new(),
            expelled: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Queues the answer to a request of this client.
    pub fn answer(&self, message: Json) {
        let mut state = self.state();
        if state.accepts() {
            state.push(message);
            drop(state);
            self.shared.ready.notify_one();
        }
    }

    /// Queues why the session is in a room no more.
    pub fn put_out(&self, why: Json) {
        self.answer(why);
        if self.shared.is_for_one_room {
            self.close(CloseCode::Kicked);
        }
    }

    /// Queues events if there is room. An empty outbox takes any size.
    pub fn try_feed(&self, events: &Json) -> Result<(), Full> {
        self.feed_up_to(self.shared.limit_bytes, events)
    }

    fn feed_up_to(&self, limit_bytes: usize, events: &Json) -> Result<(), Full> {
        let mut state = self.state();
        if !state.accepts() {
            return Ok(());
        }
        if state.bytes > 0 && state.bytes + events.len() > limit_bytes {
            return Err(Full);
        }
        state.push(events.clone());
        drop(state);
        self.shared.ready.notify_one();
        Ok(())
    }

    /// Waits until little is left of what was queued, then queues: the log waits
    /// for the socket, not in memory. Cancel-safe.
    pub async fn feed(&self, events: Json) -> Result<(), Closed> {
        loop {
            // Registered before the look, so that no wake-up is missed.
            let drained = self.shared.drained.notified();
            if self.is_closed() {
                return Err(Closed);
            }
            if self.feed_up_to(AHEAD_BYTES.min(self.shared.limit_bytes), &events).is_ok() {
                return Ok(());
            }
            drained.await;
        }
    }

    /// Waits until all that was queued has been taken. Cancel-safe.
    pub async fn drained(&self) -> Result<(), Closed> {
        loop {
            let drained = self.shared.drained.notified();
            if self.is_closed() {
                return Err(Closed);
            }
            if self.waiting_bytes() == 0 {
                return Ok(());
            }
            drained.await;
        }
    }

    /// The latest signal of each sender, replacing one that still waits.
    pub fn signals<'a>(&self, room: RoomId, signals: impl Iterator<Item = &'a (SessionId, Json)>) {
        let mut state = self.state();
        if state.accepts() {
            state.signals.extend(signals.map(|(from, message)| ((room, from.clone()), message.clone())));
            let waits = !state.signals.is_empty();
            drop(state);
            if waits {
                self.shared.ready.notify_one();
            }
        }
    }

    /// Drops the waiting signals that nobody should see any more.
    pub fn keep_signals(&self, keep: impl Fn(RoomId, &SessionId) -> bool) {
        self.state().signals.retain(|(room, from), _| keep(*room, from));
    }

    /// Ends the session once what is queued has been written. The first call's
    /// code stands.
    pub fn close(&self, code: CloseCode) {
        self.state().close.get_or_insert(code);
        self.shared.ready.notify_one();
        self.shared.drained.notify_waiters();
    }

    /// Ends the session at once: what waits is dropped, and a client that takes
    /// nothing isn't waited for.
    pub fn expel(&self, code: CloseCode) {
        let mut state = self.state();
        gateway::outbox_shrank(state.bytes);
        let close = Some(state.close.unwrap_or(code));
        *state = State { close, expelled: true, closed: state.closed, ..State::default() };
        drop(state);
        self.shared.expelled.notify_one();
        self.shared.ready.notify_one();
        self.shared.drained.notify_waiters();
    }

    /// Resolves when the session is to end at once. Cancel-safe.
    pub async fn expelled(&self) -> CloseCode {
        loop {
            let expelled = self.shared.expelled.notified();
            if let State { expelled: true, close: Some(code), .. } = &*self.state() {
                return *code;
            }
            expelled.await;
        }
    }

    /// The writer is gone: whatever comes now is dropped, feeders give up.
    pub fn shut(&self) {
        let mut state = self.state();
        gateway::outbox_shrank(state.bytes);
        *state = State { closed: true, ..State::default() };
        drop(state);
        self.shared.drained.notify_waiters();
    }

    pub fn is_closed(&self) -> bool {
        !self.state().accepts()
    }

    /// Bytes that wait, for metrics and for the reader's back-pressure.
    pub fn waiting_bytes(&self) -> usize {
        self.state().bytes
    }

    /// For the writer: waits until something is to be written, then takes up to
    /// about `max_bytes` of it, at least one message. Cancel-safe.
    pub async fn take(&self, max_bytes: usize) -> Batch {
        loop {
            let ready = self.shared.ready.notified();
            if let Some(batch) = self.take_now(max_bytes) {
                return batch;
            }
            ready.await;
        }
    }

    fn take_now(&self, max_bytes: usize) -> Option<Batch> {
        let mut state = self.state();
        let mut batch = Batch::default();
        let mut bytes = 0;
        while bytes < max_bytes
            && let Some(message) = state.queue.pop_front()
        {
            bytes += message.len();
            batch.messages.push(message);
        }
        state.bytes -= bytes;
        gateway::outbox_shrank(bytes);
        if state.queue.is_empty() {
            batch.messages.extend(std::mem::take(&mut state.signals).into_values());
            batch.close = state.close;
            // A queue that has been large once shouldn't stay so for ever.
            state.queue.shrink_to(16);
            drop(state);
            self.shared.drained.notify_waiters();
        }
        (!batch.messages.is_empty() || batch.close.is_some()).then_some(batch)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn accepts(&self) -> bool {
        !self.closed && self.close.is_none()
    }

    fn push(&mut self, message: Json) {
        self.bytes += message.len();
        gateway::outbox_grew(message.len());
        self.queue.push_back(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::one(text.to_owned())
    }

    #[tokio::test]
    async fn a_full_outbox_takes_answers_but_no_events() {
        let outbox = Outbox::new(10);
        assert_eq!(outbox.try_feed(&json("0123456789ab")), Ok(()), "an empty one takes any size");
        assert_eq!(outbox.try_feed(&json("x")), Err(Full));
        outbox.answer(json("answer"));
        let batch = outbox.take(1 << 16).await;
        assert_eq!(batch.messages, [json("0123456789ab"), json("answer")]);
        assert_eq!(outbox.try_feed(&json("x")), Ok(()));
    }

    #[tokio::test]
    async fn only_the_last_signal_of_a_sender_waits() {
        let outbox = Outbox::new(10);
        let (room, ann, bob) =
            (RoomId::new(1).unwrap(), SessionId::new("a").unwrap(), SessionId::new("b").unwrap());
        outbox.signals(room, [(ann.clone(), json("1")), (bob.clone(), json("2"))].iter());
        outbox.signals(room, [(ann.clone(), json("3"))].iter());
        assert_eq!(outbox.take(100).await.messages, [json("3"), json("2")]);
        outbox.signals(room, [(ann.clone(), json("4")), (bob, json("5"))].iter());
        outbox.keep_signals(|_, from| *from != ann);
        assert_eq!(outbox.take(100).await.messages, [json("5")]);
    }

    #[tokio::test]
    async fn a_waiting_feeder_goes_on_when_drained_and_gives_up_when_closed() {
        let outbox = Outbox::new(4);
        outbox.feed(json("full")).await.unwrap();
        let feeder = outbox.feed(json("more"));
        let writer = async {
            let first = outbox.take(4).await;
            let second = outbox.take(4).await;
            (first.messages, second.messages)
        };
        let (fed, taken) = futures_util::future::join(feeder, writer).await;
        assert_eq!(fed, Ok(()));
        assert_eq!(taken, (vec![json("full")], vec![json("more")]));

        outbox.feed(json("full")).await.unwrap();
        let feeder = outbox.feed(json("more"));
        let (fed, ()) = futures_util::future::join(feeder, async { outbox.shut() }).await;
        assert_eq!(fed, Err(Closed));
    }

    #[tokio::test]
    async fn who_is_expelled_gets_no_more_of_what_was_queued() {
        let outbox = Outbox::new(10);
        outbox.answer(json("queued"));
        let (code, ()) =
            futures_util::future::join(outbox.expelled(), async { outbox.expel(CloseCode::Kicked) }).await;
        assert_eq!((code, outbox.waiting_bytes()), (CloseCode::Kicked, 0));
        outbox.answer(json("too late"));
        let batch = outbox.take(100).await;
        assert_eq!((batch.messages, batch.close), (vec![], Some(CloseCode::Kicked)));
    }

    #[tokio::test]
    async fn close_comes_after_what_was_queued() {
        let outbox = Outbox::new(10);
        outbox.answer(json("last"));
        outbox.close(CloseCode::ShardUnavailable);
        outbox.answer(json("too late"));
        let batch = outbox.take(100).await;
        assert_eq!(batch.messages, [json("last")]);
        assert_eq!(batch.close, Some(CloseCode::ShardUnavailable));
    }
}
