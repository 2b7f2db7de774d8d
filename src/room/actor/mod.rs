//! One live room on this node: a task that owns its order, its sessions and its
//! members.
//!
//! Everything reaches it through one bounded mailbox. Announcements that find it
//! full are dropped and noted; the room then asks the log, so a burst larger
//! than any buffer loses nothing. Reads of the log run beside it and come back
//! as messages, so the room never waits for a database.

mod mailbox;
mod members;
mod order;
mod presence;
mod rights;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use self::order::Repair;
use super::context::Context;
use super::deliver::Delivery;
use super::feeding::Feeding;
use super::outbox::Outbox;
use super::presence::{Behind, Presence};
use super::signals::Signals;
use crate::ids::{RoomId, SessionId, UserId};
use crate::metrics::gateway::{self, GapCause};
use crate::position::Position;
use crate::protocol::{Code, Refusal};
use crate::store::history::{Freshness, Head, ReadError};
use crate::traces::Awaited;

pub use mailbox::{Admitted, Command, FeedId, Next, RoomHandle};

/// Early arrivals that are kept while a hole is open.
const HELD_MAX: usize = 4096;

/// Starts the task of a room. It ends when nobody has been here for a while,
/// and then calls `ended`.
pub fn start(
    room: RoomId,
    context: Arc<Context>,
    ended: impl FnOnce(&RoomHandle) + Send + 'static,
) -> RoomHandle {
    let (handle, commands) = RoomHandle::new();
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
    signals: Signals,
    awaited: Awaited,
    feeds: u64,
    /// A read of the log is under way.
    repairing: bool,
    /// Another one is due after it, because something newer is known.
    repair_again: Option<Repair>,
    /// What it was to find out is not known yet.
    repair_failed: bool,
    /// The primary is being asked who may be here.
    judging: bool,
    /// Told while it was being asked.
    judge_next: Option<u64>,
    /// The bus is being asked who is here on other nodes.
    recalling: bool,
    timers: Timers,
    /// While somebody is here.
    active: Option<gateway::Counted>,
    /// The head check saw a head below what was delivered, at that position.
    suspicious: Option<Position>,
}

struct Session {
    user: UserId,
    /// As of which it may be here.
    access_rev: u64,
    outbox: Outbox,
    feed: FeedId,
    state: Feeding,
    /// It may have read further in the log than the room.
    reads_log: bool,
    /// Of presence changes.
    behind: Behind,
}

impl Session {
    fn is_live(&self) -> bool {
        self.state == Feeding::Live
    }
}

#[derive(Debug, Default)]
struct Timers {
    gap: Option<Instant>,
    presence: Option<Instant>,
    signals: Option<Instant>,
    linger: Option<Instant>,
    recall: Option<Instant>,
}

impl Timers {
    fn next(&self) -> Option<Instant> {
        [self.gap, self.presence, self.signals, self.linger, self.recall].into_iter().flatten().min()
    }
}

fn take_due(timer: &mut Option<Instant>, now: Instant) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}

impl Room {
    async fn run(
        id: RoomId,
        context: Arc<Context>,
        itself: RoomHandle,
        mut commands: mpsc::Receiver<Command>,
    ) {
        // Listening first, reading second: what is committed in between is heard.
        let is_subscribed = context.bus.subscribe(id).await;
        let head = context.history.head(id, Freshness::MaxStale(context.states.max_stale));
        let (head, remote) = futures_util::future::join(head, context.remote_members(id)).await;
        match head {
            Ok(read) => {
                let mut room = Self::new(id, context.clone(), itself, &read.value);
                if !is_subscribed || remote.is_none() {
                    room.recall_soon();
                }
                room.presence.begin(remote.unwrap_or_default());
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
        let now = Instant::now();
        let timers = Timers { linger: Some(now + context.sessions.room_linger), ..Timers::default() };
        Self {
            id,
            itself,
            delivery: Delivery::new(head.position, head.slot_epoch, HELD_MAX, recent),
            sessions: HashMap::new(),
            presence: Presence::new(context.node),
            signals: Signals::default(),
            awaited: context.traces.awaited(),
            feeds: 0,
            repairing: false,
            repair_again: None,
            repair_failed: false,
            judging: false,
            judge_next: None,
            recalling: false,
            timers,
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
            self.itself.set_members(self.presence.count());
            if self.itself.take_missed() {
                self.repair(self.doubt(GapCause::Bus));
                self.recall_members();
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Join { member, access_rev, outbox, from, reply } => {
                let admitted = self.admit(member, access_rev, outbox, from);
                // A joiner that has gone meanwhile leaves by its own `Leave`.
                drop(reply.send(Ok(admitted)));
            }
            Command::Leave { session, shown } => {
                // An error: it won't come back.
                if shown.send(self.leave(&session)).is_err() {}
            }
            Command::Next { session, feed, after, reply } => {
                let next = self.next(&session, feed, after);
                drop(reply.send(next));
            }
            Command::Events { events, committed_at } => self.offer(events, committed_at),
            Command::Traces { carried } => self.awaited.hear(carried),
            Command::Signals { signals, local } => self.put_signals(signals, local),
            Command::Presence { origin, change } => {
                change.left.iter().for_each(|session| self.signals.forget(session));
                self.presence.apply(origin, change);
                self.tell_presence_soon();
            }
            Command::Remote { members } => self.recalled(members),
            Command::Alone => self.forget_remote(),
            Command::Head { head, access_rev, event } => {
                self.compare(head);
                self.compare_event(head, event);
                self.check_rights(access_rev);
            }
            Command::AccessRev { access_rev } => self.check_rights(access_rev),
            Command::Rights { asked, rights } => self.judged(asked, rights),
            Command::Missed => self.repair(self.doubt(GapCause::Bus)),
            Command::BusLost => self.recall_soon(),
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
        if take_due(&mut self.timers.signals, now) {
            self.tell_signals(now);
        }
        if take_due(&mut self.timers.recall, now) {
            self.recall_members();
        }
        take_due(&mut self.timers.linger, now) && self.sessions.is_empty()
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
