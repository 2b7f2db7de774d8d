//! Acked means logged, rejected means no effect, and one effect per op.

use std::collections::{HashMap, HashSet};

use super::{Logs, Loss, Verdict, may_be_lost};
use crate::history::{Answer, Attempt, History, Position, digest};

pub fn check(history: &History, logs: &Logs, losses: &[Loss], verdict: &mut Verdict) {
    let mut asked: HashMap<(u64, &str, &str), Vec<&Attempt>> = HashMap::new();
    for diary in &history.diaries {
        for attempt in &diary.attempts {
            let op = (attempt.room, diary.user.as_str(), attempt.op.as_str());
            asked.entry(op).or_default().push(attempt);
        }
        check_order(&diary.attempts, logs, verdict);
        verdict.check("nobody_is_refused_for_nothing", diary.errors.iter().all(|e| is_passing(e)), || {
            format!("{}: {:?}", diary.user, diary.errors.iter().find(|e| !is_passing(e)))
        });
    }
    for ((room, user, op), attempts) in &asked {
        let log = &logs[room];
        let found = log.ops.get(&((*user).to_owned(), (*op).to_owned())).copied();
        for attempt in attempts {
            if let Some((at, Answer::Ack { at: position, .. })) = &attempt.answer {
                let is_gone = !log.has(position.epoch, position.seq);
                let lost = may_be_lost(losses, log.shard, *at) && is_gone;
                if is_gone {
                    verdict.acks_lost.push((log.shard, *at));
                    let declared = log.at(position.seq).is_none_or(|entry| entry.epoch > position.epoch);
                    verdict.check("a_lost_tail_is_declared", declared, || {
                        format!("{op} in room {room}: {position:?} is gone, and no later epoch stands there")
                    });
                }
                check_acked(
                    *position,
                    attempt,
                    found.map(|at| (at, &log.entries[at].event)),
                    lost,
                    op,
                    verdict,
                );
            }
        }
        for (earlier, attempt) in attempts.iter().enumerate() {
            let is_repeat = matches!(attempt.answer, Some((_, Answer::Ack { duplicate: true, .. })));
            let known =
                attempts[..earlier].iter().any(|a| !matches!(a.answer, Some((_, Answer::Reject { .. }))));
            verdict.check("rejected_means_no_effect", !is_repeat || known, || {
                format!("{user} {op} in room {room} was only rejected before, and is a duplicate")
            });
        }
        let rejected = attempts.iter().all(|a| matches!(a.answer, Some((_, Answer::Reject { .. }))));
        verdict.check("rejected_means_no_effect", !(rejected && found.is_some()), || {
            format!("{user} {op} in room {room} was only rejected, and is in the log")
        });
    }
    for (room, log) in logs {
        for (user, op) in log.ops.keys() {
            let known = asked.contains_key(&(*room, user.as_str(), op.as_str()));
            verdict.check("nothing_is_logged_that_nobody_submitted", known, || {
                format!("{user} {op} in room {room}")
            });
        }
    }
}

fn check_acked(
    position: Position,
    attempt: &Attempt,
    found: Option<(usize, &serde_json::Value)>,
    lost: bool,
    op: &str,
    verdict: &mut Verdict,
) {
    let place = || format!("{op} in room {} was acked as {position:?}", attempt.room);
    let Some((index, event)) = found else {
        verdict.check("acked_is_logged", lost, || format!("{} and is not in the log", place()));
        return;
    };
    let Some(logged) = Position::of(event) else { return };
    // Lost, submitted again, and logged anew.
    verdict.check("acked_is_logged", logged == position || lost, || {
        format!("{} and is {logged:?} in the log, as number {}", place(), index + 1)
    });
    let mut body = event.clone();
    let fields = body.as_object_mut().expect("events are objects");
    ["seq", "epoch", "user", "op", "at", "version"].iter().for_each(|name| drop(fields.remove(*name)));
    verdict.check("acked_is_logged_as_submitted", digest(&body) == digest(&attempt.body), || {
        format!("{}: {} was submitted, {body} is logged", place(), attempt.body)
    });
}

/// What one connection submitted to a room in one go is in the log in that order.
/// An op that was sent before may have been done by that earlier sending.
fn check_order(attempts: &[Attempt], logs: &Logs, verdict: &mut Verdict) {
    let mut sent: HashSet<(u64, &str)> = HashSet::new();
    let mut last: HashMap<(usize, u64), u64> = HashMap::new();
    for attempt in attempts {
        let is_first = sent.insert((attempt.room, &attempt.op));
        if let Some((_, Answer::Ack { at, duplicate: false })) = &attempt.answer
            && is_first
            && logs[&attempt.room].has(at.epoch, at.seq)
        {
            let before = last.insert((attempt.connection, attempt.room), at.seq);
            let in_order = before.is_none_or(|before| before < at.seq);
            verdict.check("submits_of_a_session_keep_their_order", in_order, || {
                format!("{} in room {} is {}, after {before:?}", attempt.op, attempt.room, at.seq)
            });
        }
    }
}

fn is_passing(error: &str) -> bool {
    ["\"unavailable\"", "\"overloaded\"", "\"shard_unavailable\""].iter().any(|code| error.contains(code))
}
