//! Rate limits: per session, per user, per address. 0 means no limit.
//!
//! A limit answers at once and never queues: over it, the caller gets
//! `rate_limited` with the time after which another try makes sense. Memory is
//! bounded: a key is forgotten once its budget is full again, and no gate holds
//! more than [`MAX_KEYS`]. Counts are this node's own, but for guesses of
//! passwords, which a [`Tally`] adds up over the nodes. No SQL, no Redis.

mod gate;
mod open;
mod tally;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config;
use crate::ids::{RoomId, UserId};
use crate::protocol::Refusal;
use gate::{Gate, SoleGate};
use open::OpenSessions;

pub use gate::MAX_KEYS;
pub use open::SessionSlot;
pub use tally::{Tallied, Tally};

/// Cheap to clone.
#[derive(Clone)]
pub struct Limits {
    gates: Arc<ArcSwap<Gates>>,
    open: OpenSessions,
    tally: Option<Arc<dyn Tally>>,
}

struct Gates {
    configured: config::Limits,
    handshakes: Gate,
    sign_ups: Gate,
    sign_ins_by_address: Gate,
    sign_ins_by_account: Gate,
    room_keys: Gate,
    user_submits: Gate,
}

/// What one session may do. Not shared: it belongs to its reader.
pub struct SessionLimits {
    submits: SoleGate,
    signals: SoleGate,
    joins: SoleGate,
    _slot: SessionSlot,
}

impl Limits {
    pub fn new(configured: &config::Limits) -> Self {
        let gates = Arc::new(ArcSwap::from_pointee(Gates::new(configured)));
        Self { gates, open: OpenSessions::default(), tally: None }
    }

    /// Guesses of passwords are counted by `tally` over all nodes.
    pub fn tallied_by(self, tally: Arc<dyn Tally>) -> Self {
        Self { tally: Some(tally), ..self }
    }

    /// From now on; sessions that are open keep what they have.
    pub fn reload(&self, configured: &config::Limits) {
        if self.gates.load().configured != *configured {
            self.gates.store(Arc::new(Gates::new(configured)));
        }
    }

    /// The numbers behind the gates, for `welcome.limits`.
    pub fn configured(&self) -> config::Limits {
        self.gates.load().configured.clone()
    }

    /// Takes one of the user's `sessions_per_user`; given back on drop.
    pub fn open_session(&self, user: &UserId) -> Result<SessionLimits, Refusal> {
        let gates = self.gates.load();
        let configured = &gates.configured;
        let slot = self.open.enter(user, configured.sessions_per_user)?;
        let submits = SoleGate::per_second("submits", configured.submits_per_second, configured.submit_burst);
        let signals =
            SoleGate::per_second("signals", configured.signals_per_second, configured.signals_per_second);
        let joins = SoleGate::per_second("joins", configured.joins_per_second, configured.join_burst);
        Ok(SessionLimits { submits, signals, joins, _slot: slot })
    }

    /// All sessions and requests of a user together.
    pub fn user_submits(&self, user: &UserId, count: NonZeroU32) -> Result<(), Refusal> {
        self.gates.load().user_submits.pass(user.as_str(), count)
    }

    pub fn handshake(&self, from: IpAddr) -> Result<(), Refusal> {
        self.gates.load().handshakes.pass(network(from), ONE)
    }

    pub fn sign_up(&self, from: IpAddr) -> Result<(), Refusal> {
        self.gates.load().sign_ups.pass(network(from), ONE)
    }

    /// By address, then by account, whether or not the account exists.
    pub async fn sign_in(&self, from: IpAddr, email: &str) -> Result<(), Refusal> {
        let (gates, tally) = (self.gates.load_full(), self.tally.as_deref());
        let (network, email) = (network(from), email.to_lowercase());
        let most = gates.configured.signins_per_minute;
        gates.sign_ins_by_address.pass(network, ONE)?;
        tally::pass(tally, SIGN_INS, &["address", &network.to_string()], most).await?;
        gates.sign_ins_by_account.pass(&email, ONE)?;
        tally::pass(tally, SIGN_INS, &["account", &email], most).await
    }

    /// Guesses of a room's password and of its invites, limited like sign-ins.
    pub async fn room_key(&self, user: &UserId, room: RoomId) -> Result<(), Refusal> {
        let gates = self.gates.load_full();
        let most = gates.configured.signins_per_minute;
        gates.room_keys.pass((user.as_str(), room), ONE)?;
        let parts = ["room", user.as_str(), &room.to_string()];
        tally::pass(self.tally.as_deref(), GUESSES, &parts, most).await
    }
}

