//! One live room on this node: a task that owns its order, its sessions and its
//! members.
//!
//! Everything reaches it through one bounded mailbox. Announcements that find it
//! full are dropped and noted; the room then asks the log, so a burst larger
//! than any buffer loses nothing. Reads of the log run beside it and come back
//! as messages, so the room never waits for a database.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::announcement::Announcement;
use crate::bus::NodeId;
use super::catch_up::{self, Feed};
use super::context::Context;
use super::deliver::{Delivery, Need};
use super::outbox::Outbox;
use super::presence::{Change, LISTED_MAX, Presence};
use crate::clock::UnixMillis;
use crate::ids::{RoomId, SessionId};
use crate::metrics::gateway::{self, GapCause};
use crate::position::Position;
use crate::protocol::server::{self, Member, PresenceChange, ResyncReason};
use crate::protocol::{Code, Json, Refusal};
use crate::store::history::{Freshness, Head, LogEvent, PageOutcome, ReadError};

/// How long presence changes wait to be told together.
const PRESENCE_TICK: Duration = Duration::from_millis(250);
/// After a read of the log failed.
const REPAIR_RETRY: Duration = Duration::from_millis(500);
/// Messages that may wait for a room.
const MAILBOX: usize = 1024;
/// Early arrivals that are kept while a hole is open.
const HELD_MAX: usize = 4096;
/// How much of memory one answer to a catching-up session carries.
const MEMORY_PAGE_BYTES: usize = 256 * 1024;

/// Tells a session's feed from the one it had before it joined again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedId(u64);

pub enum Command {
    Join { member: Member, outbox: Outbox, from: Option<Position>, reply: oneshot::Sender<Result<Admitted, Refusal>> },
    Leave { session: SessionId },
    Next { session: SessionId, feed: FeedId, after: Position, reply: oneshot::Sender<Next> },
    /// This node's own commits, and what other nodes announce.
    Events { events: Vec<LogEvent>, committed_at: UnixMillis },
    /// A local session's signal, or another node's.
    Signal { from: SessionId, message: Json, local: bool },
    Presence { origin: NodeId, change: Change },
    Remote { members: Vec<(NodeId, Member)> },
    /// What the periodic comparison with the log found.
    Head { head: Position },
    /// Announcements may have been lost.
    Missed,
    /// The bus came back, perhaps empty.
    BusLost,
    /// Who is here on other nodes may have changed unheard.
    Recall,
    Repaired { outcome: Result<PageOutcome, ReadError>, from_primary: bool },
    Restarted { head: Result<Head, ReadError>, reason: ResyncReason },
    /// Would a session at this position be fed without reading the log?
    Covers { position: Position, reply: oneshot::Sender<bool> },
    Who { reply: oneshot::Sender<(usize, Vec<Member>)> },
}

/// What a joiner is told before its pages.
pub struct Admitted {
    pub feed: FeedId,
    pub members: Vec<Member>,
    pub count: usize,
    pub delivered: Position,
    /// The events after the asked position, if memory has them all.
    pub recent: Option<Vec<LogEvent>>,
}

/// What a catching-up session gets next.
pub enum Next {
    /// It has seen all that was delivered, and is fed live from here.
    Live,
    Events(Vec<LogEvent>),
    /// Memory doesn't reach back so far: read the log, which goes at least so far.
    Log { head: Position },
    /// Its feed has ended: it left, or joined again.
    Gone,
}

/// A cheap handle to a room's task.
#[derive(Clone)]
pub struct RoomHandle {
    mailbox: mpsc::Sender<Command>,
    missed: Arc<AtomicBool>,
}

impl RoomHandle {
    /// `Err` when the room has just ended: open it anew.
    pub async fn send(&self, command: Command) -> Result<(), ()> {
        self.mailbox.send(command).await.map_err(drop)
    }

    /// For what the log can replace. Never waits.
    pub fn announce(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.mailbox.try_send(command) {
            self.missed.store(true, Ordering::Release);
        }
    }

    pub fn is_ended(&self) -> bool {
        self.mailbox.is_closed()
    }

    pub fn is_same(&self, other: &Self) -> bool {
        self.mailbox.same_channel(&other.mailbox)
    }

    pub async fn covers(&self, position: Position) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Covers { position, reply }).await.is_ok() && answer.await.unwrap_or(false)
    }
}

