//! Reads per second through the gateway's routing, beside the same query by
//! `pgbench` direct on the replica and through PgBouncer, in the same run; who
//! answers when replicas are late; and what the primary bears when all replicas
//! are gone. Prints tables; `benches/README.md` keeps them with their conditions.
//!
//! `cargo bench --bench reads [-- seconds]`

#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on ends")]

mod pgbench;
#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../../tests/it/routing/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use roomgate::config::Reads;
use roomgate::ids::RoomId;
use roomgate::position::Position;
use roomgate::routing::{Freshness, ServedBy};
use roomgate::store::history::{History, ReadError};
use roomgate::tasks::Tasks;

use self::world::{Node, World};

const ROOMS: usize = 200;
const EVENTS: u64 = 50;
const DEFAULT_SECONDS: u64 = 5;
/// Between two commits of the writer.
const WRITES_EVERY: Duration = Duration::from_millis(10);

fn main() {
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next_back().unwrap_or(DEFAULT_SECONDS);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(all(Duration::from_secs(seconds)));
}

async fn all(span: Duration) {
    let world = World::start(2).await;
    let mut rooms = Vec::new();
    for id in 1..=ROOMS {
        let room = RoomId::new(id as u64).unwrap();
        world::create_room(&world.admin, room).await;
        let head = world.append(room, EVENTS).await;
        rooms.push((room, head));
    }
    world.sql("ANALYZE; CHECKPOINT").await;
    world.replicated().await;
    throughput(&world, &rooms, span).await;
    lag(&world, &rooms, span).await;
    without_replicas(&world, &rooms, span).await;
}

/// An idle shard: each read of a room's head is one statement.
async fn throughput(world: &World, rooms: &[(RoomId, Position)], span: Duration) {
    println!("| reader | at once | reads/s | p50 ms | p99 ms | by replicas |");
    println!("| --- | --- | --- | --- | --- | --- |");
    // Like against like: one replica, as pgbench has one.
    world.replicas[1].service().pause();
    let node = node(world, 1).await;
    let sql = pgbench::statement(world, &node, rooms[0].0).await;
    for readers in [1, 8, 32] {
        let run = read(&node, rooms, readers, span, |_| Freshness::MaxStale(Duration::from_secs(1))).await;
        let share = 100.0 * run.share();
        println!(
            "| gateway | {readers} | {:.0} | {:.2} | {:.2} | {share:.0} % |",
            run.rate(),
            run.quantile(0.5),
            run.quantile(0.99)
        );
        pgbench::run("direct", world.replicas[0].port(), "prepared", &sql, rooms.len(), readers, span).await;
        let bouncer = pgbench::Bouncer::start(world.replicas[0].port());
        pgbench::run("PgBouncer", bouncer.port, "extended", &sql, rooms.len(), readers, span).await;
    }
    world.replicas[1].service().resume();
}

