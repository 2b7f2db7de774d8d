//! A live client gets an event within 5 s of its commit, unless its node or the
//! room's shard is the one that suffers; and how long it really takes.

use std::collections::{BTreeMap, HashMap};

use super::{Logs, Verdict};
use crate::history::{Answer, Excuse, History, Micros, SECOND, Seen, What};

const PROMISED: Micros = 5 * SECOND;
/// What the recovery of an excused node or shard may take.
const RECOVERY: Micros = 5 * SECOND;

/// From a commit to each live client, and from a loss to being live again; in
/// order of time.
#[derive(Debug, Default)]
pub struct Delays {
    pub deliveries: Vec<(Micros, Micros)>,
    pub resumes: Vec<(Micros, Micros)>,
}

impl Delays {
    /// Those of a window, smallest first.
    pub fn within(delays: &[(Micros, Micros)], from: Micros, to: Micros) -> Vec<Micros> {
        let mut within: Vec<Micros> =
            delays.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, took)| *took).collect();
        within.sort_unstable();
        within
    }
}

pub fn check(history: &History, logs: &Logs, verdict: &mut Verdict) -> Delays {
    let known = first_known(history);
    let mut delays = Delays::default();
    for (number, diary) in history.diaries.iter().enumerate() {
        for connections in diary.connections.windows(2) {
            if let (Some(lost), Some(live)) = (connections[0].lost, connections[1].live) {
                delays.resumes.push((lost, live.saturating_sub(lost)));
            }
        }
        for (room, seen) in &diary.rooms {
            let seen_at = times(seen);
            for Span { from, to, connection, after } in live_spans(seen) {
                let excuses = Excuses {
                    history,
                    number,
                    node: &diary.connections[connection].node,
                    shard: logs[room].shard,
                };
                let in_span = known.get(room).into_iter().flatten();
                let in_span = in_span.filter(|(seq, at)| **seq > after && (from..to).contains(at));
                for (seq, committed) in in_span {
                    let arrived = seen_at.get(seq).copied();
                    if let Some(arrived) = arrived.filter(|at| *at < to) {
                        delays.deliveries.push((*committed, arrived.saturating_sub(*committed)));
                    }
                    let in_time = arrived.is_some_and(|at| at <= committed + PROMISED);
                    let left = to < committed + PROMISED;
                    verdict.check(
                        "events_arrive_within_5_s",
                        in_time || left || excuses.cover(*committed),
                        || {
                            format!(
                                "{} in room {room}: {seq}, committed at {committed} µs, came {arrived:?}",
                                diary.user
                            )
                        },
                    );
                }
            }
        }
    }
    delays.deliveries.sort_unstable();
    delays.resumes.sort_unstable();
    delays
}

/// When each event was first known to be committed, by room and seq.
fn first_known(history: &History) -> BTreeMap<u64, BTreeMap<u64, Micros>> {
    let mut known: BTreeMap<u64, BTreeMap<u64, Micros>> = BTreeMap::new();
    let mut note = |room: u64, seq: u64, at: Micros| {
        let entry = known.entry(room).or_default().entry(seq).or_insert(at);
        *entry = at.min(*entry);
    };
    for diary in &history.diaries {
        for attempt in &diary.attempts {
            if let Some((at, Answer::Ack { at: position, duplicate: false })) = &attempt.answer {
                note(attempt.room, position.seq, *at);
            }
        }
        for (room, seen) in &diary.rooms {
            for seen in seen {
                if let What::Event { at, .. } = &seen.what {
                    note(*room, at.seq, seen.at);
                }
            }
        }
    }
    known
}

fn times(seen: &[Seen]) -> HashMap<u64, Micros> {
    let mut times = HashMap::new();
    for seen in seen {
        if let What::Event { at, .. } = &seen.what {
            times.entry(at.seq).or_insert(seen.at);
        }
    }
    times
}

/// A stretch of being live in a room.
struct Span {
    from: Micros,
    to: Micros,
    connection: usize,
    /// What it had when it became live.
    after: u64,
}

fn live_spans(seen: &[Seen]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut live: Option<(Micros, u64)> = None;
    let mut position = 0;
    for entry in seen {
        match &entry.what {
            What::Live => live = live.or(Some((entry.at, position))),
            What::Resync { .. } | What::Joined { .. } | What::Lost => {
                let (to, connection) = (entry.at, entry.connection);
                spans.extend(live.take().map(|(from, after)| Span { from, to, connection, after }));
            }
            What::Snapshot { at, .. } | What::Event { at, .. } => position = at.seq,
            What::Page { .. } => {}
        }
    }
    if let (Some((from, after)), Some(last)) = (live, seen.last()) {
        spans.push(Span { from, to: Micros::MAX, connection: last.connection, after });
    }
    spans
}

struct Excuses<'a> {
    history: &'a History,
    number: usize,
    node: &'a str,
    shard: usize,
}

impl Excuses<'_> {
    fn cover(&self, at: Micros) -> bool {
        self.history.played.iter().any(|played| {
            let meant = played.excuses.iter().any(|excuse| match excuse {
                Excuse::Node(name) => name == self.node,
                Excuse::Shard(shard) => *shard == self.shard,
                Excuse::Client(number) => *number == self.number,
            });
            meant && at + PROMISED >= played.began && at <= played.healed + RECOVERY
        })
    }
}
