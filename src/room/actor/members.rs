//! Joining, leaving, and signals.

use tokio::time::Instant;

use super::super::announcement::Announcement;
use super::super::feeding::{Feeding, Follows, follows};
use super::super::outbox::Outbox;
use super::super::presence::{Behind, LISTED_MAX};
use super::order::Repair;
use super::presence::PRESENCE_TICK;
use super::{Admitted, FeedId, Next, Room, Session};
use crate::ids::SessionId;
use crate::metrics::gateway::{self, GapCause};
use crate::position::Position;
use crate::protocol::Json;
use crate::protocol::server::Member;
use crate::store::history::Freshness;

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
        let (state, behind) = (Feeding::CatchingUp, Behind::default());
        let session = Session { user, access_rev, outbox, feed, state, behind };
        self.sessions.insert(member.session.clone(), session);
        self.timers.linger = None;
        self.active.get_or_insert_with(gateway::active_room);
        if self.presence.enter(member.clone()) {
            self.share_member(&member);
            self.tell_presence_soon();
        }
        let count = self.presence.count();
        let members = if count > LISTED_MAX { Vec::new() } else { self.presence.listed() };
        let recent = from
            .filter(|_| self.context.sessions.memory_serving)
            .and_then(|position| self.delivery.since(position))
            .map(|events| events.cloned().collect());
        let delivered = self.delivery.delivered();
        // With a hole an event may have been acked that wasn't delivered yet.
        let is_sure = !self.delivery.has_hole() && !self.repairing;
        let shown = if is_sure { Freshness::AtLeast(delivered) } else { Freshness::Primary };
        Admitted { feed, members, count, delivered, shown, recent }
    }

    pub(super) fn leave(&mut self, session: &SessionId) {
        let Some(entry) = self.sessions.remove(session) else { return };
        entry.outbox.keep_signals(|room, _| room != self.id);
        self.signals.forget(session);
        self.presence.leave(session);
        self.context.bus.presence_leave(self.id, session);
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
                if !entry.behind.is_empty() {
                    self.timers.presence.get_or_insert(Instant::now() + PRESENCE_TICK);
                }
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
}
