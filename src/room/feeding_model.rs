//! A room, its log and its sessions, without I/O: what commits, arrives, gets
//! lost, lags, is cut off by a failover and comes back is drawn from a seed.

use std::collections::HashMap;

use rand::{Rng, RngExt};

use super::super::deliver::{Delivery, Need};
use super::{Feeding, Follows, follows};
use crate::position::{Epoch, Position, Seq};
use crate::protocol::Json;
use crate::store::history::LogEvent;

const STEPS: usize = 80;
const SESSIONS: usize = 4;
/// Small, so that memory is outrun and holes are many.
const HELD: usize = 4;
const RECENT: usize = 5;
const PAGE: usize = 3;

/// Panics when a session sees anything else.
pub fn run(random: impl Rng) {
    let mut world = World::new(random);
    for _ in 0..STEPS {
        world.step();
    }
    world.heal();
}

struct Session {
    feeding: Feeding,
    position: Position,
}

struct World<R> {
    rng: R,
    /// The epochs of the primary's log; its replica has the first few.
    log: Vec<u64>,
    replica: usize,
    epoch: u64,
    /// For every event that was ever committed, the epoch of the one before it.
    before: HashMap<(u64, u64), u64>,
    /// Announced, and perhaps never to arrive.
    flying: Vec<Position>,
    room: Delivery,
    sessions: Vec<Session>,
}

impl<R: Rng> World<R> {
    fn new(rng: R) -> Self {
        let start = Position::BEGINNING;
        let session = |_| Session { feeding: Feeding::CatchingUp, position: start };
        Self {
            rng,
            log: Vec::new(),
            replica: 0,
            epoch: 1,
            before: HashMap::new(),
            flying: Vec::new(),
            room: Delivery::new(start, Epoch(1), HELD, RECENT),
            sessions: (0..SESSIONS).map(session).collect(),
        }
    }

    fn step(&mut self) {
        let session = self.rng.random_range(0..SESSIONS);
        match self.rng.random_range(0..100) {
            0..30 => self.commit(),
            30..55 => self.arrive(),
            55..60 => drop(self.flying.pop()),
            60..68 => self.replica = self.rng.random_range(self.replica..=self.log.len()),
            68..74 => self.repair(false),
            74..80 => self.repair(true),
            80..94 => self.feed(session),
            94..97 => self.come_back(session),
            97..98 => self.join(session),
            _ => self.fail_over(),
        }
    }

    fn commit(&mut self) {
        let seq = self.log.len() as u64 + 1;
        self.before.insert((self.epoch, seq), self.epoch_at(seq - 1));
        self.log.push(self.epoch);
        self.flying.push(Position::new(Epoch(self.epoch), Seq(seq)));
    }

