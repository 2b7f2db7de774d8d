//! Order: what is delivered, and what is asked of the log.

use std::time::Duration;

use tokio::time::Instant;

use super::super::catch_up::{self, Feed};
use super::super::deliver::Need;
use super::super::feeding::Feeding;
use super::{Command, Room};
use crate::clock::UnixMillis;
use crate::ids::SessionId;
use crate::memory::Owner;
use crate::metrics;
use crate::metrics::bus::Forged;
use crate::metrics::gateway::{self, GapCause};
use crate::planted::{self, Bug};
use crate::position::Position;
use crate::protocol::Json;
use crate::protocol::server::ResyncReason;
use crate::store::history::{EventDigest, Freshness, Head, LogEvent, PageOutcome, ReadError};

/// After a read of the log failed.
const REPAIR_RETRY: Duration = Duration::from_millis(500);

/// Why and how surely the log is asked.
#[derive(Debug, Clone)]
pub(super) struct Repair {
    pub cause: GapCause,
    pub freshness: Freshness,
}

impl Room {
    pub(super) fn offer(&mut self, events: Vec<LogEvent>, committed_at: UnixMillis) {
        let before = self.delivery.delivered();
        let (ready, need) = self.delivery.offer(events);
        if !ready.is_empty() {
            took(committed_at);
        }
        self.fan_out(before, &ready);
        match need {
            Need::Nothing => self.timers.gap = None,
            Need::Hole => {
                let at = Instant::now() + self.context.sessions.gap_wait;
                self.timers.gap.get_or_insert(at);
            }
            Need::Check => self.repair(Repair { cause: GapCause::Epoch, freshness: Freshness::Primary }),
        }
    }

    /// One encoding, shared by all who are live: they have everything up to
    /// `before`.
    fn fan_out(&mut self, before: Position, ready: &[LogEvent]) {
        if ready.is_empty() {
            return;
        }
        let mut parts: Vec<Json> = ready.iter().map(|event| event.json.clone()).collect();
        if planted::has(Bug::BatchReversed) {
            parts.reverse();
        }
        let shared = Json::join(&parts);
        let mut fed = 0;
        let mut overflowed = Vec::new();
        for (session, entry) in self.sessions.iter_mut().filter(|(_, entry)| entry.state == Feeding::Live) {
            if entry.outbox.try_feed(&shared).is_ok() || planted::has(Bug::LagSkips) {
                fed += shared.messages();
            } else {
                entry.state = Feeding::CatchingUp;
                overflowed.push(session.clone());
            }
        }
        gateway::events_delivered(fed as u64);
        let sessions = fed / shared.messages().max(1);
        self.awaited.delivered(self.id, self.delivery.delivered().seq, sessions);
        for session in overflowed {
            if let Some(feed) = self.feed(&session, before) {
                catch_up::lagging(&self.context, feed);
            }
        }
    }

    /// What a catch-up task needs to feed a session from `position` on.
    pub(super) fn feed(&self, session: &SessionId, position: Position) -> Option<Feed> {
        let entry = self.sessions.get(session)?;
        Some(Feed {
            room: self.id,
            handle: self.itself.clone(),
            session: session.clone(),
            id: entry.feed,
            outbox: entry.outbox.clone(),
            position,
            owner: Owner::User(entry.user.clone()),
        })
    }

    /// What the periodic comparison found.
    pub(super) fn compare(&mut self, head: Position) {
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

    /// Order and epoch don't show that the head is another event than the log's: an
    /// event with a valid seal may have taken its place.
    pub(super) fn compare_event(&mut self, head: Position, event: Option<EventDigest>) {
        let Some(in_log) = event else { return };
        if head != self.delivery.delivered() || self.repairing {
            // The next check compares the head of that time.
            return self.itself.doubt_head();
        }
        if self.delivery.last().is_some_and(|shown| shown.digest() != in_log) {
            metrics::bus::forged(Forged::NotInLog);
            tracing::error!(
                room = %self.id, at = %head,
                "an event was shown that the log does not have: its author has a key of auth.keys"
            );
            self.restart(ResyncReason::PositionLost);
        }
    }

    pub(super) fn doubt(&self, cause: GapCause) -> Repair {
        Repair { cause, freshness: Freshness::Primary }
    }

    /// Reads what follows `delivered`, once at a time.
    pub(super) fn repair(&mut self, repair: Repair) {
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
            let outcome =
                context.history.page(room, delivered, repair.freshness).await.map(|read| read.value);
            // An error means that the room has ended, and needs no repair.
            if itself.send(Command::Repaired { outcome, from_primary }).await.is_err() {}
        });
    }

    pub(super) fn repaired(&mut self, outcome: Result<PageOutcome, ReadError>, from_primary: bool) {
        self.repairing = false;
        self.repair_failed = false;
        match outcome {
            Ok(PageOutcome::Events(page)) => {
                let before = self.delivery.delivered();
                let ready = self.delivery.offer_from_log(page.events.iter().cloned());
                if let Some(at) = ready.first().and_then(written_at).filter(|_| !self.sessions.is_empty()) {
                    took(at);
                }
                self.fan_out(before, &ready);
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

    pub(super) fn repair_later(&mut self) {
        self.repair_failed = true;
        let itself = self.itself.clone();
        self.context.tasks.spawn("room-repair", async move {
            tokio::time::sleep(REPAIR_RETRY).await;
            itself.announce(Command::Missed);
        });
    }

    /// What was delivered is not in the log: everybody starts over.
    pub(super) fn restart(&mut self, reason: ResyncReason) {
        self.repairing = true;
        let (context, room, itself) = (self.context.clone(), self.id, self.itself.clone());
        self.context.tasks.spawn("room-repair", async move {
            let head = context.history.head(room, Freshness::Primary).await.map(|read| read.value);
            if itself.send(Command::Restarted { head, reason }).await.is_err() {}
        });
    }

    pub(super) fn restarted(&mut self, head: Result<Head, ReadError>, reason: ResyncReason) {
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
        self.awaited = self.context.traces.awaited();
        // The feeds of those that are catching up find out by themselves.
        let live = self.sessions.iter_mut().filter(|(_, entry)| entry.state == Feeding::Live);
        let lost: Vec<_> = live
            .map(|(session, entry)| {
                entry.state = Feeding::CatchingUp;
                session.clone()
            })
            .collect();
        for session in lost {
            if let Some(feed) = self.feed(&session, head.position) {
                catch_up::resync(&self.context, feed, reason);
            }
        }
    }
}

/// Events that were committed then are delivered now.
fn took(committed_at: UnixMillis) {
    let elapsed_ms = UnixMillis::now().0.saturating_sub(committed_at.0).max(0);
    gateway::commit_to_delivery(Duration::from_millis(elapsed_ms.unsigned_abs()));
}

/// Just before its COMMIT: when that was, the log doesn't tell.
fn written_at(event: &LogEvent) -> Option<UnixMillis> {
    #[derive(serde::Deserialize)]
    struct Written {
        at: i64,
    }
    serde_json::from_str(event.json.as_str()).ok().map(|Written { at }| UnixMillis(at))
}
