//! Rate limits: per session, per user, per address. 0 means no limit.
//!
//! A limit answers at once and never queues: over it, the caller gets
//! `rate_limited` with the time after which another try makes sense. Memory is
//! bounded: a key is forgotten once its budget is full again, and no gate holds
//! more than [`MAX_KEYS`]. Counts are this node's own, but for guesses of
//! passwords and the submits of a user, which a [`Tally`] adds up over the nodes.
//! No SQL, no Redis.

mod connections;
mod failures;
mod gate;
mod open;
mod tally;
mod traffic;
mod tries;

use std::fmt::Display;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config;
use crate::ids::{RoomId, UserId};
use crate::protocol::Refusal;
use crate::tasks::Tasks;
use failures::Failures;
use gate::{Gate, SoleGate};
use open::OpenSessions;
use tally::{Counted, HOUR, MINUTE, SharedCounts};
use tries::Tries;

pub use connections::{ConnectionPlace, Connections};
pub use failures::{Attempt, Guess};
pub use gate::MAX_KEYS;
pub use open::SessionSlot;
pub use tally::{Tallied, Tally};
pub use traffic::{Flood, Traffic};

/// Cheap to clone.
#[derive(Clone)]
pub struct Limits {
    gates: Arc<ArcSwap<Gates>>,
    open: OpenSessions,
    shared: Option<SharedCounts>,
}

struct Gates {
    configured: config::Limits,
    handshakes: Arc<Gate>,
    sign_ups: Arc<Gate>,
    sign_ins: Arc<Failures>,
    resets_by_address: Arc<Gate>,
    resets_by_account: Arc<Gate>,
    room_keys: Arc<Gate>,
    guesses_of_room: Arc<Tries>,
    guesses_from_address: Arc<Tries>,
    room_passwords: Arc<Gate>,
    user_submits: Arc<Gate>,
    writes_by_user: Arc<Gate>,
    writes_by_address: Arc<Gate>,
    user_messages: Arc<Gate>,
    user_bytes: Arc<Gate>,
    user_imports: Arc<Gate>,
    user_signals: Arc<Gate>,
}

/// What one session may do. Not shared: it belongs to its reader.
pub struct SessionLimits {
    gates: Arc<ArcSwap<Gates>>,
    /// Those that the session's own were made for.
    seen: Arc<Gates>,
    submits: SoleGate,
    signals: SoleGate,
    joins: SoleGate,
    _slot: SessionSlot,
}

impl Limits {
    pub fn new(configured: &config::Limits) -> Self {
        let gates = Arc::new(ArcSwap::from_pointee(Gates::new(configured, None)));
        Self { gates, open: OpenSessions::default(), shared: None }
    }

    /// Guesses of passwords and the submits of a user are counted by `tally` over
    /// all nodes.
    pub fn tallied_by(self, tally: Arc<dyn Tally>, tasks: &Tasks) -> Self {
        Self { shared: Some(SharedCounts::new(tally, tasks)), ..self }
    }

    /// From now on, also for sessions that are open. A limit that changed begins
    /// anew with its whole budget; the others go on with what is left of theirs.
    pub fn reload(&self, configured: &config::Limits) {
        let gates = self.gates.load();
        if gates.configured != *configured {
            self.gates.store(Arc::new(Gates::new(configured, Some(&gates))));
        }
    }

    /// The numbers behind the gates, for `welcome.limits`.
    pub fn configured(&self) -> config::Limits {
        self.gates.load().configured.clone()
    }

    /// Of the largest frame a client may send; 0: of any.
    pub fn frame_bytes(&self) -> usize {
        self.gates.load().configured.frame_bytes
    }

    /// Takes one of the user's `sessions_per_user`; given back on drop.
    pub fn open_session(&self, user: &UserId) -> Result<SessionLimits, Refusal> {
        let seen = self.gates.load_full();
        let configured = &seen.configured;
        let slot = self.open.enter(user, configured.sessions_per_user)?;
        Ok(SessionLimits {
            gates: self.gates.clone(),
            submits: submits(configured),
            signals: signals(configured),
            joins: joins(configured),
            seen,
            _slot: slot,
        })
    }

    /// All sessions and requests of a user together. All `count` or none.
    pub async fn user_submits(&self, user: &UserId, count: NonZeroU32) -> Result<(), Refusal> {
        let gates = self.gates.load_full();
        let most = gates.configured.user_submits_per_minute;
        gates.user_submits.pass(user.as_str(), count)?;
        let parts = ["submits", user.as_str()];
        let (what, count) = (SUBMITS, count.get());
        self.count(Counted { what, parts: &parts, count, most, window: MINUTE, eager: true }).await
    }

    /// Its lines count as submits besides.
    pub async fn user_import(&self, user: &UserId) -> Result<(), Refusal> {
        let gates = self.gates.load_full();
        let most = gates.configured.user_imports_per_hour;
        gates.user_imports.pass(user.as_str(), ONE)?;
        let parts = ["imports", user.as_str()];
        let (what, count) = (IMPORTS, 1);
        self.count(Counted { what, parts: &parts, count, most, window: HOUR, eager: false }).await
    }

