//! Signals that wait for the room's tick. Pure.
//!
//! Of cursors and the like only the last value of each sender counts: what waits
//! is bounded by the senders, a burst costs one message, and nothing queues. A budget
//! bounds the bytes of a tick, counted once for each receiver. The signals beyond it
//! wait for the next tick, where a newer value of their sender may replace them.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::SessionId;
use crate::protocol::Json;

/// How often a room tells signals while they keep coming.
const TICK: Duration = Duration::from_millis(33);

/// A quiet room may send the bytes of a second divided by this at once: enough for some
/// ticks, and no stall for the sessions of other rooms.
const BURSTS_PER_SECOND: u32 = 4;

#[derive(Debug, Default)]
pub struct Signals {
    waiting: BTreeMap<SessionId, Waiting>,
    told_at: Option<Instant>,
    budget: Budget,
    /// The last sender within the budget, while others wait: it is not their turn
    /// again before those.
    last: Option<SessionId>,
}

#[derive(Debug)]
struct Waiting {
    message: Json,
    local: bool,
    /// A tick had no bytes left for it.
    held: bool,
}

/// Bytes that may be sent. One message may exceed it, and delays the next.
#[derive(Debug, Default)]
struct Budget {
    /// Of a room that has sent signals.
    left: Option<f64>,
}

/// The budget of a room on this node, and its receivers there.
#[derive(Debug, Clone, Copy)]
pub struct Fanout {
    /// 0: no limit.
    pub bytes_per_second: u32,
    pub receivers: usize,
}

/// What a tick tells.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    /// To the sessions here.
    pub all: Vec<(SessionId, Json)>,
    /// To the other nodes: what came from sessions here.
    pub local: Vec<(SessionId, Json)>,
    /// Signals that this tick was the first to hold back.
    pub held: u64,
    /// When the next tick is due, if signals wait for it.
    pub next: Option<Instant>,
}

impl Signals {
    /// Replaces what waits of this sender. Returns when it is to be told: at once
    /// after a quiet while, else with the next tick.
    pub fn put(&mut self, from: SessionId, message: Json, local: bool, now: Instant) -> Instant {
        self.waiting.insert(from, Waiting { message, local, held: false });
        self.told_at.map_or(now, |told_at| now.max(told_at + TICK))
    }

    /// The sender has left: nobody should see it move once more.
    pub fn forget(&mut self, from: &SessionId) {
        self.waiting.remove(from);
    }

    pub fn take(&mut self, now: Instant, fanout: Fanout) -> Told {
        let since = self.told_at.map(|told_at| now.saturating_duration_since(told_at));
        self.budget.refill(fanout.bytes_per_second, since);
        self.told_at = Some(now);
        let mut told = Told::default();
        while fanout.bytes_per_second == 0 || self.budget.has_any() {
            let Some((from, Waiting { message, local, .. })) = self.pop() else { break };
            self.budget.spend(message.len().saturating_mul(fanout.receivers));
            if local {
                told.local.push((from.clone(), message.clone()));
            }
            told.all.push((from, message));
        }
        for waiting in self.waiting.values_mut().filter(|waiting| !waiting.held) {
            waiting.held = true;
            told.held += 1;
        }
        if self.waiting.is_empty() {
            self.last = None;
        } else {
            told.next = Some(now + TICK);
        }
        told
    }

    /// The signal of the next sender in turn.
    fn pop(&mut self) -> Option<(SessionId, Waiting)> {
        let after = self.last.as_ref().map_or(Unbounded, Excluded);
        let next = self.waiting.range::<SessionId, _>((after, Unbounded)).next();
        let from = next.or_else(|| self.waiting.first_key_value())?.0.clone();
        self.last = Some(from.clone());
        self.waiting.remove_entry(&from)
    }
}

impl Budget {
    /// `since`: the time since the last refill.
    fn refill(&mut self, bytes_per_second: u32, since: Option<Duration>) {
        let rate = f64::from(bytes_per_second);
        let most = rate / f64::from(BURSTS_PER_SECOND);
        let left = self.left.unwrap_or(most) + since.unwrap_or_default().as_secs_f64() * rate;
        self.left = Some(left.min(most));
    }

    fn has_any(&self) -> bool {
        self.left.is_some_and(|left| left > 0.0)
    }

