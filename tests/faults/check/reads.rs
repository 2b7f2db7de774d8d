//! Reads over HTTP are as new as was asked, and true.

use std::collections::BTreeMap;

use super::{Logs, Loss, Verdict, may_be_lost};
use crate::history::{Answer, Freshness, History, Micros, Position, Read};

pub fn check(history: &History, logs: &Logs, losses: &[Loss], verdict: &mut Verdict) {
    let acked = acked_by_time(history, logs);
    for read in &history.reads {
        let log = &logs[&read.room];
        let asked = match read.freshness {
            Freshness::AtLeast(asked) => Some(asked),
            Freshness::MaxStale(_) | Freshness::Primary => None,
        };
        let is_logged = |at: Position| at.seq == 0 || log.has(at.epoch, at.seq);
        if read.status != 200 {
            let is_gone = read.status == 409 && !asked.is_none_or(is_logged);
            verdict.check("reads_are_answered_or_503", read.status == 503 || is_gone, || {
                format!("{} {}", read.status, read.text)
            });
            continue;
        }
        let Some(at) = read.position else {
            verdict.fail("reads_tell_their_position", format!("room {}", read.room));
            continue;
        };
        if !is_logged(at) || !asked.is_none_or(is_logged) {
            let lost = may_be_lost(losses, log.shard, read.began);
            verdict.check("reads_are_the_replayed_log", lost, || {
                format!("{}: {at:?} of room {} is not in the log", read.served_by, read.room)
            });
            continue;
        }
        if let Some(state) = read.state {
            verdict.check("reads_are_the_replayed_log", log.state_at(at.seq) == Some(state), || {
                format!("{}: another state of room {} at {at:?}", read.served_by, read.room)
            });
        }
        let needed = needed(read, &acked);
        verdict.check("reads_are_as_new_as_asked", at.seq >= needed, || {
            format!(
                "{}: {at:?} of room {} for {:?}, which needs {needed}",
                read.served_by, read.room, read.freshness
            )
        });
    }
}

/// For each room, when which seq was the highest acked, of what wasn't lost.
fn acked_by_time(history: &History, logs: &Logs) -> BTreeMap<u64, Vec<(Micros, u64)>> {
    let mut acks: BTreeMap<u64, Vec<(Micros, u64)>> = BTreeMap::new();
    for attempt in history.diaries.iter().flat_map(|diary| &diary.attempts) {
        if let Some((at, Answer::Ack { at: position, .. })) = &attempt.answer
            && logs[&attempt.room].has(position.epoch, position.seq)
        {
            acks.entry(attempt.room).or_default().push((*at, position.seq));
        }
    }
    for acks in acks.values_mut() {
        acks.sort_unstable();
        let mut highest = 0;
        for (_, seq) in acks {
            highest = highest.max(*seq);
            *seq = highest;
        }
    }
    acks
}

/// The lowest seq that will do.
fn needed(read: &Read, acked: &BTreeMap<u64, Vec<(Micros, u64)>>) -> u64 {
    let as_of = match read.freshness {
        Freshness::AtLeast(Position { seq, .. }) => return seq,
        Freshness::MaxStale(bound) => read.began.saturating_sub(bound),
        Freshness::Primary => read.began,
    };
    let acks = acked.get(&read.room).map(Vec::as_slice).unwrap_or_default();
    let before = acks.partition_point(|(at, _)| *at < as_of);
    before.checked_sub(1).map_or(0, |last| acks[last].1)
}
