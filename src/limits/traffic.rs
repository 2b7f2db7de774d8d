//! The traffic of a session: its bytes and one message are charged before a frame is
//! parsed, the other messages before the first of them is handled.
//!
//! Over the budget the session is not read until the budget has refilled: waiting
//! costs the node nothing, while a refusal would have to be parsed for, written and
//! sent. TCP slows the client down meanwhile. A session that stays over its own
//! budget for [`ABUSE`] is closed. A session that waits for its user's other
//! sessions only waits.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, Sleep, sleep};

use super::gate::SoleGate;
use super::{Gates, Limits};
use crate::config;
use crate::ids::UserId;
use crate::protocol::Refusal;

/// A session over its budget for so long is closed.
const ABUSE: Duration = Duration::from_secs(10);
/// After so long without a wait a session is within its budget again.
const FORGIVEN: Duration = Duration::from_secs(1);

/// Of one session. Not shared: it belongs to the session's reader.
pub struct Traffic {
    gates: Arc<ArcSwap<Gates>>,
    /// The configuration behind `messages` and `bytes`.
    seen: Arc<Gates>,
    messages: SoleGate,
    bytes: SoleGate,
    over: Over,
}

/// When the session was over its own budget.
#[derive(Debug, Default, Clone, Copy)]
struct Over {
    since: Option<Instant>,
    until: Option<Instant>,
}

/// The session is over its budget for so long that it is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flood;

#[derive(Clone, Copy)]
enum Kind {
    Messages,
    Bytes,
}

impl Limits {
    /// For a session that begins.
    pub fn traffic(&self) -> Traffic {
        let seen = self.gates.load_full();
        Traffic {
            gates: self.gates.clone(),
            messages: messages(&seen.configured),
            bytes: bytes(&seen.configured),
            seen,
            over: Over::default(),
        }
    }

    /// A batch of submits over HTTP: its bytes, before it is parsed. Refused at once,
    /// since a request that waits holds its body.
    pub fn batch_bytes(&self, user: &UserId, bytes: usize) -> Result<(), Refusal> {
        self.charge_user(Kind::Bytes, user, bytes)
    }

    /// Its submits, before the first of them is handled.
    pub fn batch_messages(&self, user: &UserId, messages: usize) -> Result<(), Refusal> {
        self.charge_user(Kind::Messages, user, messages)
    }

    fn charge_user(&self, kind: Kind, user: &UserId, count: usize) -> Result<(), Refusal> {
        at_most_u32(count).map_or(Ok(()), |count| self.gates.load().traffic_of(kind, user, count))
    }
}

impl Gates {
    fn traffic_of(&self, kind: Kind, user: &UserId, count: NonZeroU32) -> Result<(), Refusal> {
        match kind {
            Kind::Messages => self.user_messages.pass_most(user.as_str(), count),
            Kind::Bytes => self.user_bytes.pass_most(user.as_str(), count),
        }
    }
}

impl Traffic {
    /// Returns once the bytes are paid for. Returns whether that took a wait.
    pub async fn bytes(&mut self, user: Option<&UserId>, count: usize) -> Result<bool, Flood> {
        self.charge(Kind::Bytes, user, count).await
    }

    /// Returns once the messages are paid for. Returns whether that took a wait.
    pub async fn messages(&mut self, user: Option<&UserId>, count: usize) -> Result<bool, Flood> {
        self.charge(Kind::Messages, user, count).await
    }

    async fn charge(&mut self, kind: Kind, user: Option<&UserId>, count: usize) -> Result<bool, Flood> {
        let Some(count) = at_most_u32(count) else { return Ok(false) };
        let mut has_waited = false;
        while let Err(refusal) = self.own(kind, count) {
            has_waited = true;
            self.over.begins(Instant::now());
            wait(&refusal).await;
            self.over.ends(Instant::now())?;
        }
        self.over.forgive(Instant::now());
        let Some(user) = user else { return Ok(has_waited) };
        while let Err(refusal) = self.gates.load().traffic_of(kind, user, count) {
            has_waited = true;
            wait(&refusal).await;
        }
        Ok(has_waited)
    }

    fn own(&mut self, kind: Kind, count: NonZeroU32) -> Result<(), Refusal> {
        self.follow();
        match kind {
            Kind::Messages => self.messages.pass_n(count),
            Kind::Bytes => self.bytes.pass_n(count),
        }
    }

    /// Takes over a changed configuration.
    fn follow(&mut self) {
        let now = self.gates.load();
        if Arc::ptr_eq(&now, &self.seen) {
            return;
        }
        self.messages.follow(messages(&now.configured));
        self.bytes.follow(bytes(&now.configured));
        self.seen = now.clone();
    }
}

impl Over {
    fn begins(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    fn ends(&mut self, now: Instant) -> Result<(), Flood> {
        self.until = Some(now);
        if self.since.is_some_and(|since| now - since >= ABUSE) { Err(Flood) } else { Ok(()) }
    }

    fn forgive(&mut self, now: Instant) {
        if self.until.is_some_and(|until| now - until >= FORGIVEN) {
            *self = Self::default();
        }
    }
}

/// `None`: nothing to charge.
pub(super) fn at_most_u32(count: usize) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Boxed: waits are rare, and the tasks of sessions are many.
fn wait(refusal: &Refusal) -> Pin<Box<Sleep>> {
    Box::pin(sleep(Duration::from_millis(refusal.retry_after_ms.unwrap_or(1))))
}

fn messages(configured: &config::Limits) -> SoleGate {
    SoleGate::per_second("messages", configured.messages_per_second, configured.message_burst)
}

fn bytes(configured: &config::Limits) -> SoleGate {
    SoleGate::per_second("bytes", configured.bytes_per_second, configured.byte_burst)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Whether a session that is over its budget in some of the seconds is closed.
    fn is_closed(over_in: impl Fn(u64) -> bool) -> bool {
        let (start, mut over) = (Instant::now(), Over::default());
        for second in 0..60 {
            let now = start + SECOND * second;
            over.forgive(now);
            if over_in(u64::from(second)) {
                over.begins(now);
                if over.ends(now + SECOND / 2).is_err() {
                    return true;
                }
            }
        }
        false
    }

    #[test]
    fn only_a_session_that_stays_over_its_budget_is_closed() {
        assert!(is_closed(|_| true));
        assert!(!is_closed(|second| second < 9));
        assert!(!is_closed(|second| second % 9 > 1), "a pause of two seconds is forgiven");
    }
}
