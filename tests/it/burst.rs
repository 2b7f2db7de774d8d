//! More at once than anything between two nodes can hold: Redis' buffer for a
//! node, the queues of the bus, what a room holds back.

use std::time::{Duration, Instant};

use roomgate::dev::Options;
use serde_json::{Value, json};

use crate::stopwatch::Stopwatch;
use crate::view::View;
use crate::world::{Person, World};

/// The node that is frozen, with the reader on it.
const FROZEN: usize = 1;
const EVENTS: u64 = 11_000;
/// With 11 000 of them more than the 32 MB that Redis keeps for a listener and
/// what two sockets hold.
const EVENT_BYTES: usize = 4500;

const HEALS_IN: Duration = Duration::from_secs(5);
/// On a machine that can read all of them from the log in this time; others are
/// given as many times as long.
const READS_IN: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_burst_larger_than_any_buffer_loses_nothing() {
    // More announcements than the queues of a node have places: 4096. The last of half a
    // thousand events waits for 250 commits.
    let writes = [("writes.batch_max", 2), ("writes.failover_wait_ms", 50_000)];
    let set =
        |options: Options| writes.into_iter().fold(options, |options, (key, value)| options.set(key, value));
    let world = World::start(set).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let mut reader = world.client(FROZEN, &bob).await;
    reader.join(room).await;
    let before = world.measured(FROZEN, "roomgate_bus_reconnects_total").await;

    let node = world.cluster().nodes()[FROZEN].service();
    node.pause();
    let began = Instant::now();
    for batch in 0..EVENTS / 500 {
        commit(&world, &alice, room, batch).await;
    }
    let committed = began.elapsed();
    node.resume();
    let thawed = Stopwatch::start();
    reader.catches_up(room, EVENTS).await;
    let healed = thawed.elapsed();
    let read = reads_all(&world, room).await;

    let repairs = world.counted_on(FROZEN, "roomgate_gap_repairs_total", "cause").await;
    let reconnects = world.measured(FROZEN, "roomgate_bus_reconnects_total").await - before;
    println!(
        "{EVENTS} events of {EVENT_BYTES} B, committed in {committed:?}; the last was seen {healed:?} after the \
         thaw, of which reading alone takes {read:?}; reconnects to Redis {reconnects}, repairs {repairs:?}"
    );
    let seqs = reader.rooms[&room].seen.iter().map(|event| event["seq"].as_u64().unwrap());
    assert!(seqs.eq(1..=EVENTS), "every event once, in order, on one connection");
    let slowness = read.div_duration_f64(READS_IN).max(1.0);
    assert!(healed < HEALS_IN.mul_f64(slowness), "{healed:?} on a machine {slowness:.1} times as slow");
    let said = std::fs::read_to_string(world.cluster().redis().service().log()).unwrap();
    assert!(
        said.contains("overcoming of output buffer limits"),
        "Redis kept it all: the test is void; {said}"
    );
}

/// How long the same node takes to tell all of it to somebody who comes now.
async fn reads_all(world: &World, room: u64) -> Duration {
    let mut another = world.client(FROZEN, &world.person("carol")).await;
    let began = Stopwatch::start();
    another.resume(room, View::default()).await;
    another.catches_up(room, EVENTS).await;
    began.elapsed()
}

/// Half a thousand events, on another node.
async fn commit(world: &World, writer: &Person, room: u64, batch: u64) {
    let text = "x".repeat(EVENT_BYTES);
    let item = |n| json!({"op": format!("{batch}-{n}"), "kind": "message", "data": text});
    let items: Vec<Value> = (0..500).map(item).collect();
    let path = format!("/v1/rooms/{room}/events");
    let answer = world.api_of(0, writer).post(&path, &json!({"items": items})).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answers = answer.json();
    assert!(answers["items"].as_array().unwrap().iter().all(|item| item["type"] == "ack"), "{answers}");
}