/// Starts the task of a room. It ends when nobody has been here for a while,
/// and then calls `ended`.
pub fn start(
    room: RoomId,
    context: Arc<Context>,
    ended: impl FnOnce(&RoomHandle) + Send + 'static,
) -> RoomHandle {
    let (mailbox, commands) = mpsc::channel(MAILBOX);
    let handle = RoomHandle { mailbox, missed: Arc::default() };
    let tasks = context.tasks.clone();
    let itself = handle.clone();
    tasks.spawn("room", async move {
        Room::run(room, context, itself.clone(), commands).await;
        ended(&itself);
    });
    handle
}

struct Room {
    id: RoomId,
    context: Arc<Context>,
    itself: RoomHandle,
    delivery: Delivery,
    sessions: HashMap<SessionId, Session>,
    presence: Presence,
    feeds: u64,
    /// A read of the log is under way.
    repairing: bool,
    /// Another one is due after it, because something newer is known.
    repair_again: Option<Repair>,
    timers: Timers,
    /// While somebody is here.
    active: Option<gateway::Counted>,
    /// The head check saw a head below what was delivered, at that position.
    suspicious: Option<Position>,
}

struct Session {
    outbox: Outbox,
    feed: FeedId,
    state: Feeding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feeding {
    /// Gets every delivered event beyond this position as it comes.
    Live { after: Position },
    /// A catch-up task feeds it, from memory or the log.
    CatchingUp,
}

/// Why and how surely the log is asked.
#[derive(Debug, Clone)]
struct Repair {
    cause: GapCause,
    freshness: Freshness,
}

#[derive(Debug, Default)]
struct Timers {
    gap: Option<Instant>,
    presence: Option<Instant>,
    linger: Option<Instant>,
}

impl Timers {
    fn next(&self) -> Option<Instant> {
        [self.gap, self.presence, self.linger].into_iter().flatten().min()
    }
}

fn take_due(timer: &mut Option<Instant>, now: Instant) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}

impl Room {
    async fn run(id: RoomId, context: Arc<Context>, itself: RoomHandle, mut commands: mpsc::Receiver<Command>) {
        // Listening first, reading second: what is committed in between is heard.
        context.bus.subscribe(id).await;
        match context.history.head(id, Freshness::MaxStale(context.max_stale)).await {
            Ok(read) => {
                let mut room = Self::new(id, context.clone(), itself, &read.value);
                room.recall_members();
                room.serve(&mut commands).await;
                // Before the mailbox closes: the room may be opened anew at once,
                // and its subscription must come after this.
                context.bus.unsubscribe(id);
            }
            Err(error) => {
                context.bus.unsubscribe(id);
                refuse_all(&mut commands, &error);
            }
        }
        // Whoever still sent finds its reply dropped, and opens the room anew.
        commands.close();
    }

    fn new(id: RoomId, context: Arc<Context>, itself: RoomHandle, head: &Head) -> Self {
        let recent = context.sessions.ring_events;
        let linger = Some(Instant::now() + context.sessions.room_linger);
        Self {
            id,
            itself,
            delivery: Delivery::new(head.position, head.slot_epoch, HELD_MAX, recent),
            sessions: HashMap::new(),
            presence: Presence::new(context.node),
            feeds: 0,
            repairing: false,
            repair_again: None,
            timers: Timers { linger, ..Timers::default() },
            active: None,
            suspicious: None,
            context,
        }
    }

    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let mut stop = self.context.tasks.stop_signal();
        loop {
            let due = self.timers.next();
            let timer = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.handle(command),
                    None => break,
                },
                () = timer => if self.tick() { break },
                () = stop.wait() => break,
            }
            if self.itself.missed.swap(false, Ordering::AcqRel) {
                self.repair(self.doubt(GapCause::Bus));
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Join { member, outbox, from, reply } => {
                let admitted = self.admit(member, outbox, from);
                // A joiner that has gone meanwhile leaves by its own `Leave`.
                drop(reply.send(Ok(admitted)));
            }
            Command::Leave { session } => self.leave(&session),
            Command::Next { session, feed, after, reply } => {
                let next = self.next(&session, feed, after);
                drop(reply.send(next));
            }
            Command::Events { events, committed_at } => self.offer(events, committed_at),
            Command::Signal { from, message, local } => self.signal(&from, &message, local),
            Command::Presence { origin, change } => {
                self.presence.apply(origin, change);
                self.tell_presence_soon();
            }
            Command::Remote { members } => {
                self.presence.replace_remote(members);
                self.tell_presence_soon();
            }
            Command::Head { head } => self.compare(head),
            Command::Missed => self.repair(self.doubt(GapCause::Bus)),
            Command::BusLost => {
                self.repair(self.doubt(GapCause::Bus));
                self.presence.here().for_each(|member| self.store_member(member));
                self.recall_members();
            }
            Command::Recall => self.recall_members(),
            Command::Repaired { outcome, from_primary } => self.repaired(outcome, from_primary),
            Command::Restarted { head, reason } => self.restarted(head, reason),
            Command::Covers { position, reply } => {
                let ahead = position.seq > self.delivery.delivered().seq;
                let covered = ahead || self.delivery.since(position).is_some();
                if reply.send(covered).is_err() {}
            }
            Command::Who { reply } => {
                drop(reply.send((self.presence.count(), self.presence.listed())));
            }
        }
    }

    /// True when the room has been empty for long enough to end.
    fn tick(&mut self) -> bool {
        let now = Instant::now();
        if take_due(&mut self.timers.gap, now) && self.delivery.has_hole() {
            let head = Position::new(self.delivery.delivered().epoch, self.delivery.known_head());
            let freshness = Freshness::AtLeast(head);
            self.repair(Repair { cause: GapCause::Hole, freshness });
        }
        if take_due(&mut self.timers.presence, now) {
            self.tell_presence();
        }
        take_due(&mut self.timers.linger, now) && self.sessions.is_empty()
    }
}

