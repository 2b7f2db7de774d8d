//! Signals that wait for the room's tick. Pure.
//!
//! Of cursors and the like only the last value of each sender counts: what waits
//! is bounded by the senders, a burst costs one message, and nothing queues.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::SessionId;
use crate::protocol::Json;

/// How often a room tells signals while they keep coming.
const TICK: Duration = Duration::from_millis(33);

#[derive(Debug, Default)]
pub struct Signals {
    waiting: BTreeMap<SessionId, Waiting>,
    told_at: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    message: Json,
    local: bool,
}

/// What a tick tells.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    /// To the sessions here.
    pub all: Vec<(SessionId, Json)>,
    /// To the other nodes: what came from sessions here.
    pub local: Vec<(SessionId, Json)>,
}

impl Signals {
    /// Replaces what waits of this sender. Returns when it is to be told: at once
    /// after a quiet while, else with the next tick.
    pub fn put(&mut self, from: SessionId, message: Json, local: bool, now: Instant) -> Instant {
        self.waiting.insert(from, Waiting { message, local });
        self.told_at.map_or(now, |told_at| now.max(told_at + TICK))
    }

    /// The sender has left: nobody should see it move once more.
    pub fn forget(&mut self, from: &SessionId) {
        self.waiting.remove(from);
    }

    pub fn take(&mut self, now: Instant) -> Told {
        self.told_at = Some(now);
        let mut told = Told::default();
        for (from, Waiting { message, local }) in std::mem::take(&mut self.waiting) {
            if local {
                told.local.push((from.clone(), message.clone()));
            }
            told.all.push((from, message));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(name: &str) -> SessionId {
        SessionId::new(name).unwrap()
    }

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
        let told = signals.take(now);
        assert_eq!(told.all, [(session("ann"), json("99")), (session("bob"), json("99"))]);
        assert_eq!(told.local, [(session("ann"), json("99"))], "other nodes' are not told back to them");
        assert_eq!(signals.take(now), Told::default());
    }

    #[test]
    fn the_first_after_a_quiet_while_goes_at_once_and_the_rest_with_the_tick() {
        let (mut signals, start) = (Signals::default(), Instant::now());
        assert_eq!(signals.put(session("ann"), json("1"), true, start), start);
        signals.take(start);
        let soon = start + TICK / 3;
        assert_eq!(signals.put(session("ann"), json("2"), true, soon), start + TICK);
        assert_eq!(signals.put(session("bob"), json("2"), true, soon), start + TICK);
        signals.take(start + TICK);
        let later = start + 3 * TICK;
        assert_eq!(signals.put(session("ann"), json("3"), true, later), later);
    }

    #[test]
    fn a_sender_that_left_says_no_more() {
        let (mut signals, now) = (Signals::default(), Instant::now());
        signals.put(session("ann"), json("1"), true, now);
        signals.put(session("bob"), json("2"), true, now);
        signals.forget(&session("ann"));
        assert_eq!(signals.take(now).all, [(session("bob"), json("2"))]);
    }
}