    fn spend(&mut self, bytes: usize) {
        self.left = self.left.map(|left| left - bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(name: &str) -> SessionId {
        SessionId::new(name).unwrap()
    }

    const UNLIMITED: Fanout = Fanout { bytes_per_second: 0, receivers: 1 };

    fn json(text: &str) -> Json {
        Json::one(text.to_owned())
    }

    #[test]
    fn of_a_burst_only_the_last_value_of_each_sender_is_told() {
        let (mut signals, now) = (Signals::default(), Instant::now());
        for n in 0..100 {
            signals.put(session("ann"), json(&n.to_string()), true, now);
            signals.put(session("bob"), json(&n.to_string()), false, now);
        }
        let told = signals.take(now, UNLIMITED);
        assert_eq!(told.all, [(session("ann"), json("99")), (session("bob"), json("99"))]);
        assert_eq!(told.local, [(session("ann"), json("99"))], "other nodes' are not told back to them");
        assert_eq!(signals.take(now, UNLIMITED), Told::default());
    }

    #[test]
    fn the_first_after_a_quiet_while_goes_at_once_and_the_rest_with_the_tick() {
        let (mut signals, start) = (Signals::default(), Instant::now());
        assert_eq!(signals.put(session("ann"), json("1"), true, start), start);
        signals.take(start, UNLIMITED);
        let soon = start + TICK / 3;
        assert_eq!(signals.put(session("ann"), json("2"), true, soon), start + TICK);
        assert_eq!(signals.put(session("bob"), json("2"), true, soon), start + TICK);
        signals.take(start + TICK, UNLIMITED);
        let later = start + 3 * TICK;
        assert_eq!(signals.put(session("ann"), json("3"), true, later), later);
    }

    #[test]
    fn a_sender_that_left_says_no_more() {
        let (mut signals, now) = (Signals::default(), Instant::now());
        signals.put(session("ann"), json("1"), true, now);
        signals.put(session("bob"), json("2"), true, now);
        signals.forget(&session("ann"));
        assert_eq!(signals.take(now, UNLIMITED).all, [(session("bob"), json("2"))]);
    }

    /// Ten senders, each with a new value of ten bytes before every tick of ten
    /// seconds. Returns the bytes that were sent and the signals of each sender.
    fn crowd(bytes_per_second: u32, receivers: usize) -> (usize, Vec<usize>) {
        let (mut signals, start) = (Signals::default(), Instant::now());
        let (mut bytes, mut counts) = (0, vec![0; 10]);
        for tick in 0..303 {
            let now = start + TICK * tick;
            for sender in 0..10 {
                signals.put(session(&format!("s{sender}")), json("0123456789"), true, now);
            }
            let told = signals.take(now, Fanout { bytes_per_second, receivers });
            assert_eq!(told.local, told.all);
            assert_eq!(told.next.is_some(), told.all.len() < 10);
            assert_eq!(told.held as usize, 10 - told.all.len(), "each waits with a new value");
            for (from, message) in told.all {
                bytes += message.len() * receivers;
                counts[from.as_str()[1..].parse::<usize>().unwrap()] += 1;
            }
        }
        (bytes, counts)
    }

    #[test]
    fn a_crowd_is_held_to_the_bytes_and_its_senders_take_turns() {
        let (bytes, counts) = crowd(10_000, 100);
        assert!((90_000..=104_000).contains(&bytes), "{bytes} bytes in ten seconds");
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 1, "{counts:?}");
        for (bytes_per_second, receivers) in [(0, 100), (40_000, 10)] {
            assert_eq!(crowd(bytes_per_second, receivers).1, vec![303; 10], "within the budget");
        }
    }

    #[test]
    fn a_signal_larger_than_the_budget_is_sent_and_delays_the_next() {
        let (mut signals, start) = (Signals::default(), Instant::now());
        let fanout = Fanout { bytes_per_second: 100, receivers: 20 };
        let mut sent_at = Vec::new();
        for tick in 0..200 {
            let now = start + TICK * tick;
            signals.put(session("ann"), json("0123456789"), true, now);
            if !signals.take(now, fanout).all.is_empty() {
                sent_at.push(tick);
            }
        }
        assert_eq!(sent_at.len(), 4, "200 bytes every two seconds: {sent_at:?}");
    }

    #[test]
    fn a_held_signal_is_sent_later_once_with_its_last_value() {
        let (mut signals, start) = (Signals::default(), Instant::now());
        let fanout = Fanout { bytes_per_second: 100, receivers: 3 };
        signals.put(session("ann"), json("0123456789"), true, start);
        signals.put(session("bob"), json("0123456789"), true, start);
        let told = signals.take(start, fanout);
        assert_eq!((told.all.len(), told.held, told.next), (1, 1, Some(start + TICK)));
        signals.put(session("bob"), json("9876543210"), false, start);
        let (mut now, mut sent) = (start, Vec::new());
        for _ in 0..60 {
            now += TICK;
            sent.extend(signals.take(now, fanout).all);
        }
        assert_eq!(sent, [(session("bob"), json("9876543210"))]);
        assert_eq!(signals.take(now, fanout).next, None);
    }
}