/// Joining, leaving, and being fed.
impl Room {
    fn admit(&mut self, member: Member, outbox: Outbox, from: Option<Position>) -> Admitted {
        self.feeds += 1;
        let feed = FeedId(self.feeds);
        let session = Session { outbox, feed, state: Feeding::CatchingUp };
        self.sessions.insert(member.session.clone(), session);
        self.timers.linger = None;
        self.active.get_or_insert_with(gateway::active_room);
        if self.presence.enter(member.clone()) {
            self.announce_presence(Change { joined: vec![member.clone()], left: vec![] });
            self.store_member(&member);
            self.tell_presence_soon();
        }
        let count = self.presence.count();
        let members = if count > LISTED_MAX { Vec::new() } else { self.presence.listed() };
        let recent = from
            .filter(|_| self.context.sessions.memory_serving)
            .and_then(|position| self.delivery.since(position))
            .map(|events| events.cloned().collect());
        Admitted { feed, members, count, delivered: self.delivery.delivered(), recent }
    }

    fn leave(&mut self, session: &SessionId) {
        if self.sessions.remove(session).is_none() {
            return;
        }
        self.presence.leave(session);
        self.announce_presence(Change { joined: vec![], left: vec![session.clone()] });
        self.context.bus.presence_leave(self.id, session);
        self.tell_presence_soon();
        if self.sessions.is_empty() {
            self.active = None;
            self.timers.linger = Some(Instant::now() + self.context.sessions.room_linger);
        }
    }

    fn next(&mut self, session: &SessionId, feed: FeedId, after: Position) -> Next {
        let Some(entry) = self.sessions.get_mut(session).filter(|entry| entry.feed == feed) else {
            return Next::Gone;
        };
        let delivered = self.delivery.delivered();
        if after == delivered || after.seq > delivered.seq {
            entry.state = Feeding::Live { after };
            if after.seq > delivered.seq {
                // The session read further than this room has delivered.
                self.repair(Repair {
                    cause: GapCause::Head,
                    freshness: Freshness::AtLeast(after),
                });
            }
            return Next::Live;
        }
        let Some(events) = self.delivery.since(after) else {
            return Next::Log { head: delivered };
        };
        let mut bytes = 0;
        let page = events.take_while(|event| {
            bytes += event.json.len();
            bytes <= MEMORY_PAGE_BYTES || bytes == event.json.len()
        });
        Next::Events(page.cloned().collect())
    }

    fn signal(&mut self, from: &SessionId, message: &Json, local: bool) {
        for (_, entry) in self.sessions.iter().filter(|(session, _)| *session != from) {
            if matches!(entry.state, Feeding::Live { .. }) {
                entry.outbox.signal(self.id, from.clone(), message.clone());
            }
        }
        if local {
            let announcement = Announcement::Signal { session: from.clone(), message: message.clone() };
            self.context.announce(self.id, &announcement);
        }
    }

    /// For those who come later.
    fn store_member(&self, member: &Member) {
        let stored = serde_json::to_string(member).expect("strings always serialize");
        self.context.bus.presence_enter(self.id, &member.session, stored);
    }

    fn announce_presence(&self, change: Change) {
        self.context.announce(self.id, &Announcement::Presence { change: change.to_bytes() });
    }

    fn tell_presence_soon(&mut self) {
        if self.presence.has_untold() && self.timers.presence.is_none() {
            self.timers.presence = Some(Instant::now() + PRESENCE_TICK);
        }
    }