    /// The bytes that a signal of the user becomes, each for each member of its room.
    pub fn user_signal(&self, user: &UserId, bytes: usize) -> Result<(), Refusal> {
        let Some(bytes) = traffic::at_most_u32(bytes) else { return Ok(()) };
        self.gates.load().user_signals.pass_most(user.as_str(), bytes)
    }

    /// The bytes in a second that the signals of one room may become on this node; 0
    /// is no limit.
    pub fn room_signal_bytes(&self) -> u32 {
        self.gates.load().configured.room_signal_bytes_per_second
    }

    pub fn handshake(&self, from: IpAddr) -> Result<(), Refusal> {
        self.gates.load().handshakes.pass(network(from), ONE)
    }

    pub fn sign_up(&self, from: IpAddr) -> Result<(), Refusal> {
        self.gates.load().sign_ups.pass(network(from), ONE)
    }

    /// A sign-in, before its password is checked. Only failures are counted.
    pub async fn sign_in(&self, guess: Guess<'_>) -> Result<Attempt, Refusal> {
        let failures = self.gates.load().sign_ins.clone();
        Box::pin(failures.begin(guess, self.shared.clone())).await
    }

    /// A request for a mail that resets a password.
    pub fn reset_of_address(&self, from: IpAddr) -> Result<(), Refusal> {
        self.gates.load().resets_by_address.pass(network(from), ONE)
    }

    /// Such a mail to an account, whether or not the account exists.
    pub async fn reset_of_account(&self, email: &str) -> Result<(), Refusal> {
        let gates = self.gates.load_full();
        let (most, email) = (gates.configured.resets_per_hour, email.to_lowercase());
        gates.resets_by_account.pass(&email, ONE)?;
        let parts = ["reset", &email];
        self.count(Counted { what: RESETS, parts: &parts, count: 1, most, window: HOUR, eager: false }).await
    }

    /// An HTTP request of a user that may change something.
    pub fn user_write(&self, user: &UserId) -> Result<(), Refusal> {
        self.gates.load().writes_by_user.pass(user.as_str(), ONE)
    }

    /// The same without a token.
    pub fn address_write(&self, from: IpAddr) -> Result<(), Refusal> {
        self.gates.load().writes_by_address.pass(network(from), ONE)
    }

    /// A hash of a room's password, which the user sets or tries, or of the user's own.
    pub fn room_password(&self, user: &UserId) -> Result<(), Refusal> {
        self.gates.load().room_passwords.pass(user.as_str(), ONE)
    }

    /// Guesses of a room's password and of its invites, limited like sign-ins.
    pub async fn room_key(&self, user: &UserId, room: RoomId) -> Result<(), Refusal> {
        let gates = self.gates.load_full();
        let most = gates.configured.signins_per_minute;
        gates.room_keys.pass((user.as_str(), room), ONE)?;
        let parts = ["room", user.as_str(), &room.to_string()];
        self.guess(GUESSES, &parts, most).await
    }

    /// A guess of a room's password by any user, and by the users of an address. Charged
    /// before its hash; [`Limits::guessed`] gives back a right one, so that a room is open
    /// to any number of people who know its password. A limited address charges no room.
    pub async fn room_guess(&self, room: RoomId, from: Option<IpAddr>) -> Result<(), Refusal> {
        let gates = self.gates.load_full();
        let most = gates.configured.room_guesses_per_minute;
        let from = from.map(network);
        if let Some(from) = from {
            gates.guesses_from_address.pass(from).await?;
            self.guess(GUESSES, &["guesses from", &from.to_string()], most).await?;
        }
        let passed = match gates.guesses_of_room.pass(room).await {
            Ok(()) => self.guess(GUESSES, &["guesses of", &room.to_string()], most).await,
            refused => refused,
        };
        if let (Err(_), Some(from)) = (&passed, from) {
            self.give_back_guess(&gates.guesses_from_address, from, "guesses from").await;
        }
        passed
    }

    /// The guess was right.
    pub async fn guessed(&self, room: RoomId, from: Option<IpAddr>) {
        let gates = self.gates.load_full();
        self.give_back_guess(&gates.guesses_of_room, room, "guesses of").await;
        if let Some(from) = from.map(network) {
            self.give_back_guess(&gates.guesses_from_address, from, "guesses from").await;
        }
    }

    async fn give_back_guess<K: Hash + Display>(&self, tries: &Tries, key: K, of: &str) {
        let text = key.to_string();
        tries.give_back(key).await;
        if let Some(shared) = &self.shared {
            Box::pin(shared.give_back(&[of, &text], MINUTE)).await;
        }
    }

    async fn guess(&self, what: &'static str, parts: &[&str], most: u32) -> Result<(), Refusal> {
        self.count(Counted { what, parts, count: 1, most, window: MINUTE, eager: false }).await
    }

    async fn count(&self, counted: Counted<'_>) -> Result<(), Refusal> {
        match &self.shared {
            Some(shared) => Box::pin(shared.pass(counted)).await,
            None => Ok(()),
        }
    }
}