/// Both replicas apply what was committed so long ago, while a writer commits.
async fn lag(world: &World, rooms: &[(RoomId, Position)], span: Duration) {
    println!("\n| replicas late by | asked for | reads/s | p99 ms | by replicas | fell back because |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let node = node(world, 2).await;
    let latest = Latest::new(rooms);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = write(world, &latest, &stop);
    let measure = async {
        for by_ms in [0, 100, 2_000] {
            delay(world, by_ms).await;
            // Until the replicas' positions are as old as that.
            tokio::time::sleep(Duration::from_millis(by_ms) + Duration::from_secs(1)).await;
            for (asked, by_position) in [("at most 1 s old", false), ("the last ack", true)] {
                let run = read(&node, rooms, 16, span, |room| {
                    if by_position {
                        Freshness::AtLeast(latest.of(room))
                    } else {
                        Freshness::MaxStale(Duration::from_secs(1))
                    }
                })
                .await;
                println!(
                    "| {by_ms} ms | {asked} | {:.0} | {:.1} | {:.0} % | {} |",
                    run.rate(),
                    run.quantile(0.99),
                    100.0 * run.share(),
                    run.reasons()
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(writer, measure);
    delay(world, 0).await;
}

/// What is left when every replica is killed under load.
async fn without_replicas(world: &World, rooms: &[(RoomId, Position)], span: Duration) {
    println!(
        "\n| replicas | readers | reads/s | p99 ms | refused | reads under way on the primary, at most |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    let node = node(world, 2).await;
    for alive in [2, 0] {
        if alive == 0 {
            for replica in &world.replicas {
                replica.service().kill_for_good().await;
            }
            world::eventually("their death is noticed", async || {
                let known = node.shard().known();
                known.facts.iter().filter(|facts| facts.error.is_some()).count() == 2
            })
            .await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let most = most_active(world, &stop);
        let reading = async {
            let run = read(&node, rooms, 64, span, |_| Freshness::MaxStale(Duration::from_secs(1))).await;
            stop.store(true, Ordering::Relaxed);
            run
        };
        let (most, run) = tokio::join!(most, reading);
        println!(
            "| {alive} | 64 | {:.0} | {:.1} | {} | {most} (cap {}) |",
            run.rate(),
            run.quantile(0.99),
            run.refused,
            Reads::default().primary_cap
        );
    }
}

async fn node(world: &World, replicas: usize) -> Node {
    let node = Node::start(&[("a", world.endpoints())], Reads::default()).await;
    node.sees_all(replicas).await;
    node.slots.refresh().await;
    node
}

async fn delay(world: &World, by_ms: u64) {
    for replica in &world.replicas {
        let admin = replica.admin().await.unwrap();
        let set = format!("ALTER SYSTEM SET recovery_min_apply_delay = {by_ms}");
        admin.batch_execute(&set).await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }
}

/// The last position of each room that was acked.
struct Latest(Vec<(RoomId, AtomicU64)>);

impl Latest {
    fn new(rooms: &[(RoomId, Position)]) -> Self {
        Self(rooms.iter().map(|(room, head)| (*room, AtomicU64::new(head.seq.0))).collect())
    }

    fn of(&self, room: RoomId) -> Position {
        let found = self.0.iter().find(|(known, _)| *known == room).unwrap();
        world::at(found.1.load(Ordering::Relaxed))
    }
}

async fn write(world: &World, latest: &Latest, stop: &AtomicBool) {
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        let (room, seq) = &latest.0[at % latest.0.len()];
        let head = world.append(*room, 1).await;
        seq.store(head.seq.0, Ordering::Relaxed);
        at += 1;
        tokio::time::sleep(WRITES_EVERY).await;
    }
}

/// The most statements of gateways that the primary had under way at a time.
async fn most_active(world: &World, stop: &AtomicBool) -> i64 {
    let ask = "SELECT count(*) FROM pg_stat_activity
                WHERE usename = 'roomgate' AND state = 'active' AND application_name NOT LIKE '%monitor'";
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        most = most.max(world.admin.query_one(ask, &[]).await.unwrap().get(0));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    most
}

#[derive(Default)]
struct Run {
    latencies: Vec<Duration>,
    by_replicas: usize,
    refused: usize,
    fallbacks: BTreeMap<&'static str, usize>,
    elapsed: Duration,
}

impl Run {
    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn share(&self) -> f64 {
        self.by_replicas as f64 / self.latencies.len().max(1) as f64
    }

    fn quantile(&self, q: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * q) as usize).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    }

    fn reasons(&self) -> String {
        let all = self.latencies.len().max(1) as f64;
        let reason = |(name, count): (&&str, &usize)| format!("{name} {:.0} %", 100.0 * *count as f64 / all);
        self.fallbacks.iter().map(reason).collect::<Vec<_>>().join(", ")
    }
}

/// Closed loop, rooms in turn.
async fn read(
    node: &Node,
    rooms: &[(RoomId, Position)],
    readers: usize,
    span: Duration,
    freshness: impl Fn(RoomId) -> Freshness + Copy,
) -> Run {
    let (tasks, total, stop) = (Tasks::new(), Arc::new(Mutex::new(Run::default())), AtomicBool::new(false));
    let started = Instant::now();
    let each = (0..readers).map(|number| {
        let (history, stop, total) = (node.history.clone(), &stop, total.clone());
        async move {
            let mut own = Run::default();
            let mut at = number * 7;
            while !stop.load(Ordering::Relaxed) {
                let room = rooms[at % rooms.len()].0;
                one(&history, room, freshness(room), &mut own).await;
                at += 1;
            }
            let mut total = total.lock().unwrap();
            total.latencies.append(&mut own.latencies);
            total.by_replicas += own.by_replicas;
            total.refused += own.refused;
            for (reason, count) in own.fallbacks {
                *total.fallbacks.entry(reason).or_default() += count;
            }
        }
    });
    let timer = async {
        tokio::time::sleep(span).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(futures_util::future::join_all(each), timer);
    tasks.stop();
    let mut run = std::mem::take(&mut *total.lock().unwrap());
    run.elapsed = started.elapsed();
    run.latencies.sort_unstable();
    run
}

async fn one(history: &History, room: RoomId, freshness: Freshness, run: &mut Run) {
    let sent = Instant::now();
    match history.head(room, freshness).await {
        Ok(read) => {
            run.latencies.push(sent.elapsed());
            run.by_replicas += usize::from(matches!(read.served_by, ServedBy::Replica(_)));
            if let Some(reason) = read.fallback {
                *run.fallbacks.entry(reason.as_str()).or_default() += 1;
            }
        }
        Err(ReadError::Unavailable(_)) => run.refused += 1,
        Err(error) => panic!("{error}"),
    }
}
