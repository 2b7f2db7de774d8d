//! Joining, leaving, and signals.

use tokio::time::Instant;

use super::super::announcement::Announcement;
use super::super::feeding::{Feeding, Follows, follows};
use super::super::outbox::Outbox;
use super::super::presence::{Behind, LISTED_MAX};
use super::super::signals::Fanout;
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
        let session = Session { user, access_rev, outbox, feed, state, reads_log: false, behind };
        let was_here = self.sessions.insert(member.session.clone(), session);
        let shown = was_here.map(|was| self.shown(&was));
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
        Admitted { feed, members, count, delivered: self.delivery.delivered(), shown, recent }
    }

    /// What holds all that the session was shown here, and what it was acked.
    fn shown(&self, session: &Session) -> Freshness {
        // Else what it was acked may not have been delivered yet.
        let is_sure = !self.repairing && !self.repair_failed && !self.itself.has_missed();
        let is_known = is_sure && !session.reads_log;
        if is_known { Freshness::AtLeast(self.delivery.known()) } else { Freshness::Primary }
    }

    /// Gives what holds all that it was shown here.
    pub(super) fn leave(&mut self, session: &SessionId) -> Freshness {
        let Some(entry) = self.sessions.remove(session) else { return Freshness::Primary };
        let shown = self.shown(&entry);
        entry.outbox.keep_signals(|room, _| room != self.id);
        self.signals.forget(session);
        self.presence.leave(session);
        self.context.bus.presence_leave(self.id, session);
        self.tell_presence_soon();
        if self.sessions.is_empty() {
            self.active = None;
            self.timers.linger = Some(Instant::now() + self.context.sessions.room_linger);
        }
        shown
    }

    pub(super) fn next(&mut self, session: &SessionId, feed: FeedId, after: Position) -> Next {
        let Some(entry) = self.sessions.get_mut(session).filter(|entry| entry.feed == feed) else {
            return Next::Gone;
        };
        match follows(&self.delivery, after, MEMORY_PAGE_BYTES) {
            Follows::Nothing => {
                entry.state = Feeding::Live;
                entry.reads_log = false;
                if !entry.behind.is_empty() {
                    self.timers.presence.get_or_insert(Instant::now() + PRESENCE_TICK);
                }
                Next::Live
            }
            Follows::Ahead => {
                entry.reads_log = true;
                self.repair(Repair { cause: GapCause::Head, freshness: Freshness::AtLeast(after) });
                Next::Log { head: after }
            }
            Follows::Memory(events) => Next::Events(events),
            Follows::Log { head } => {
                entry.reads_log = true;
                Next::Log { head }
            }
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
        let receivers = self.sessions.values().filter(|entry| entry.is_live()).count();
        let bytes_per_second = self.context.limits.room_signal_bytes();
        let told = self.signals.take(now, Fanout { bytes_per_second, receivers });
        self.timers.signals = told.next;
        gateway::signals_held(told.held);
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
