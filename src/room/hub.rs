//! The rooms of this node, and the way into them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::actor::{self, Admitted, Command, RoomHandle};
use super::announcement::Announcement;
use super::catch_up::{self, Feed, Start};
use super::context::Context;
use super::outbox::Outbox;
use super::presence::Change;
use crate::bus::{BusEvent, NodeId};
use crate::ids::{RoomId, SessionId, Slug, UserId};
use crate::memory::{Memory, Owner};
use crate::metrics::gateway::{self, Resume};
use crate::position::{Position, Seq};
use crate::protocol::server::{self, JoinMode, Joined, Member, ResyncReason};
use crate::protocol::{MessageId, Refusal};
use crate::store::append::{Announce, Committed, CommittedEvent};
use crate::store::history::{EventPage, Freshness, History, LogEvent, PageOutcome, RoomHead};
use crate::store::rooms::Rooms;

/// A cheap handle.
#[derive(Clone)]
pub struct Hub {
    context: Arc<Context>,
    rooms: Arc<Mutex<HashMap<RoomId, RoomHandle>>>,
}

/// A session that was admitted to a room wants to see it.
pub struct Join {
    pub id: Option<MessageId>,
    pub room: RoomId,
    pub slug: Slug,
    pub member: Member,
    /// As of which the room let it in as what it is.
    pub access_rev: u64,
    /// The last event the client has.
    pub from: Option<Position>,
    /// It was in the room before: what holds all that it was shown there.
    pub shown: Option<Freshness>,
    pub outbox: Outbox,
}