    /// Announcements come in any order, and some twice.
    fn arrive(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.flying.len());
        let position =
            if self.rng.random_bool(0.1) { self.flying[index] } else { self.flying.swap_remove(index) };
        let (ready, need) = self.room.offer([event(position)]);
        self.deliver(&ready);
        match need {
            Need::Check => self.repair(true),
            Need::Hole | Need::Nothing => {}
        }
    }

    /// The room reads the log after what it has delivered: the replica's, which
    /// can't tell a lost position from one to come, or the primary's.
    fn repair(&mut self, primary: bool) {
        let known = if primary { self.log.len() } else { self.replica };
        let delivered = self.room.delivered();
        if delivered.seq.0 > known as u64 || !self.has(delivered) {
            if primary {
                self.restart();
            }
            return;
        }
        let page = self.page(delivered, known);
        let ready = self.room.offer_from_log(page);
        self.deliver(&ready);
    }

    /// What was delivered is not in the log any more, nor what live sessions have.
    fn restart(&mut self) {
        self.room.restart(self.head(), Epoch(self.epoch));
        for index in 0..SESSIONS {
            if self.sessions[index].feeding == Feeding::Live {
                self.resync(index);
            }
        }
    }

    fn resync(&mut self, index: usize) {
        let position = self.sessions[index].position;
        assert!(!self.has(position), "{position} is in the log and was resynced");
        self.sessions[index] = Session { feeding: Feeding::CatchingUp, position: self.head() };
    }

    /// To live sessions; some have no room in their outbox.
    fn deliver(&mut self, ready: &[LogEvent]) {
        for index in 0..SESSIONS {
            if self.sessions[index].feeding != Feeding::Live || ready.is_empty() {
                continue;
            }
            if self.rng.random_bool(0.15) {
                self.sessions[index].feeding = Feeding::CatchingUp;
            } else {
                self.see(index, ready);
            }
        }
    }

    /// A session that catches up goes one step further.
    fn feed(&mut self, index: usize) {
        if self.sessions[index].feeding != Feeding::CatchingUp {
            return;
        }
        let position = self.sessions[index].position;
        match follows(&self.room, position, PAGE * event(position).json.len()) {
            Follows::Nothing => self.sessions[index].feeding = Feeding::Live,
            Follows::Memory(events) => self.see(index, &events),
            Follows::Log { .. } | Follows::Ahead if !self.has(position) => self.resync(index),
            Follows::Log { .. } | Follows::Ahead => {
                let page = self.page(position, self.log.len());
                self.see(index, &page);
            }
        }
    }

    fn see(&mut self, index: usize, events: &[LogEvent]) {
        for event in events {
            let (at, had) = (event.position, self.sessions[index].position);
            let before = self.before.get(&(at.epoch.0, at.seq.0));
            assert!(before.is_some(), "{at} was never committed");
            assert_eq!(at.seq, had.seq.next(), "a hole, a repeat or a reordering");
            let same = had.seq == Seq::ZERO || before == Some(&had.epoch.0);
            assert!(same, "{at} follows another event than {had}");
            self.sessions[index].position = at;
        }
    }

    /// The client was away, and has all that it had.
    fn come_back(&mut self, index: usize) {
        self.sessions[index].feeding = Feeding::CatchingUp;
        if !self.has(self.sessions[index].position) {
            self.resync(index);
        }
    }

    /// A new client: a snapshot that is some time old.
    fn join(&mut self, index: usize) {
        let seq = self.rng.random_range(self.replica.saturating_sub(4)..=self.replica) as u64;
        let position = Position::new(Epoch(self.epoch_at(seq)), Seq(seq));
        let position = if seq == 0 { Position::BEGINNING } else { position };
        self.sessions[index] = Session { feeding: Feeding::CatchingUp, position };
    }

    /// The replica is promoted: what it hadn't received is gone.
    fn fail_over(&mut self) {
        if self.rng.random_bool(0.5) {
            self.replica = self.log.len();
        }
        self.log.truncate(self.replica);
        self.epoch += 1;
    }

    /// From now on nothing is lost: everybody must end with everything.
    fn heal(&mut self) {
        self.replica = self.log.len();
        for _ in 0..2 * self.log.len() + 8 {
            self.repair(true);
            (0..SESSIONS).for_each(|index| self.feed(index));
        }
        let head = self.head();
        assert_eq!(self.room.delivered(), head, "the room lacks events");
        for session in &self.sessions {
            assert_eq!(session.position, head, "a session lacks events");
            assert_eq!(session.feeding, Feeding::Live,);
        }
    }

    fn page(&self, after: Position, known: usize) -> Vec<LogEvent> {
        let next = after.seq.0 + 1..=known as u64;
        next.take(PAGE).map(|seq| event(Position::new(Epoch(self.epoch_at(seq)), Seq(seq)))).collect()
    }

    fn has(&self, position: Position) -> bool {
        position.seq == Seq::ZERO
            || (position.seq.0 <= self.log.len() as u64 && self.epoch_at(position.seq.0) == position.epoch.0)
    }

    fn head(&self) -> Position {
        let seq = self.log.len() as u64;
        if seq == 0 { Position::BEGINNING } else { Position::new(Epoch(self.epoch_at(seq)), Seq(seq)) }
    }

    fn epoch_at(&self, seq: u64) -> u64 {
        let index = usize::try_from(seq).ok().and_then(|seq| seq.checked_sub(1));
        index.map_or(0, |index| self.log[index])
    }
}

fn event(position: Position) -> LogEvent {
    LogEvent { position, json: Json::one("{}".to_owned()) }
}
