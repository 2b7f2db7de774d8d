//! Joining, leaving, signals, and who is here.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::super::announcement::Announcement;
use super::super::feeding::{Feeding, Follows, follows};
use super::super::outbox::Outbox;
use super::super::presence::{Change, LISTED_MAX};
use super::order::Repair;
use super::{Admitted, Command, FeedId, Next, Room, Session};
use crate::ids::SessionId;
use crate::metrics::gateway::{self, GapCause};
use crate::position::Position;
use crate::protocol::Json;
use crate::protocol::server::{self, Member, PresenceChange};
use crate::store::history::Freshness;

/// How long presence changes wait to be told together.
const PRESENCE_TICK: Duration = Duration::from_millis(250);
/// How much of memory one answer to a catching-up session carries.
const MEMORY_PAGE_BYTES: usize = 256 * 1024;

impl Room {
    pub(super) fn admit(
        &mut self,
        member: Member,
        access_rev: u64,
        outbox: Outbox,
        from: Option<Position>,
    ) -> Admitted {
        self.feeds += 1;
        let feed = FeedId(self.feeds);
        let user = member.user.clone();
        let session = Session { user, access_rev, outbox, feed, state: Feeding::CatchingUp };
        self.sessions.insert(member.session.clone(), session);
        self.timers.linger = None;
        self.active.get_or_insert_with(gateway::active_room);
        if self.presence.enter(member.clone()) {
            // Stored before it is told: whoever listens too late to hear it reads it.
            self.store_member(&member);
            self.announce_presence(Change { joined: vec![member.clone()], left: vec![] });
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

    pub(super) fn leave(&mut self, session: &SessionId) {
        let Some(entry) = self.sessions.remove(session) else { return };
        entry.outbox.keep_signals(|room, _| room != self.id);
        self.signals.forget(session);
        self.presence.leave(session);
        self.context.bus.presence_leave(self.id, session);
        self.announce_presence(Change { joined: vec![], left: vec![session.clone()] });
        self.tell_presence_soon();
        if self.sessions.is_empty() {
            self.active = None;
            self.timers.linger = Some(Instant::now() + self.context.sessions.room_linger);
        }
    }

    pub(super) fn next(&mut self, session: &SessionId, feed: FeedId, after: Position) -> Next {
        let Some(entry) = self.sessions.get_mut(session).filter(|entry| entry.feed == feed) else {
            return Next::Gone;
        };
        match follows(&self.delivery, after, MEMORY_PAGE_BYTES) {
            Follows::Nothing => {
                entry.state = Feeding::Live;
                Next::Live
            }
            Follows::Ahead => {
                self.repair(Repair { cause: GapCause::Head, freshness: Freshness::AtLeast(after) });
                Next::Log { head: after }
            }
            Follows::Memory(events) => Next::Events(events),
            Follows::Log { head } => Next::Log { head },
        }
    }

    pub(super) fn put_signals(&mut self, signals: Vec<(SessionId, Json)>, local: bool) {
        let now = Instant::now();
        for (from, message) in signals {
            if local && !self.sessions.contains_key(&from) {
                continue;
            }
            let due = self.signals.put(from, message, local, now);
            self.timers.signals.get_or_insert(due);
        }
    }

    pub(super) fn tell_signals(&mut self, now: Instant) {
        let told = self.signals.take(now);
        for (session, entry) in &self.sessions {
            if entry.state == Feeding::Live {
                entry.outbox.signals(self.id, told.all.iter().filter(|(from, _)| from != session));
            }
        }
        if !told.local.is_empty() {
            self.context.announce(self.id, &Announcement::Signals { signals: told.local });
        }
    }

    /// For those who come later.
    pub(super) fn store_member(&self, member: &Member) {
        let stored = serde_json::to_string(member).expect("strings always serialize");
        self.context.bus.presence_enter(self.id, &member.session, stored);
    }

    pub(super) fn announce_presence(&self, change: Change) {
        self.context.announce(self.id, &Announcement::Presence { change: change.to_bytes() });
    }

    pub(super) fn tell_presence_soon(&mut self) {
        if self.presence.has_untold() && self.timers.presence.is_none() {
            self.timers.presence = Some(Instant::now() + PRESENCE_TICK);
        }
    }

    pub(super) fn tell_presence(&mut self) {
        let change = self.presence.take_untold();
        let count = self.presence.count();
        if change.is_empty() {
            return;
        }
        let left: BTreeSet<&SessionId> = change.left.iter().collect();
        let listed = count <= LISTED_MAX;
        let all = if listed { change.clone() } else { Change::default() };
        let shared = self.presence_message(&all.joined, &all.left, count);
        for (session, entry) in &self.sessions {
            // Whoever is told that somebody left must not see them move later.
            entry.outbox.keep_signals(|room, from| room != self.id || !left.contains(from));
            let about_itself = listed && change.joined.iter().any(|member| member.session == *session);
            let message = if about_itself {
                let others: Vec<_> =
                    change.joined.iter().filter(|m| m.session != *session).cloned().collect();
                if others.is_empty() && change.left.is_empty() {
                    continue;
                }
                self.presence_message(&others, &change.left, count)
            } else {
                shared.clone()
            };
            // A session that is behind learns who is there when it is joined or
            // told next; presence is a hint, the count corrects itself.
            if entry.state == Feeding::Live && entry.outbox.try_feed(&message).is_err() {
                tracing::debug!(room = %self.id, %session, "a presence change found no room");
            }
        }
    }

    pub(super) fn presence_message(&self, joined: &[Member], left: &[SessionId], count: usize) -> Json {
        server::presence(&PresenceChange { room: self.id, joined, left, count })
    }

    /// Asks the bus who is here on other nodes.
    pub(super) fn recall_members(&mut self) {
        self.presence.recall_begins();
        let (context, room, itself) = (self.context.clone(), self.id, self.itself.clone());
        self.context.tasks.spawn("room-members", async move {
            if let Some(members) = context.remote_members(room).await {
                itself.announce(Command::Remote { members });
            }
        });
    }
}