impl Hub {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, rooms: Arc::default() }
    }

    /// Answers `joined` into the outbox, then pages, then events. On a refusal
    /// nothing was answered and the session is not in the room.
    pub async fn join(&self, join: Join) -> Result<(), Refusal> {
        let from = join.from.map(normal);
        let (handle, admitted) = self.admit(&join, from).await?;
        let started = self.start(&join, from, &handle, &admitted).await;
        let (start, position, resync) = match started {
            Ok(started) => started,
            Err(refusal) => {
                drop(self.leave(join.room, &join.member.session).await);
                return Err(refusal);
            }
        };
        let (mode, head) = match &start {
            Start::Snapshot(state) => (JoinMode::Snapshot, state.pages.position),
            Start::Resume(page) => (JoinMode::Resume, page.head),
        };
        join.outbox.answer(server::joined(
            join.id.as_ref(),
            &Joined {
                room: join.room,
                slug: &join.slug,
                head,
                role: join.member.role,
                mode,
                members: &admitted.members,
                count: admitted.count,
            },
        ));
        if let Some(reason) = resync {
            join.outbox.answer(server::resync(join.room, reason));
            gateway::resynced(reason);
        }
        let feed = Feed {
            room: join.room,
            handle,
            session: join.member.session,
            id: admitted.feed,
            outbox: join.outbox,
            position,
            owner: Owner::User(join.member.user),
        };
        catch_up::joined(&self.context, feed, start);
        Ok(())
    }

    /// Tells what holds all that the session was shown, for when it comes back.
    pub async fn leave(&self, room: RoomId, session: &SessionId) -> oneshot::Receiver<Freshness> {
        let handle = self.rooms().get(&room).cloned();
        let (shown, answer) = oneshot::channel();
        if let Some(handle) = handle
            && handle.send(Command::Leave { session: session.clone(), shown }).await.is_err()
        {
            // The room has ended, and everybody in it has left with it.
        }
        answer
    }

    /// An ephemeral value, for everybody else in the room on every node. The user is
    /// charged for its bytes, for each member.
    pub fn signal(
        &self,
        room: RoomId,
        session: &SessionId,
        user: &UserId,
        data: &str,
    ) -> Result<(), Refusal> {
        let Some(handle) = self.rooms().get(&room).cloned() else { return Ok(()) };
        let message = server::signal(room, session, user, data);
        self.context.limits.user_signal(user, message.len().saturating_mul(handle.members()))?;
        handle.hint(Command::Signals { signals: vec![(session.clone(), message)], local: true });
        Ok(())
    }

    /// How many sessions are in the room over all nodes, and the first hundred.
    pub async fn who(&self, room: RoomId) -> (usize, Vec<Member>) {
        let handle = self.rooms().get(&room).cloned();
        if let Some(handle) = handle {
            let (reply, answer) = oneshot::channel();
            if handle.send(Command::Who { reply }).await.is_ok()
                && let Ok(who) = answer.await
            {
                return who;
            }
        }
        let members = self.context.remote_members(room).await.unwrap_or_default();
        let count = members.len();
        (count, members.into_iter().map(|(_, member)| member).take(super::presence::LISTED_MAX).collect())
    }

    /// A change of who may be in `room`, and as what, is committed. What gets
    /// lost of this the head checks find.
    pub fn rights_changed(&self, room: RoomId, access_rev: u64) {
        if let Some(handle) = self.rooms().get(&room) {
            handle.hint(Command::AccessRev { access_rev });
        }
        self.context.announce(room, &Announcement::Rights { access_rev });
    }

    /// The logs and states of the rooms.
    pub fn history(&self) -> &History {
        &self.context.history
    }

    pub fn memory(&self) -> &Memory {
        &self.context.states.memory
    }

    /// The rows of the rooms.
    pub fn stored_rooms(&self) -> &Rooms {
        &self.context.rooms
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Every room asks anew who is in it on other nodes.
    pub(super) fn recall_members(&self) {
        self.rooms().values().for_each(|handle| handle.announce(Command::Recall));
    }

    /// No room knows any more who is in it on other nodes.
    pub(super) fn forget_remote(&self) {
        self.rooms().values().for_each(|handle| handle.announce(Command::Alone));
    }

    /// The rooms that are live here, and whether the event at the head is to be
    /// compared: of rooms to which other nodes announced events. Forgets it.
    pub(super) fn live(&self) -> Vec<(RoomId, bool)> {
        self.rooms().iter().map(|(room, handle)| (*room, handle.take_unproven())).collect()
    }

    /// The comparison failed, and is due again.
    pub(super) fn doubt_heads(&self, rooms: &[(RoomId, bool)]) {
        let live = self.rooms();
        rooms.iter().filter(|(_, unproven)| *unproven).for_each(|(room, _)| {
            if let Some(handle) = live.get(room) {
                handle.doubt_head();
            }
        });
    }

    /// What the periodic comparison with the log found.
    pub fn head(&self, head: &RoomHead) {
        if let Some(handle) = self.rooms().get(&head.room) {
            let RoomHead { position: head, access_rev, event, .. } = *head;
            handle.announce(Command::Head { head, access_rev, event });
        }
    }

    /// What the bus brought.
    pub fn hear(&self, event: BusEvent) {
        match event {
            BusEvent::Message { room, payload } => {
                let Some((origin, announcement)) = Announcement::decode(payload) else {
                    tracing::debug!(%room, "an announcement that this version can't read");
                    return;
                };
                // Its own were delivered when they were committed.
                if origin != self.context.node
                    && let Some(command) = heard(origin, announcement)
                    && let Some(handle) = self.rooms().get(&room)
                {
                    match command {
                        Command::Signals { .. } | Command::AccessRev { .. } | Command::Traces { .. } => {
                            handle.hint(command);
                        }
                        _ => {
                            if matches!(command, Command::Events { .. }) {
                                handle.doubt_head();
                            }
                            handle.announce(command);
                        }
                    }
                }
            }
            BusEvent::Lost => {
                // One reading a shard, not one a room.
                self.context.heads_due.notify_one();
                for handle in self.rooms().values() {
                    handle.announce(Command::BusLost);
                }
            }
        }
    }

    async fn admit(&self, join: &Join, from: Option<Position>) -> Result<(RoomHandle, Admitted), Refusal> {
        loop {
            let handle = self.open(join.room);
            let (reply, answer) = oneshot::channel();
            let command = Command::Join {
                member: join.member.clone(),
                access_rev: join.access_rev,
                outbox: join.outbox.clone(),
                from,
                reply,
            };
            if handle.send(command).await.is_ok()
                && let Ok(admitted) = answer.await
            {
                return admitted.map(|admitted| (handle, admitted));
            }
            // It ended while it was asked.
            self.forget(join.room, &handle);
        }
    }

    /// What the joiner gets first, the position it then has, and why not what
    /// it asked for.
    async fn start(
        &self,
        join: &Join,
        from: Option<Position>,
        handle: &RoomHandle,
        admitted: &Admitted,
    ) -> Result<(Start, Position, Option<ResyncReason>), Refusal> {
        let (states, owner) = (&self.context.states, Owner::User(join.member.user.clone()));
        let Some(from) = from else {
            let state = match admitted.shown.or(join.shown) {
                Some(shown) => states.since(join.room, &owner, shown).await,
                None => states.now(join.room, &owner, handle).await,
            };
            let state = state.map_err(|error| error.refusal())?;
            let position = state.pages.position;
            return Ok((Start::Snapshot(state), position, None));
        };
        if let Some(events) = &admitted.recent {
            gateway::resume_done(Resume::Resumed);
            let page = EventPage { events: events.clone(), head: admitted.delivered, read: None };
            return Ok((Start::Resume(page), from, None));
        }
        let bound = Freshness::MaxStale(self.context.states.max_stale);
        let page = self.context.history.page(join.room, from, bound).await;
        match page.map_err(|error| error.refusal())?.value {
            PageOutcome::Events(page) => {
                gateway::resume_done(Resume::Resumed);
                Ok((Start::Resume(page), from, None))
            }
            PageOutcome::Lost(reason) => {
                gateway::resume_done(Resume::Snapshot);
                let state = states.now(join.room, &owner, handle).await.map_err(|error| error.refusal())?;
                let position = state.pages.position;
                Ok((Start::Snapshot(state), position, Some(reason)))
            }
        }
    }

    fn open(&self, room: RoomId) -> RoomHandle {
        let mut rooms = self.rooms();
        if let Some(handle) = rooms.get(&room).filter(|handle| !handle.is_ended()) {
            return handle.clone();
        }
        let hub = self.clone();
        let handle = actor::start(room, self.context.clone(), move |ended| hub.forget(room, ended));
        rooms.insert(room, handle.clone());
        handle
    }

    fn forget(&self, room: RoomId, ended: &RoomHandle) {
        let mut rooms = self.rooms();
        if rooms.get(&room).is_some_and(|handle| handle.is_same(ended)) {
            rooms.remove(&room);
        }
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomId, RoomHandle>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After COMMIT: to the sessions of this node at once, to the others by the bus.
impl Announce for Hub {
    fn announce(&self, committed: Committed) {
        let event =
            |event: &CommittedEvent| LogEvent { position: event.position(), json: event.json().clone() };
        let events: Vec<LogEvent> = committed.events().iter().map(event).collect();
        let committed_at = committed.committed_at();
        let room = committed.room();
        if !committed.traces().is_empty() {
            let carried = committed.traces().clone();
            self.context.announce(room, &Announcement::Traces { carried: carried.clone() });
            if let Some(handle) = self.rooms().get(&room) {
                handle.hint(Command::Traces { carried });
            }
        }
        if let Some(handle) = self.rooms().get(&room) {
            handle.announce(Command::Events { events: events.clone(), committed_at });
        }
        self.context.announce(room, &Announcement::Events { committed_at, events });
    }
}

fn heard(origin: NodeId, announcement: Announcement) -> Option<Command> {
    Some(match announcement {
        Announcement::Events { committed_at, events } => Command::Events { events, committed_at },
        Announcement::Signals { signals } => Command::Signals { signals, local: false },
        Announcement::Presence { change } => {
            Command::Presence { origin, change: Change::from_bytes(&change)? }
        }
        Announcement::Rights { access_rev } => Command::AccessRev { access_rev },
        Announcement::Traces { carried } => Command::Traces { carried },
    })
}

/// Seq 0 is the beginning in every epoch.
fn normal(position: Position) -> Position {
    if position.seq == Seq::ZERO { Position::BEGINNING } else { position }
}