    fn tell_presence(&mut self) {
        let change = self.presence.take_untold();
        let count = self.presence.count();
        if change.is_empty() {
            return;
        }
        let listed = count <= LISTED_MAX;
        let all = if listed { change.clone() } else { Change::default() };
        let shared = self.presence_message(&all.joined, &all.left, count);
        for (session, entry) in &self.sessions {
            let about_itself = listed && change.joined.iter().any(|member| member.session == *session);
            let message = if about_itself {
                let others: Vec<_> = change.joined.iter().filter(|m| m.session != *session).cloned().collect();
                if others.is_empty() && change.left.is_empty() {
                    continue;
                }
                self.presence_message(&others, &change.left, count)
            } else {
                shared.clone()
            };
            // A session that is behind learns who is there when it is joined or
            // told next; presence is a hint, the count corrects itself.
            if matches!(entry.state, Feeding::Live { .. }) && entry.outbox.try_feed(&message).is_err() {
                tracing::debug!(room = %self.id, %session, "a presence change found no room");
            }
        }
    }

    fn presence_message(&self, joined: &[Member], left: &[SessionId], count: usize) -> Json {
        server::presence(&PresenceChange { room: self.id, joined, left, count })
    }

    /// Asks the bus who is here on other nodes.
    fn recall_members(&self) {
        let (context, room, itself) = (self.context.clone(), self.id, self.itself.clone());
        self.context.tasks.spawn("room-members", async move {
            if let Some(members) = context.remote_members(room).await {
                itself.announce(Command::Remote { members });
            }
        });
    }
}

/// Order: what is delivered, and what is asked of the log.
impl Room {
    fn offer(&mut self, events: Vec<LogEvent>, committed_at: UnixMillis) {
        let (ready, need) = self.delivery.offer(events);
        if !ready.is_empty() {
            let elapsed_ms = UnixMillis::now().0.saturating_sub(committed_at.0).max(0);
            gateway::commit_to_delivery(Duration::from_millis(elapsed_ms.unsigned_abs()));
        }
        self.fan_out(&ready);
        match need {
            Need::Nothing => self.timers.gap = None,
            Need::Hole => {
                let at = Instant::now() + self.context.sessions.gap_wait;
                self.timers.gap.get_or_insert(at);
            }
            Need::Check => self.repair(Repair {
                cause: GapCause::Epoch,
                freshness: Freshness::Primary,
            }),
        }
    }

    /// One encoding, shared by all.
    fn fan_out(&mut self, ready: &[LogEvent]) {
        let (Some(first), Some(last)) = (ready.first(), ready.last()) else { return };
        let parts: Vec<Json> = ready.iter().map(|event| event.json.clone()).collect();
        let shared = Json::join(&parts);
        let mut fed = 0;
        let mut overflowed = Vec::new();
        for (session, entry) in &mut self.sessions {
            let Feeding::Live { after } = entry.state else { continue };
            let events = match after.seq.0.checked_sub(first.position.seq.0) {
                None => shared.clone(),
                Some(seen) if after.seq < last.position.seq => {
                    Json::join(&parts[usize::try_from(seen).map_or(parts.len(), |seen| seen + 1)..])
                }
                Some(_) => continue,
            };
            if entry.outbox.try_feed(&events).is_ok() {
                fed += events.messages();
                entry.state = Feeding::Live { after: last.position };
            } else {
                entry.state = Feeding::CatchingUp;
                overflowed.push((session.clone(), after));
            }
        }
        gateway::events_delivered(fed as u64);
        for (session, after) in overflowed {
            if let Some(feed) = self.feed(&session, after) {
                catch_up::lagging(&self.context, feed);
            }
        }
    }

    /// What a catch-up task needs to feed a session from `position` on.
    fn feed(&self, session: &SessionId, position: Position) -> Option<Feed> {
        let entry = self.sessions.get(session)?;
        Some(Feed {
            room: self.id,
            handle: self.itself.clone(),
            session: session.clone(),
            id: entry.feed,
            outbox: entry.outbox.clone(),
            position,
        })
    }

    /// What the periodic comparison found.
    fn compare(&mut self, head: Position) {
        let delivered = self.delivery.delivered();
        if head.seq > delivered.seq {
            let freshness = Freshness::AtLeast(head);
            self.repair(Repair { cause: GapCause::Head, freshness });
        } else if head.seq == delivered.seq && head.epoch != delivered.epoch {
            self.repair(self.doubt(GapCause::Epoch));
        } else if head.seq < delivered.seq && self.suspicious.replace(delivered) == Some(delivered) {
            // A replica that lags says the same; one that still does after a
            // whole interval without a new event says that the log was cut.
            self.repair(self.doubt(GapCause::Epoch));
        }
    }

    fn doubt(&self, cause: GapCause) -> Repair {
        Repair { cause, freshness: Freshness::Primary }
    }

