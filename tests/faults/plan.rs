//! What is to happen in a run: from a seed, or from a file to be replayed.

use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::client::SITS_EVERY;
use crate::fault::Fault;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Of what the clients draw, and of the order of the steps.
    pub seed: u64,
    pub nodes: usize,
    pub shards: usize,
    /// Acks wait for a replica.
    pub sync: bool,
    pub clients: usize,
    /// The last one is the corner of a few: what is large happens there.
    pub rooms: usize,
    /// Between two submits of a client, on average.
    pub pause_ms: u64,
    /// How long a client stays connected before it goes on elsewhere, on average,
    /// with answers to come.
    pub stay_ms: u64,
    /// In which everybody must have everything, once nobody draws any more.
    pub settle_ms: u64,
    /// Streaming replicas of each shard.
    #[serde(default = "one")]
    pub replicas: usize,
    #[serde(default)]
    pub reading: Reading,
    /// Submits of one client without an answer, at most.
    #[serde(default = "eight")]
    pub in_flight: usize,
    /// Before a primary is killed for a failover, everybody draws as fast as they
    /// can for so long.
    #[serde(default)]
    pub rush_ms: u64,
    pub steps: Vec<Step>,
    /// Of every node, besides what all have.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
    /// The gateway's role has settings that would break the promise.
    #[serde(default)]
    pub hostile: bool,
    /// A bug in every node, for a gateway that was built with them.
    #[serde(default)]
    pub planted: Option<String>,
    /// What dies is brought back by itself.
    #[serde(default)]
    pub restart: bool,
    /// A file of shapes to be drawn, instead of those that are made up.
    #[serde(default)]
    pub shapes: Option<PathBuf>,
}

fn one() -> usize {
    1
}

fn eight() -> usize {
    8
}

/// Who reads over HTTP, and how much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    pub readers: usize,
    pub pause_ms: u64,
    /// One read of so many is of the whole state, to be compared with the log.
    pub whole_every: usize,
    /// The steps are gone through again until there were so many reads.
    pub at_least: usize,
}

impl Default for Reading {
    fn default() -> Self {
        Self { readers: 3, pause_ms: 60, whole_every: 1, at_least: 0 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    #[serde(flatten)]
    pub fault: Fault,
    pub lasts_ms: u64,
    /// From its healing to the next step.
    pub then_ms: u64,
}

/// How long a run is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Length {
    /// Every fault once, briefly.
    Short,
    /// Every fault three times, as long as the promise speaks of, and failovers:
    /// in `sync` for an even seed, in `async` with declared loss for an odd one.
    Long,
}

pub const NODES: usize = 3;
const SHARDS: usize = 2;

impl Plan {
    pub fn new(length: Length, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rounds = if length == Length::Short { 1 } else { 3 };
        let mut steps = Vec::new();
        for _ in 0..rounds {
            let mut round = round(length, is_sync(seed), &mut rng);
            round.shuffle(&mut rng);
            steps.extend(round);
        }
        steps.push(Step::new(Fault::FallSilent, 7_000, 3_000));
        let sync = length == Length::Long && is_sync(seed);
        Self { sync, hostile: true, clients: 24, ..Self::of(seed, steps) }
    }

    /// The hunt for a stale answer: many readers, and replicas that are late in
    /// every way there is.
    pub fn hunt(seed: u64, reads: usize) -> Self {
        // Some are of what a failover lost, and can't be compared.
        let at_least = reads + reads / 10;
        let shard = |n: u64| (seed.wrapping_add(n) % SHARDS as u64) as usize;
        let step = |fault| Step::new(fault, 6_000, 3_000);
        let steps = vec![
            step(Fault::PauseReplay { shard: shard(0) }),
            step(Fault::DelayReplay { shard: shard(1), by_ms: 150 }),
            step(Fault::DelayReplay { shard: shard(0), by_ms: 900 }),
            step(Fault::CutReceivers { shard: shard(1) }),
            step(Fault::KillReplicas { shard: shard(0) }),
            Step::new(Fault::FailOver { shard: shard(1) }, 0, 6_000),
        ];
        let reading = Reading { readers: 16, pause_ms: 4, whole_every: 20, at_least };
        Self { replicas: 2, reading, pause_ms: 400, ..Self::of(seed, steps) }
    }

