//! The clients and readers of a run: started, told what to do, and asked for
//! their diaries at the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::client::Client;
use crate::cluster::World;
use crate::draw;
use crate::history::{Clock, Diary, Events, Failover, Position, Read};
use crate::plan::{Plan, Reading};
use crate::reader;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Draw,
    /// Only what was begun is finished.
    Settle,
    Stop,
}

/// What all of a run share.
pub struct Shared {
    pub clock: Clock,
    pub events: Events,
    pub phase: watch::Receiver<Phase>,
    /// Pause between two submits of a client, on average.
    pub pause: Duration,
    /// How long a client stays connected, on average.
    pub stay: Duration,
    /// Submits of one client without an answer, at most.
    pub in_flight: usize,
    /// Everybody draws as fast as that allows.
    pub rush: AtomicBool,
    /// What is drawn; made up if there is nothing.
    pub shapes: Vec<Value>,
    /// The highest position that was acked, by room.
    pub acked: Mutex<BTreeMap<u64, Position>>,
    pub reading: Reading,
    pub reads: AtomicUsize,
    pub goodbyes: AtomicUsize,
    /// How far a client was behind that had stopped reading, if that was far.
    pub events_behind: AtomicU64,
}

impl Shared {
    pub fn is(&self, phase: Phase) -> bool {
        *self.phase.borrow() == phase
    }

    pub fn acked(&self, room: u64) -> Option<Position> {
        self.acked.lock().expect("nobody panics with it").get(&room).copied()
    }

    pub fn forget_ack(&self, room: u64) {
        self.acked.lock().expect("nobody panics with it").remove(&room);
    }

    pub fn note_ack(&self, room: u64, at: Position) {
        let mut acked = self.acked.lock().expect("nobody panics with it");
        let known = acked.entry(room).or_insert(at);
        if at.seq > known.seq {
            *known = at;
        }
    }
}

/// How far one client is.
#[derive(Default)]
pub struct Status {
    pub reading: AtomicBool,
    pub pending: AtomicUsize,
    pub node: Mutex<String>,
    /// The last event it has, by room; none while it is not connected.
    pub at: Mutex<BTreeMap<u64, u64>>,
}

pub struct Load {
    pub shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    clients: JoinSet<(usize, Diary)>,
    readers: JoinSet<Vec<Read>>,
    statuses: Vec<Arc<Status>>,
    /// Written by the runner itself.
    pub written: Vec<Diary>,
    /// Of the fault that is being played.
    pub failover: Option<Failover>,
    rush_for: Duration,
    corner: Vec<usize>,
}

/// A rush that doesn't come that far ends all the same; the round is void then.
const RUSH_LIMIT: Duration = Duration::from_secs(3);
/// How many are in the corner room.
const CORNER: usize = 3;

impl Load {
    pub fn start(world: &World, plan: &Plan, clock: Clock) -> Result<Self, Failure> {
        let (phase, phases) = watch::channel(Phase::Draw);
        let shared = Arc::new(Shared {
            clock,
            events: Events::default(),
            phase: phases,
            pause: Duration::from_millis(plan.pause_ms),
            stay: Duration::from_millis(plan.stay_ms),
            in_flight: plan.in_flight,
            rush: AtomicBool::new(false),
            shapes: plan.shapes.as_deref().map(draw::read).transpose()?.unwrap_or_default(),
            acked: Mutex::default(),
            reading: plan.reading.clone(),
            reads: AtomicUsize::new(0),
            goodbyes: AtomicUsize::new(0),
            events_behind: AtomicU64::new(0),
        });
        let (mut clients, mut statuses) = (JoinSet::new(), Vec::new());
        for number in 0..plan.clients {
            let status = Arc::new(Status { reading: AtomicBool::new(true), ..Status::default() });
            let rooms = rooms_of(number, world);
            let client = Client::new(world, number, plan.seed, &rooms, shared.clone(), status.clone())?;
            clients.spawn(async move { (number, client.run().await) });
            statuses.push(status);
        }
        let mut readers = JoinSet::new();
        for number in 0..plan.reading.readers {
            let rooms: Vec<u64> = world.rooms.iter().map(|room| room.id).collect();
            let api = world.api(&format!("reader-{number}"))?;
            let seed = plan.seed.wrapping_add(1_000 + number as u64);
            readers.spawn(reader::run(api, rooms, seed, shared.clone()));
        }
        let corner = (0..CORNER.min(plan.clients)).collect();
        Ok(Self {
            shared,
            phase,
            clients,
            readers,
            statuses,
            written: Vec::new(),
            failover: None,
            rush_for: Duration::from_millis(plan.rush_ms),
            corner,
        })
    }