impl Gates {
    fn new(configured: &config::Limits) -> Self {
        let sign_ins = configured.signins_per_minute;
        Self {
            handshakes: Gate::per_minute("handshakes", configured.handshakes_per_minute),
            sign_ups: Gate::per_minute("sign-ups", configured.signups_per_minute),
            sign_ins_by_address: Gate::per_minute(SIGN_INS, sign_ins),
            sign_ins_by_account: Gate::per_minute(SIGN_INS, sign_ins),
            room_keys: Gate::per_minute(GUESSES, sign_ins),
            user_submits: Gate::per_minute("submits", configured.user_submits_per_minute),
            configured: configured.clone(),
        }
    }
}

impl SessionLimits {
    pub fn submit(&self) -> Result<(), Refusal> {
        self.submits.pass()
    }

    pub fn signal(&self) -> Result<(), Refusal> {
        self.signals.pass()
    }

    pub fn join(&self) -> Result<(), Refusal> {
        self.joins.pass()
    }
}

const ONE: NonZeroU32 = NonZeroU32::MIN;

const SIGN_INS: &str = "sign-ins";
const GUESSES: &str = "attempts to get in";

/// Whoever has one IPv6 address has 2^64 of them: they count as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Code;

    fn limits(change: impl FnOnce(&mut config::Limits)) -> Limits {
        let mut configured = config::Limits::default();
        change(&mut configured);
        Limits::new(&configured)
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn assert_limited(answer: Result<(), Refusal>) {
        let refusal = answer.unwrap_err();
        assert_eq!(refusal.code, Code::RateLimited);
        assert!(refusal.retry_after_ms.is_some_and(|ms| ms > 0));
    }

    #[test]
    fn a_session_has_its_burst_and_then_its_rate() {
        let limits = limits(|l| (l.submits_per_second, l.submit_burst) = (1, 5));
        let session = limits.open_session(&user("alice")).unwrap();
        for _ in 0..5 {
            session.submit().unwrap();
        }
        assert_limited(session.submit());
        session.signal().unwrap();
        limits.open_session(&user("alice")).unwrap().submit().unwrap();
    }

    #[tokio::test]
    async fn zero_means_no_limit() {
        let limits = limits(|l| {
            (l.submits_per_second, l.signals_per_second, l.sessions_per_user) = (0, 0, 0);
            (l.signins_per_minute, l.signups_per_minute, l.user_submits_per_minute) = (0, 0, 0);
        });
        let session = limits.open_session(&user("alice")).unwrap();
        for _ in 0..1000 {
            session.submit().unwrap();
            session.signal().unwrap();
            limits.sign_in(address("10.0.0.1"), "a@example.test").await.unwrap();
            limits.sign_up(address("10.0.0.1")).unwrap();
            limits.user_submits(&user("alice"), NonZeroU32::new(1000).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_closed_session_makes_room_for_another() {
        let limits = limits(|l| l.sessions_per_user = 2);
        let first = limits.open_session(&user("alice")).unwrap();
        let _second = limits.open_session(&user("alice")).unwrap();
        assert_limited(limits.open_session(&user("alice")).map(drop));
        assert!(limits.open_session(&user("bob")).is_ok());
        drop(first);
        assert!(limits.open_session(&user("alice")).is_ok());
    }

    #[tokio::test]
    async fn sign_ins_are_limited_by_address_and_by_account() {
        let limits = limits(|l| l.signins_per_minute = 3);
        for email in ["a@x.test", "b@x.test", "c@x.test"] {
            limits.sign_in(address("10.0.0.1"), email).await.unwrap();
        }
        assert_limited(limits.sign_in(address("10.0.0.1"), "d@x.test").await);
        for host in 2..4 {
            limits.sign_in(address(&format!("10.0.0.{host}")), "A@x.test").await.unwrap();
        }
        assert_limited(limits.sign_in(address("10.0.0.9"), "a@X.test").await);
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let limits = limits(|l| l.signups_per_minute = 1);
        limits.sign_up(address("2001:db8::1")).unwrap();
        assert_limited(limits.sign_up(address("2001:db8::2")));
        limits.sign_up(address("2001:db8:0:1::1")).unwrap();
        limits.sign_up(address("::ffff:10.0.0.1")).unwrap();
        assert_limited(limits.sign_up(address("10.0.0.1")));
    }

    #[test]
    fn a_batch_larger_than_the_budget_is_refused_whole() {
        let limits = limits(|l| l.user_submits_per_minute = 100);
        assert_limited(limits.user_submits(&user("alice"), NonZeroU32::new(101).unwrap()));
        limits.user_submits(&user("alice"), NonZeroU32::new(100).unwrap()).unwrap();
        assert_limited(limits.user_submits(&user("alice"), ONE));
    }

    #[test]
    fn a_reload_takes_effect_at_once() {
        let limits = limits(|l| l.signups_per_minute = 1);
        limits.sign_up(address("10.0.0.1")).unwrap();
        limits.reload(&config::Limits { signups_per_minute: 0, ..config::Limits::default() });
        limits.sign_up(address("10.0.0.1")).unwrap();
    }
}
