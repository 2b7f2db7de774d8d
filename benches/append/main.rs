//! Durable submits per second through the append, on one shard, beside
//! `pgbench` with statements of the same shape, in the same run on the same
//! server. Prints a table; `benches/README.md` keeps one with its conditions.
//!
//! `cargo bench --bench append [-- seconds]`

#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on ends")]

mod cpu;
mod pgbench;
#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../../tests/it/append/world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use roomgate::config::Writes;
use roomgate::ids::RoomId;
use roomgate::log::{Outcome, Submit};
use roomgate::tasks::Tasks;

use self::cpu::Cpu;
use self::world::{Node, World, put};

/// Shapes each submitter draws, over and over.
const SHAPES: u64 = 20;
const SHARED_ROOMS: usize = 50;
const DEFAULT_SECONDS: u64 = 5;

fn main() {
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next_back().unwrap_or(DEFAULT_SECONDS);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(all(Duration::from_secs(seconds)));
}

async fn all(span: Duration) {
    let world = World::start().await;
    println!(
        "| writer | rooms | at once | submits/s | p50 ms | p99 ms | a batch | node µs | PostgreSQL µs |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for submitters in [1, 8, 64, 512] {
        append(&world, "own", world.rooms(submitters).await, submitters, span).await;
    }
    let shared = world.rooms(SHARED_ROOMS).await;
    for submitters in [1, 8, 64, 512] {
        append(&world, "50 shared", shared.clone(), submitters, span).await;
    }
    pgbench::prepare(&world).await;
    for clients in [1, 8, 64] {
        pgbench::run(&world, pgbench::Script::Single, clients, span).await;
    }
    for clients in [1, 4] {
        pgbench::run(&world, pgbench::Script::Batch, clients, span).await;
    }
}

/// Closed loop: each submitter sends its next submit when the last is acked.
async fn append(world: &World, label: &str, rooms: Vec<RoomId>, submitters: usize, span: Duration) {
    let node = Arc::new(world.node_with(Writes::default()).await);
    world.sql("CHECKPOINT").await;
    let run = Arc::new(Run::default());
    let tasks = Tasks::new();
    for number in 0..submitters {
        let (node, run, room) = (node.clone(), run.clone(), rooms[number % rooms.len()]);
        tasks.spawn("submitter", submit_until_stopped(node, run, room, number));
    }
    // Warm: connections, statements, the server's caches.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = run.acked.load(Ordering::SeqCst);
    let commits = commits(world).await;
    let (cpu, started) = (Cpu::now(world.server.service().pid()), Instant::now());
    run.latencies.lock().unwrap().clear();
    tokio::time::sleep(span).await;
    let acked = run.acked.load(Ordering::SeqCst) - before;
    let used = Cpu::now(world.server.service().pid()).since(&cpu);
    let elapsed = started.elapsed();
    let transactions = self::commits(world).await - commits;
    run.stop.store(true, Ordering::SeqCst);
    tasks.ended(Duration::from_secs(10)).await.unwrap();
    let mut latencies = std::mem::take(&mut *run.latencies.lock().unwrap());
    latencies.sort_unstable();
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    println!(
        "| append | {label} | {submitters} | {:.0} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} |",
        acked as f64 / elapsed.as_secs_f64(),
        quantile(0.5),
        quantile(0.99),
        acked as f64 / transactions.max(1) as f64,
        used.node.as_secs_f64() * 1e6 / acked as f64,
        used.server.as_secs_f64() * 1e6 / acked as f64,
    );
}

#[derive(Default)]
struct Run {
    acked: AtomicU64,
    stop: AtomicBool,
    latencies: std::sync::Mutex<Vec<Duration>>,
}

async fn submit_until_stopped(node: Arc<Node>, run: Arc<Run>, room: RoomId, number: usize) {
    let mut count = 0;
    while !run.stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        match node.submit(drawing(room, number, count)).answer().await {
            Ok(Outcome::Accepted(_)) => {}
            other => panic!("{other:?}"),
        }
        run.latencies.lock().unwrap().push(sent.elapsed());
        run.acked.fetch_add(1, Ordering::Relaxed);
        count += 1;
    }
}

fn drawing(room: RoomId, number: usize, count: u64) -> Submit {
    let nonce = rand::random::<u32>();
    let op = format!("{number:04}-{count:08}-{nonce:08x}");
    put(room, &op, &format!("shape-{number}-{}", count % SHAPES), count)
}

/// Transactions of the gateway's lanes, as the heads' updates count them.
async fn commits(world: &World) -> u64 {
    let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query LIKE 'INSERT INTO room_head%excluded%'";
    match world.admin.query_one(calls, &[]).await {
        Ok(row) => row.get::<_, i64>(0).unsigned_abs(),
        Err(_) => 0,
    }
}
