//! Clients whose sockets take little or nothing cost bounded memory, and miss
//! nothing but what is worth nothing any more.

use std::time::{Duration, Instant};

use roomgate::dev::Options;
use serde_json::{Value, json};

use crate::client::Client;
use crate::straw::Straw;
use crate::world::{Person, World};

/// The node with the slow clients; who writes is on another.
const NODE: usize = 1;
const MIB: usize = 1 << 20;

async fn two_nodes(change: impl FnOnce(Options) -> Options) -> World {
    World::start(|options| change(Options { nodes: 2, shards: 1, ..options })).await
}

#[tokio::test]
async fn a_reader_that_stops_costs_bounded_memory_and_goes_on_from_the_log() {
    /// Of events while it takes nothing. A queue without a limit would hold them.
    const BYTES: usize = 64 * MIB;
    /// Its outbox holds 1 MiB. The rest is how much an allocator's measure of one
    /// and the same load differs from time to time.
    const GROWTH: usize = 16 * MIB;
    let world = two_nodes(|options| options.set("sessions.slow_consumer_timeout_ms", 120_000)).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let straw = Straw::to(&world.cluster().nodes()[NODE].url()).await;
    let mut slow = Client::connect(&straw.url, &bob).await;
    let mut lively = world.client(NODE, &bob).await;
    slow.join(room).await;
    lively.join(room).await;

    let with_readers = commits(&world, &alice, &mut [&mut lively, &mut slow], room, BYTES / 4).await;
    assert_eq!(world.measured(NODE, "roomgate_sessions_lagging").await, 0.0);
    straw.close();
    let with_a_stuck_one = commits(&world, &alice, &mut [&mut lively], room, BYTES).await;
    let outbox = world.measured(NODE, "roomgate_outbox_bytes").await;
    println!(
        "resident {} KiB while all read, at least {} KiB while one takes nothing of {} KiB; its outbox {outbox} B",
        with_readers.usual / 1024,
        with_a_stuck_one.least / 1024,
        BYTES / 1024,
    );
    assert_eq!(world.measured(NODE, "roomgate_sessions_lagging").await, 1.0, "it took everything: void");
    assert!(with_a_stuck_one.least < with_readers.usual + GROWTH);

    straw.open();
    slow.catches_up(room, lively.rooms[&room].seq).await;
    let live = async {
        while world.measured(NODE, "roomgate_sessions_lagging").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), live).await.expect("it is live again");
    println!("resident {} KiB after it has read on from the log", memory(&world) / 1024);
}

#[tokio::test]
async fn a_client_at_8_kbit_s_is_told_last_values_and_keeps_its_session() {
    const SENDERS: usize = 30;
    /// Longer than `slow_consumer_timeout`, which is left as it is: the kernel
    /// asks for more only when half of what it holds has gone, every 20 s here.
    const TIME: Duration = Duration::from_secs(40);
    let world = two_nodes(|options| options).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let straw = Straw::to(&world.cluster().nodes()[NODE].url()).await;
    let mut slow = Client::connect(&straw.url, &bob).await;
    // Each in a room of its own, where it hears nothing.
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        let room = world.room(&alice, "open").await;
        let mut sender = world.client(0, &alice).await;
        sender.join(room).await;
        slow.join(room).await;
        senders.push((room, sender));
    }

    straw.bytes_per_second(1000);
    let (began, mut resident, mut last) = (Instant::now(), Vec::new(), 0);
    while began.elapsed() < TIME {
        last += 1;
        for (number, (room, sender)) in senders.iter_mut().enumerate() {
            let data = json!({"sender": number, "value": last, "more": "x".repeat(900)});
            sender.send(&json!({"type": "signal", "room": room, "data": data})).await;
        }
        resident.push(memory(&world));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    straw.open();
    let mut values = vec![vec![0]; SENDERS];
    while values.iter().any(|values| values.last() != Some(&last)) {
        let signal = slow.wait(|m| m["type"] == "signal").await;
        let (sender, value) = (&signal["data"]["sender"], &signal["data"]["value"]);
        values[sender.as_u64().unwrap() as usize].push(value.as_u64().unwrap());
    }
    assert!(values.iter().all(|values| values.is_sorted_by(|a, b| a < b)), "{values:?}");
    let told: usize = values.iter().map(|values| values.len() - 1).sum();
    let late = resident.split_off(resident.len() / 2);
    let (early, late) = (Resident::of(resident), Resident::of(late));
    println!(
        "{} signals sent, {told} told; resident {} KiB in the first half, at least {} KiB in the second",
        SENDERS as u64 * last,
        early.usual / 1024,
        late.least / 1024
    );
    assert!(told * 20 < SENDERS * last as usize, "it took them all: void");
    assert!(late.least < early.usual + 4 * MIB);
}