impl Gates {
    /// A limit that is the same as before goes on with what is left of its budgets:
    /// nobody gets one back because another limit changed.
    fn new(configured: &config::Limits, before: Option<&Self>) -> Self {
        let kept = |gate: Gate, of: fn(&Self) -> &Arc<Gate>| match before {
            Some(before) => gate.after(of(before)),
            None => Arc::new(gate),
        };
        let tries = |of: fn(&Self) -> &Arc<Tries>| {
            let tries = Tries::new(GUESSES, configured.room_guesses_per_minute);
            match before {
                Some(before) => tries.after(of(before)),
                None => Arc::new(tries),
            }
        };
        let minute = Gate::per_minute;
        let of_user = |what, rate: u32| Gate::per_second(what, rate, rate.saturating_mul(USER_BURST_SECONDS));
        let c = configured;
        let resets_of_address = c.resets_per_hour.saturating_mul(RESETS_OF_ADDRESS);
        let writes_of_address = c.writes_per_minute.saturating_mul(WRITES_OF_ADDRESS);
        Self {
            handshakes: kept(minute("handshakes", c.handshakes_per_minute), |g| &g.handshakes),
            sign_ups: kept(minute("sign-ups", c.signups_per_minute), |g| &g.sign_ups),
            sign_ins: match before {
                Some(before) => Failures::new(c.signins_per_minute).after(&before.sign_ins),
                None => Arc::new(Failures::new(c.signins_per_minute)),
            },
            resets_by_address: kept(Gate::per_hour(RESETS, resets_of_address), |g| &g.resets_by_address),
            resets_by_account: kept(Gate::per_hour(RESETS, c.resets_per_hour), |g| &g.resets_by_account),
            room_keys: kept(minute(GUESSES, c.signins_per_minute), |g| &g.room_keys),
            room_passwords: kept(minute(ROOM_PASSWORDS, c.room_passwords_per_minute), |g| &g.room_passwords),
            guesses_of_room: tries(|g| &g.guesses_of_room),
            guesses_from_address: tries(|g| &g.guesses_from_address),
            user_submits: kept(minute(SUBMITS, c.user_submits_per_minute), |g| &g.user_submits),
            user_imports: kept(Gate::per_hour(IMPORTS, c.user_imports_per_hour), |g| &g.user_imports),
            writes_by_user: kept(minute(WRITES, c.writes_per_minute), |g| &g.writes_by_user),
            writes_by_address: kept(minute(WRITES, writes_of_address), |g| &g.writes_by_address),
            user_messages: kept(of_user("messages", c.user_messages_per_second), |g| &g.user_messages),
            user_bytes: kept(of_user("bytes", c.user_bytes_per_second), |g| &g.user_bytes),
            user_signals: kept(Gate::per_second(SIGNALS, c.user_signal_bytes_per_second, 0), |g| {
                &g.user_signals
            }),
            configured: configured.clone(),
        }
    }
}

impl SessionLimits {
    pub fn submit(&mut self) -> Result<(), Refusal> {
        self.follow();
        self.submits.pass()
    }

    pub fn signal(&mut self) -> Result<(), Refusal> {
        self.follow();
        self.signals.pass()
    }

    pub fn join(&mut self) -> Result<(), Refusal> {
        self.follow();
        self.joins.pass()
    }

    /// To what is configured by now.
    fn follow(&mut self) {
        let now = self.gates.load();
        if Arc::ptr_eq(&now, &self.seen) {
            return;
        }
        self.submits.follow(submits(&now.configured));
        self.signals.follow(signals(&now.configured));
        self.joins.follow(joins(&now.configured));
        self.seen = now.clone();
    }
}

fn submits(configured: &config::Limits) -> SoleGate {
    SoleGate::per_second(SUBMITS, configured.submits_per_second, configured.submit_burst)
}

fn signals(configured: &config::Limits) -> SoleGate {
    SoleGate::per_second(SIGNALS, configured.signals_per_second, configured.signals_per_second)
}

fn joins(configured: &config::Limits) -> SoleGate {
    SoleGate::per_second("joins", configured.joins_per_second, configured.join_burst)
}

const ONE: NonZeroU32 = NonZeroU32::MIN;

const SUBMITS: &str = "submits";
const SIGNALS: &str = "signals";
const IMPORTS: &str = "imports";
const WRITES: &str = "requests that change something";
/// People behind one address sign in, refresh and sign out without a token.
const WRITES_OF_ADDRESS: u32 = 10;
/// The seconds of a user's traffic that may come at once: all tabs reconnect.
const USER_BURST_SECONDS: u32 = 4;
const RESETS: &str = "resets of passwords";
/// Several people behind one address may have forgotten their passwords.
const RESETS_OF_ADDRESS: u32 = 10;
const ROOM_PASSWORDS: &str = "passwords of rooms";
const GUESSES: &str = "attempts to get in";

/// Whoever has one IPv6 address has 2^64 of them: they count as one.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
