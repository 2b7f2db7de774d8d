//! Brings a session from where it is to the live events: a joiner, a client that
//! comes back, one whose socket was too slow.
//!
//! One task a catching-up session. It asks the room for what follows; the room
//! answers from memory, or says that the log must be read, or makes the session
//! live in the same breath in which it says that nothing is missing. Feeding
//! waits for the socket, so a slow client costs one page of memory.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryFutureExt;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::actor::{Command, FeedId, Next, RoomHandle};
use super::context::Context;
use super::outbox::{Closed, Outbox};
use super::states::SentState;
use crate::ids::{RoomId, SessionId};
use crate::memory::{Owner, Reservation};
use crate::metrics::gateway;
use crate::position::Position;
use crate::protocol::server::{self, EventsPage, ResyncReason};
use crate::protocol::{CloseCode, Json};
use crate::store::history::{EventPage, Freshness, LogEvent, PageBytes, PageOutcome, ReadError};

/// How large one message to the client grows.
const MESSAGE_BYTES: usize = 256 * 1024;
/// How often a failed read of the log is tried before the session is closed.
const ATTEMPTS: u32 = 6;
const RETRY: Duration = Duration::from_millis(250);
/// While a room reads what a session has read already.
const AHEAD_PAUSE: Duration = Duration::from_millis(20);

/// A session's way to the live events of a room.
pub struct Feed {
    pub room: RoomId,
    pub handle: RoomHandle,
    pub session: SessionId,
    pub id: FeedId,
    pub outbox: Outbox,
    /// The last event it was sent, or the state it was given.
    pub position: Position,
    /// The user whose share of memory pays for the state and the pages of the log.
    pub owner: Owner,
}

/// What a joiner gets first.
pub enum Start {
    Snapshot(SentState),
    /// Events after the asked position, and the head at that time.
    Resume(EventPage),
}

/// Why a feed ended before the session was live.
enum Ended {
    /// The session left, joined again, or lost its socket.
    Gone,
    Unreadable(ReadError),
}

impl From<Closed> for Ended {
    fn from(_: Closed) -> Self {
        Self::Gone
    }
}

/// What comes before the events that follow.
enum First {
    Joined(Start),
    Drain,
    Resync(ResyncReason),
}

/// Feeds a joiner, after its `joined`.
pub fn joined(context: &Arc<Context>, feed: Feed, start: Start) {
    spawn(context, feed, First::Joined(start));
}

/// Feeds a session whose outbox was full, once its socket has drained.
pub fn lagging(context: &Arc<Context>, feed: Feed) {
    spawn(context, feed, First::Drain);
}

/// Tells a session that its position is gone, and gives it the state.
pub fn resync(context: &Arc<Context>, feed: Feed, reason: ResyncReason) {
    spawn(context, feed, First::Resync(reason));
}

fn spawn(context: &Arc<Context>, mut feed: Feed, first: First) {
    let context = context.clone();
    context.clone().tasks.spawn("catch-up", async move {
        let lagging = gateway::lagging_session();
        if let Err(Ended::Unreadable(error)) = feed.run(&context, first).await {
            tracing::warn!(room = %feed.room, session = %feed.session, %error, "can't read the log for a session");
            feed.outbox.close(CloseCode::ShardUnavailable);
        }
        drop(lagging);
    });
}

impl Feed {
    async fn run(&mut self, context: &Context, first: First) -> Result<(), Ended> {
        match first {
            First::Joined(Start::Snapshot(state)) => self.snapshot(state).await?,
            First::Joined(Start::Resume(page)) => self.resume(context, page).await?,
            First::Drain => self.outbox.drained().await?,
            First::Resync(reason) => self.start_over(context, reason).await?,
        }
        self.follow(context).await
    }

    async fn snapshot(&mut self, state: SentState) -> Result<(), Ended> {
        for page in &state.pages.pages {
            self.outbox.feed(page.clone()).await?;
        }
        self.position = state.pages.position;
        Ok(())
    }

    /// Pages of events up to the head, the last one marked.
    async fn resume(&mut self, context: &Context, mut page: EventPage) -> Result<(), Ended> {
        loop {
            let to = page.events.last().map_or(self.position, |event| event.position);
            let complete = to.seq >= page.head.seq;
            let paid = self.pay(context, &page).await?;
            self.pages(&page.events, page.head, complete).await?;
            drop(paid);
            if complete {
                return Ok(());
            }
            match self.read(context, page.head).await? {
                PageOutcome::Events(next) => page = next,
                PageOutcome::Lost(reason) => return self.start_over(context, reason).await,
            }
        }
    }

    /// At least one page, also when there is nothing to tell.
    async fn pages(&mut self, events: &[LogEvent], head: Position, complete: bool) -> Result<(), Ended> {
        if events.is_empty() {
            return self.page(&[], head, complete).await;
        }
        let mut chunks = chunks(events).peekable();
        while let Some(chunk) = chunks.next() {
            let last = complete && chunks.peek().is_none();
            self.page(chunk, head, last).await?;
        }
        Ok(())
    }