#[tokio::test]
async fn who_takes_a_little_stays_and_who_takes_nothing_is_closed_when_its_time_is_up() {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let world =
        two_nodes(|options| options.set("sessions.slow_consumer_timeout_ms", TIMEOUT.as_millis())).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let node = world.cluster().nodes()[NODE].url();
    let straws = [Straw::to(&node).await, Straw::to(&node).await];
    let mut little = Client::connect(&straws[0].url, &bob).await;
    let mut nothing = Client::connect(&straws[1].url, &bob).await;
    let mut lively = world.client(NODE, &alice).await;
    for client in [&mut little, &mut nothing, &mut lively] {
        client.join(room).await;
    }
    straws[0].bytes_per_second(128 * 1024);
    straws[1].close();
    let began = Instant::now();
    commits(&world, &alice, &mut [&mut lively], room, 4 * MIB).await;
    let closed = async {
        while world.counted_on(NODE, "roomgate_disconnects_total", "code").await["4000"] < 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TIMEOUT * 5, closed).await.expect("who takes nothing is closed");
    println!("closed {:?} after it took its last byte", began.elapsed());
    assert!(began.elapsed() >= TIMEOUT, "{:?}", began.elapsed());
    straws[1].open();
    // What was on its way comes; the close may, if there was room for it.
    assert!(matches!(nothing.ends().await, None | Some(4000)));

    lively.listens_until(tokio::time::sleep(TIMEOUT * 2)).await;
    straws[0].open();
    little.catches_up(room, lively.rooms[&room].seq).await;
    let closes = world.counted_on(NODE, "roomgate_disconnects_total", "code").await;
    assert_eq!(closes.get("4000"), Some(&1.0), "{closes:?}");
}

/// Commits about so many bytes of events, each read by all of `readers` soon; the
/// node's resident memory in the second half of it.
async fn commits(
    world: &World,
    writer: &Person,
    readers: &mut [&mut Client],
    room: u64,
    bytes: usize,
) -> Resident {
    const EVENT: usize = 4096;
    // Less than an outbox holds, so that a reader at work never lags.
    const BATCH: usize = 100;
    let path = format!("/v1/rooms/{room}/events");
    let text = "x".repeat(EVENT);
    let api = world.api_of(0, writer);
    let mut resident = Vec::new();
    for _ in 0..bytes / EVENT / BATCH {
        let seq = readers[0].rooms[&room].seq;
        let item = |n| json!({"op": format!("{seq}-{n}"), "kind": "message", "data": text});
        let items: Vec<Value> = (0..BATCH).map(item).collect();
        let answer = api.post(&path, &json!({"items": items})).await.unwrap();
        assert_eq!(answer.json()["items"][BATCH - 1]["seq"], seq + BATCH as u64, "{}", answer.text);
        for reader in &mut *readers {
            reader.catches_up(room, seq + BATCH as u64).await;
            // That they were contiguous was seen as they came.
            reader.rooms.get_mut(&room).unwrap().seen.clear();
        }
        resident.push(memory(world));
    }
    Resident::of(resident.split_off(resident.len() / 2))
}

/// Some of it is what the allocator has not given back yet.
struct Resident {
    usual: usize,
    least: usize,
}

impl Resident {
    fn of(mut samples: Vec<usize>) -> Self {
        samples.sort_unstable();
        Self { usual: samples[samples.len() / 2], least: samples[0] }
    }
}

/// Resident bytes of the node.
fn memory(world: &World) -> usize {
    let pid = world.cluster().nodes()[NODE].service().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
