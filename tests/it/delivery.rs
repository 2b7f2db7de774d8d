//! Delivery doesn't depend on Redis: it is faster with it, and complete without.
//!
//! Stopwatches here measure the promise's 5 s, not speed.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::client::{Client, rect};
use crate::stopwatch::Stopwatch;
use crate::world::World;

/// The promise: a hole closes within 5 s, even in a room that has gone quiet.
const PROMISED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn events_arrive_within_5_s_and_writes_are_acked_while_redis_is_dead_or_frozen() {
    let world = World::start(|options| options).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "drawing").await;
    let mut writer = world.client(0, &alice).await;
    let mut reader = world.client(1, &bob).await;
    writer.join(room).await;
    reader.join(room).await;
    draws_and_is_seen(&mut writer, &mut reader, room, 0).await;

    let redis = Pid::from_raw(world.cluster().report().redis.pid);
    kill(redis, Signal::SIGSTOP).unwrap();
    for i in 1..4 {
        draws_and_is_seen(&mut writer, &mut reader, room, i).await;
    }
    kill(redis, Signal::SIGKILL).unwrap();
    for i in 4..7 {
        draws_and_is_seen(&mut writer, &mut reader, room, i).await;
    }
    let repairs = world.counted("roomgate_gap_repairs_total", "cause").await;
    assert!(repairs["head"] >= 1.0, "it was the head check that found them: {repairs:?}");
}

#[tokio::test]
async fn nodes_start_without_redis_and_use_it_as_soon_as_it_is_there() {
    let world = World::start(|options| options.set("sessions.head_check_ms", POLL.as_millis())).await;
    world.cluster().redis().service().kill().await;
    let restarts = world.cluster().nodes().iter().map(|node| node.service().restart());
    futures_util::future::try_join_all(restarts).await.expect("a node needs no Redis to start");
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    world.balanced().await;
    let room = world.room(&alice, "drawing").await;
    let mut writer = world.client(0, &alice).await;
    let mut readers = [world.client(1, &bob).await, world.client(2, &bob).await];
    writer.join(room).await;
    for (i, reader) in (0..).zip(&mut readers) {
        reader.join(room).await;
        draws_and_is_seen(&mut writer, reader, room, i).await;
    }
    assert_eq!(world.measured(1, "roomgate_bus_received_total").await, 0.0, "there was no Redis");

    world.cluster().redis().service().restart().await.unwrap();
    let up = async {
        for node in 0..3 {
            while world.measured(node, "roomgate_bus_up").await < 1.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), up).await.expect("every node finds Redis");
    let began = Stopwatch::start();
    for i in 2..22 {
        for reader in &mut readers {
            draws_and_is_seen(&mut writer, reader, room, i).await;
        }
    }
    let took = began.elapsed();
    println!("20 events one after the other, once Redis is there: {took:?}");
    assert!(took < POLL * 5, "{took:?}: polls of {POLL:?} can't have brought 20 events so soon");
}

/// Rarer than by default, to tell what a poll brings from what Redis brings.
const POLL: Duration = Duration::from_secs(3);

#[tokio::test]
async fn nothing_is_late_or_missing_while_redis_cuts_its_clients_off_every_2_s() {
    const ROUNDS: u32 = 5;
    let world = World::start(|options| options).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "drawing").await;
    let mut writer = world.client(0, &alice).await;
    let mut reader = world.client(1, &bob).await;
    writer.join(room).await;
    reader.join(room).await;

    let (tell, acked) = watch::channel(Vec::new());
    let killing = async {
        for _ in 0..ROUNDS {
            tokio::time::sleep(Duration::from_secs(2)).await;
            kill_clients(world.cluster().redis().port()).await;
        }
    };
    let writing = async {
        tokio::pin!(killing);
        let mut killed = false;
        for i in 0.. {
            let body = json!({"kind": "shape.add", "shape": rect(&format!("r{i}"), i)});
            let ack = writer.submit(room, &format!("op-{i}"), &body).await;
            assert_eq!(ack["seq"], i + 1, "{ack}");
            tell.send_modify(|acked| acked.push(Instant::now()));
            let pause = tokio::time::sleep(Duration::from_millis(10));
            if killed {
                // The last event fell into the last cut, and none follows it.
                break;
            }
            tokio::select! { () = &mut killing => killed = true, () = pause => {} }
        }
        drop(tell);
    };
    let drawing = Stopwatch::start();
    let ((), seen) = futures_util::future::join(writing, arrivals(&mut reader, room, acked.clone())).await;

    let mut delays: Vec<Duration> = acked
        .borrow()
        .iter()
        .zip(&seen)
        .map(|(acked, seen)| seen.saturating_duration_since(*acked))
        .collect();
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    let reconnected = async {
        while world.measured(1, "roomgate_bus_reconnects_total").await < f64::from(ROUNDS) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reconnected).await.expect("every kill is felt");
    let repairs = world.counted_on(1, "roomgate_gap_repairs_total", "cause").await;
    println!(
        "{} events, commit to delivery: p50 {:?}, p99 {:?}, max {:?}; {ROUNDS} times cut off, repairs {repairs:?}",
        delays.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    assert!(at(1.0) < PROMISED + drawing.stood_still());
    assert!(repairs.values().sum::<f64>() > 0.0, "nothing was lost: the test is void");
}

/// When each event of the room was seen, until all that were acked have been.
async fn arrivals(reader: &mut Client, room: u64, mut acked: watch::Receiver<Vec<Instant>>) -> Vec<Instant> {
    let mut seen = Vec::new();
    loop {
        reader
            .listens_until(async {
                while acked.borrow().len() <= seen.len() && acked.changed().await.is_ok() {}
            })
            .await;
        if acked.borrow().len() <= seen.len() {
            return seen;
        }
        reader.catches_up(room, seen.len() as u64 + 1).await;
        seen.resize(reader.rooms[&room].seq as usize, Instant::now());
    }
}

/// All but the connection that asks.
async fn kill_clients(port: u16) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    for kind in ["normal", "pubsub"] {
        socket.write_all(format!("CLIENT KILL TYPE {kind} SKIPME yes\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 64];
        let length = socket.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b":"));
    }
}

/// One shape, and then silence: there is no later event to show that one is
/// missing.
pub async fn draws_and_is_seen(writer: &mut Client, reader: &mut Client, room: u64, i: i32) {
    let body = json!({"kind": "shape.add", "shape": rect(&format!("r{i}"), i)});
    let acked = writer.submit(room, &format!("op-{i}"), &body).await;
    assert_eq!(acked["type"], "ack", "{acked}");
    let committed = Stopwatch::start();
    reader.catches_up(room, acked["seq"].as_u64().unwrap()).await;
    let took = committed.elapsed();
    assert!(took < PROMISED, "event {i} took {took:?}");
}