    /// Failovers, each with many submits in flight.
    pub fn failovers(seed: u64, rounds: usize, sync: bool) -> Self {
        let steps = vec![Step::new(Fault::FailOver { shard: 0 }, 0, 4_000); rounds];
        // One shard, so that whatever is in flight concerns it; and many rooms, so
        // that it is not the deliveries that take the time.
        let small = Self { shards: 1, rooms: 21, clients: 40, sync, replicas: 2, ..Self::of(seed, steps) };
        Self { in_flight: 32, rush_ms: 1_000, pause_ms: 300, hostile: true, ..small }
    }

    /// These steps under the usual load.
    pub fn of(seed: u64, steps: Vec<Step>) -> Self {
        Self {
            seed,
            nodes: NODES,
            shards: SHARDS,
            sync: false,
            clients: 16,
            rooms: 5,
            pause_ms: 200,
            stay_ms: 16_000,
            settle_ms: 20_000,
            replicas: 1,
            reading: Reading::default(),
            in_flight: eight(),
            rush_ms: 0,
            steps,
            settings: Vec::new(),
            hostile: false,
            planted: None,
            restart: false,
            shapes: None,
        }
    }
}

fn is_sync(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

fn round(length: Length, sync: bool, rng: &mut StdRng) -> Vec<Step> {
    // Of those who stay where they are.
    let mut client = || rng.random_range(0..4) * SITS_EVERY;
    let [kill, freeze, drain, burst, lagging] = std::array::from_fn(|_| client());
    let mut shard = || rng.random_range(0..SHARDS);
    let [backends, full, crash, stop, frozen, switched, stays] = std::array::from_fn(|_| shard());
    let short = length == Length::Short;
    let time = |brief: u64, long: u64| if short { brief } else { long };
    let mut steps = vec![
        Step::new(Fault::KillNode { client: kill }, 2_000, 3_000),
        Step::new(Fault::FreezeNode { client: freeze }, time(16_000, 60_000), 4_000),
        Step::new(Fault::DrainNode { client: drain }, 2_000, 3_000),
        Step::new(Fault::KillBackends { shard: backends }, time(3_000, 10_000), 2_000),
        Step::new(Fault::ExhaustSlots { shard: full }, time(4_000, 15_000), 4_000),
        Step::new(Fault::KillDatabase { shard: crash }, time(1_500, 5_000), 4_000),
        Step::new(Fault::StopDatabase { shard: stop }, time(1_500, 5_000), 4_000),
        Step::new(Fault::FreezeDatabase { shard: frozen }, time(6_000, 30_000), 5_000),
        Step::new(Fault::KillRedis, time(5_000, 20_000), 3_000),
        Step::new(Fault::FreezeRedis, time(5_000, 20_000), 3_000),
        Step::new(Fault::KillRedisClients, time(5_000, 20_000), 3_000),
        Step::new(Fault::Burst { client: burst, megabytes: time(42, 60) as usize }, 0, 5_000),
        Step::new(Fault::MoveSlots { all: false }, 0, 3_000),
        Step::new(Fault::StopReading { client: lagging, megabytes: time(32, 60) as usize }, 2_000, 5_000),
    ];
    if short || !sync {
        steps.push(Step::new(Fault::OldPrimaryStays { shard: stays }, time(3_000, 10_000), 5_000));
    }
    if !short {
        steps.push(Step::new(Fault::FailOver { shard: switched }, 0, 8_000));
        if !sync {
            steps.push(Step::new(Fault::LoseTail { shard: 1 - switched, asleep: None }, 2_000, 8_000));
        }
    }
    steps
}

impl Step {
    pub fn new(fault: Fault, lasts_ms: u64, then_ms: u64) -> Self {
        Self { fault, lasts_ms, then_ms }
    }
}