    /// Reads what follows `delivered`, once at a time.
    fn repair(&mut self, repair: Repair) {
        if self.repairing {
            self.repair_again = Some(repair);
            return;
        }
        self.repairing = true;
        gateway::gap_repaired(repair.cause);
        let from_primary = matches!(repair.freshness, Freshness::Primary);
        let (context, room, itself) = (self.context.clone(), self.id, self.itself.clone());
        let delivered = self.delivery.delivered();
        self.context.tasks.spawn("room-repair", async move {
            let outcome = context.history.page(room, delivered, repair.freshness).await.map(|read| read.value);
            // An error means that the room has ended, and needs no repair.
            if itself.send(Command::Repaired { outcome, from_primary }).await.is_err() {}
        });
    }

    fn repaired(&mut self, outcome: Result<PageOutcome, ReadError>, from_primary: bool) {
        self.repairing = false;
        match outcome {
            Ok(PageOutcome::Events(page)) => {
                let ready = self.delivery.offer_from_log(page.events.iter().cloned());
                self.fan_out(&ready);
                if self.delivery.delivered().seq < page.head.seq {
                    self.repair_again.get_or_insert(Repair {
                        cause: GapCause::Head,
                        freshness: Freshness::AtLeast(page.head),
                    });
                } else if self.delivery.has_hole() && from_primary {
                    self.delivery.drop_held();
                }
            }
            // A replica that lags can't tell a lost position from one to come.
            Ok(PageOutcome::Lost(_)) if !from_primary => {
                self.repair_again = Some(self.doubt(GapCause::Epoch));
            }
            Ok(PageOutcome::Lost(reason)) => return self.restart(reason),
            // What was announced isn't in the log. Is what was delivered?
            Err(ReadError::Lost(_)) => {
                self.delivery.drop_held();
                self.repair_again = Some(self.doubt(GapCause::Epoch));
            }
            Err(error) => {
                tracing::warn!(room = %self.id, %error, "can't read the log to repair a room");
                self.repair_later();
            }
        }
        if let Some(repair) = self.repair_again.take() {
            self.repair(repair);
        } else if self.delivery.has_hole() {
            self.timers.gap.get_or_insert(Instant::now() + self.context.sessions.gap_wait);
        }
    }

    fn repair_later(&self) {
        let itself = self.itself.clone();
        self.context.tasks.spawn("room-repair", async move {
            tokio::time::sleep(REPAIR_RETRY).await;
            itself.announce(Command::Missed);
        });
    }

    /// What was delivered is not in the log: everybody starts over.
    fn restart(&mut self, reason: ResyncReason) {
        self.repairing = true;
        let (context, room, itself) = (self.context.clone(), self.id, self.itself.clone());
        self.context.tasks.spawn("room-repair", async move {
            let head = context.history.head(room, Freshness::Primary).await.map(|read| read.value);
            if itself.send(Command::Restarted { head, reason }).await.is_err() {}
        });
    }

    fn restarted(&mut self, head: Result<Head, ReadError>, reason: ResyncReason) {
        self.repairing = false;
        let head = match head {
            Ok(head) => head,
            Err(error) => {
                tracing::warn!(room = %self.id, %error, "can't read the head of a room whose log was cut");
                return self.repair_later();
            }
        };
        tracing::warn!(
            room = %self.id, reason = reason.as_str(), delivered = %self.delivery.delivered(), head = %head.position,
            "the log is not the one that was delivered: all sessions resync"
        );
        self.delivery.restart(head.position, head.slot_epoch);
        let live = |entry: &Session| matches!(entry.state, Feeding::Live { .. });
        // The feeds of those that are catching up find out by themselves.
        let lost: Vec<_> =
            self.sessions.iter().filter(|(_, entry)| live(entry)).map(|(session, _)| session.clone()).collect();
        for session in lost {
            if let Some(entry) = self.sessions.get_mut(&session) {
                entry.state = Feeding::CatchingUp;
            }
            if let Some(feed) = self.feed(&session, head.position) {
                catch_up::resync(&self.context, feed, reason);
            }
        }
    }
}

/// The room can't be opened: everybody who waits for it hears why.
fn refuse_all(commands: &mut mpsc::Receiver<Command>, error: &ReadError) {
    let refusal: Refusal = error.refusal();
    if refusal.code != Code::RoomUnknown {
        tracing::warn!(%error, "can't open a room");
    }
    commands.close();
    while let Ok(command) = commands.try_recv() {
        if let Command::Join { reply, .. } = command {
            drop(reply.send(Err(refusal.clone())));
        }
    }
}
