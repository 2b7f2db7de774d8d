//! What each client saw of a room is a contiguous run of its log, in order.

use super::{Logs, Loss, Verdict, may_be_lost};
use crate::history::{History, Position, Seen, What};

pub fn check(history: &History, logs: &Logs, losses: &[Loss], verdict: &mut Verdict) {
    for diary in &history.diaries {
        for (room, seen) in &diary.rooms {
            let name = format!("{} in room {room}", diary.user);
            let mut stream = Stream {
                name,
                log: &logs[room],
                losses,
                history,
                position: None,
                is_lost: false,
                told: false,
            };
            seen.iter().for_each(|seen| stream.take(seen, verdict));
            stream.end(verdict);
        }
    }
}

struct Stream<'a> {
    name: String,
    log: &'a super::log::Log,
    losses: &'a [Loss],
    history: &'a History,
    position: Option<Position>,
    /// It has seen something that a failover took back.
    is_lost: bool,
    /// It was told that its position is gone, and waits for the state.
    told: bool,
}

impl Stream<'_> {
    fn take(&mut self, seen: &Seen, verdict: &mut Verdict) {
        let name = &self.name;
        match &seen.what {
            What::Joined { from: Some(from) } => {
                // Before the failover it was still right to go on from there.
                let excused = !self.is_lost || may_be_lost(self.losses, self.log.shard, seen.at);
                verdict
                    .check("a_lost_position_is_refused", excused, || format!("{name} went on from {from:?}"));
            }
            What::Page { from, to, head } => {
                let expected = self.position.map_or(1, |at| at.seq + 1);
                verdict.check("pages_follow_the_position", *from == expected && *to + 1 >= *from, || {
                    format!("{name} has {expected} to come and gets {from} to {to} of {head:?}")
                });
            }
            What::Snapshot { at, state } => self.snapshot(*at, *state, seen.at, verdict),
            What::Event { at, digest } => self.event(*at, *digest, seen.at, verdict),
            What::Resync { reason } => {
                let known = self.position.is_none_or(|at| self.log.has(at.epoch, at.seq));
                verdict.check("only_lost_positions_are_resynced", !known || self.is_lost, || {
                    format!("{name}: {reason} at {:?}, which is in the log", self.position)
                });
                self.told = true;
            }
            What::Joined { from: None } | What::Live | What::Lost => {}
        }
    }

    fn snapshot(&mut self, at: Position, state: u64, now: u64, verdict: &mut Verdict) {
        let name = &self.name;
        let lost = !self.log.has(at.epoch, at.seq) && may_be_lost(self.losses, self.log.shard, now);
        if !lost {
            verdict.check("snapshots_are_the_replayed_log", self.log.state_at(at.seq) == Some(state), || {
                format!("{name} got another state at {at:?}")
            });
            let epoch = at.seq == 0 || self.log.has(at.epoch, at.seq);
            verdict.check("snapshots_are_the_replayed_log", epoch, || {
                format!("{name}: {at:?} is not in the log")
            });
        }
        (self.position, self.is_lost, self.told) = (Some(at), lost, false);
    }

    fn event(&mut self, at: Position, digest: u64, now: u64, verdict: &mut Verdict) {
        let name = &self.name;
        let before = self.position.map_or(0, |position| position.seq);
        verdict.check("events_have_no_hole", at.seq <= before + 1, || {
            format!("{name} got {} after {before}", at.seq)
        });
        verdict
            .check("events_come_once", at.seq > before, || format!("{name} got {} after {before}", at.seq));
        verdict
            .check("nothing_comes_between_resync_and_snapshot", !self.told, || format!("{name} got {at:?}"));
        let logged = self.log.at(at.seq).is_some_and(|entry| entry.digest == digest);
        let lost = !logged && may_be_lost(self.losses, self.log.shard, now);
        verdict.check("nothing_is_announced_that_is_not_committed", logged || lost, || {
            let event = self.history.events.get(digest);
            format!(
                "{name} got {event:?}, and the log has {:?}",
                self.log.at(at.seq).map(|entry| &entry.event)
            )
        });
        verdict.check("a_lost_tail_is_declared", !(self.is_lost && logged), || {
            format!("{name} had seen what was lost and got {at:?} without a resync")
        });
        self.is_lost |= lost;
        self.position = Some(at);
    }

    /// In the quiet at the end everybody has everything.
    fn end(&self, verdict: &mut Verdict) {
        let name = &self.name;
        let has = self.position.map_or(0, |at| at.seq);
        verdict.check("everybody_gets_everything", has == self.log.head(), || {
            format!("{name} ended at {has} of {}", self.log.head())
        });
        verdict.check("a_lost_tail_is_declared", !self.is_lost, || format!("{name} was never told"));
    }
}