    /// The number of a client of the corner room.
    pub fn in_corner(&self, index: usize) -> usize {
        self.corner[index % self.corner.len()]
    }

    /// The numbers of all of them.
    pub fn corner(&self) -> impl Iterator<Item = usize> {
        self.corner.iter().copied()
    }

    /// The node it is, or was last, connected to.
    pub fn node_of(&self, client: usize) -> String {
        self.statuses[client].node.lock().expect("nobody panics with it").clone()
    }

    pub fn set_reading(&self, client: usize, reading: bool) {
        self.statuses[client].reading.store(reading, Ordering::Relaxed);
    }

    /// The last event of the room that the client has; none while it is away.
    pub fn seen(&self, client: usize, room: u64) -> Option<u64> {
        self.statuses[client].at.lock().expect("nobody panics with it").get(&room).copied()
    }

    /// If the plan wants it, everybody draws as fast as they can; comes back once
    /// they have for a while, in a moment when half of what may be in flight is.
    pub async fn begin_rush(&self) {
        if self.rush_for.is_zero() {
            return;
        }
        self.shared.rush.store(true, Ordering::Relaxed);
        sleep(self.rush_for).await;
        let until = Instant::now() + RUSH_LIMIT;
        while self.pending() < self.statuses.len() * self.shared.in_flight / 2 && Instant::now() < until {
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn pending(&self) -> usize {
        self.statuses.iter().map(|status| status.pending.load(Ordering::Relaxed)).sum()
    }

    pub fn end_rush(&self) {
        self.shared.rush.store(false, Ordering::Relaxed);
    }

    pub fn settle(&self) {
        self.phase.send_replace(Phase::Settle);
    }

    /// Who has not seen all yet, or waits for an answer.
    pub fn unsettled(&self, heads: &[(u64, u64)]) -> Vec<String> {
        let mut unsettled = Vec::new();
        for (number, status) in self.statuses.iter().enumerate() {
            let pending = status.pending.load(Ordering::Relaxed);
            if pending > 0 {
                unsettled.push(format!("client {number} waits for {pending} answers"));
            }
            let at = status.at.lock().expect("nobody panics with it");
            if at.is_empty() {
                unsettled.push(format!("client {number} is not connected"));
            }
            for (room, head) in heads {
                if let Some(seq) = at.get(room).filter(|seq| *seq != head) {
                    unsettled.push(format!("client {number} is at {seq} of {head} in room {room}"));
                }
            }
        }
        unsettled
    }

    pub async fn stop(mut self) -> (Vec<Diary>, Vec<Read>) {
        self.phase.send_replace(Phase::Stop);
        let mut diaries: BTreeMap<usize, Diary> = BTreeMap::new();
        while let Some(ended) = self.clients.join_next().await {
            let (number, diary) = ended.expect("a client doesn't panic");
            diaries.insert(number, diary);
        }
        let mut reads = Vec::new();
        while let Some(ended) = self.readers.join_next().await {
            reads.extend(ended.expect("a reader doesn't panic"));
        }
        let diaries = diaries.into_values().chain(self.written).collect();
        (diaries, reads)
    }
}

/// Two rooms each, in turn; the corner room has the first few.
fn rooms_of(number: usize, world: &World) -> Vec<u64> {
    let open = world.rooms.len() - 1;
    let mut rooms = vec![world.rooms[number % open].id, world.rooms[(number + 1 + number / open) % open].id];
    if number < CORNER {
        rooms[1] = world.rooms[open].id;
    }
    rooms.dedup();
    rooms
}