    async fn page(&mut self, events: &[LogEvent], head: Position, last: bool) -> Result<(), Ended> {
        let to = events.last().map_or(self.position, |event| event.position);
        let from = self.position.seq.next();
        let texts: Vec<&str> = events.iter().map(|event| event.json.as_str()).collect();
        let page = EventsPage { room: self.room, from, to: to.seq, head, events: &texts, last };
        self.outbox.feed(server::events(&page)).await?;
        gateway::events_delivered(events.len() as u64);
        self.position = to;
        Ok(())
    }

    /// `event` messages from here on, until the room takes over.
    async fn follow(&mut self, context: &Context) -> Result<(), Ended> {
        loop {
            match self.next().await? {
                Next::Live => return Ok(()),
                Next::Gone => return Err(Ended::Gone),
                Next::Events(events) => self.events(&events).await?,
                Next::Log { head } => match self.read(context, head).await? {
                    // Only of a session that has read ahead: the room reads too.
                    PageOutcome::Events(page) if page.events.is_empty() => sleep(AHEAD_PAUSE).await,
                    PageOutcome::Events(page) => {
                        let _paid = self.pay(context, &page).await?;
                        self.events(&page.events).await?;
                    }
                    PageOutcome::Lost(reason) => self.start_over(context, reason).await?,
                },
            }
        }
    }

    async fn events(&mut self, events: &[LogEvent]) -> Result<(), Ended> {
        for chunk in chunks(events) {
            let parts: Vec<Json> = chunk.iter().map(|event| event.json.clone()).collect();
            self.outbox.feed(Json::join(&parts)).await?;
            gateway::events_delivered(parts.len() as u64);
            self.position = chunk.last().map_or(self.position, |event| event.position);
        }
        Ok(())
    }

    async fn next(&self) -> Result<Next, Ended> {
        let (reply, answer) = oneshot::channel();
        let command =
            Command::Next { session: self.session.clone(), feed: self.id, after: self.position, reply };
        self.handle.send(command).await.map_err(|()| Ended::Gone)?;
        answer.await.map_err(|_| Ended::Gone)
    }

    async fn start_over(&mut self, context: &Context, reason: ResyncReason) -> Result<(), Ended> {
        self.outbox.feed(server::resync(self.room, reason)).await?;
        gateway::resynced(reason);
        let (room, owner, lost_at) = (self.room, &self.owner, Instant::now());
        let state = retried(|| context.states.after_loss(room, owner, lost_at)).await;
        self.snapshot(state.map_err(|error| Ended::Unreadable((*error).clone()))?).await
    }

    /// Returns once the page is paid for. A page that is in the room's memory or that
    /// another session is sent costs nothing more.
    async fn pay(&self, context: &Context, page: &EventPage) -> Result<Option<Arc<Reservation>>, Ended> {
        let Some(PageBytes { shared, bytes }) = page.read.as_deref() else { return Ok(None) };
        let pay = || shared.pay(&context.states.memory, &self.owner, *bytes).map_err(ReadError::NoMemory);
        retried(pay).await.map(Some).map_err(Ended::Unreadable)
    }

    /// What follows, from an endpoint that has all that the room delivered. If
    /// that isn't in the log, the room finds out by itself; then the primary
    /// says what is left of this session's own position.
    async fn read(&self, context: &Context, head: Position) -> Result<PageOutcome, Ended> {
        let page = |freshness| context.history.page(self.room, self.position, freshness);
        let read = match retried(|| page(Freshness::AtLeast(head))).await {
            Err(ReadError::Lost(_)) => retried(|| page(Freshness::Primary)).await,
            read => read,
        };
        read.map(|read| read.value).map_err(Ended::Unreadable)
    }
}

/// Tries a read a few times: a failover takes seconds, and a session that waits
/// is better off than one that is closed.
async fn retried<T, E: Borrow<ReadError>, F: Future<Output = Result<T, E>>>(
    read: impl Fn() -> F,
) -> Result<T, E> {
    let mut attempt = 0;
    loop {
        match read().await {
            Err(error) if attempt < ATTEMPTS && error.borrow().is_passing() => {
                attempt += 1;
                sleep(RETRY * attempt).await;
            }
            result => return result,
        }
    }
}

/// Splits events so that each part makes a message of a bearable size.
fn chunks(events: &[LogEvent]) -> impl Iterator<Item = &[LogEvent]> {
    let mut rest = events;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|event| {
            bytes += event.json.len();
            bytes <= MESSAGE_BYTES || bytes == event.json.len()
        });
        let (now, later) = rest.split_at(fits.count());
        rest = later;
        (!now.is_empty()).then_some(now)
    })
}
