//! What a stream is told: the state, then the log, all of it and in order.

use std::time::Duration;

use roomgate::dev::Options;
use serde_json::{Value, json};

use super::reader::{Ask, Reader, says};
use crate::client::{Client, rect, submit};
use crate::straw::Straw;
use crate::world::{Person, World};

const MIB: usize = 1 << 20;

/// So many messages in one request.
async fn commits(world: &World, person: &Person, room: u64, first: u64, texts: &[String]) {
    let item = |(n, text): (usize, &String)| json!({"op": format!("op{}", first + n as u64), "kind": "message", "data": text});
    let items: Vec<Value> = texts.iter().enumerate().map(item).collect();
    let path = format!("/v1/rooms/{room}/events");
    let answer = world.api_of(0, person).post(&path, &json!({"items": items})).await.unwrap();
    assert_eq!(answer.json()["items"][texts.len() - 1]["seq"], first + texts.len() as u64, "{}", answer.text);
}

#[tokio::test]
async fn a_stream_tells_the_state_first_and_then_every_event_in_order_while_others_write() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "drawing").await;
    let mut writers = [world.client(0, &alice).await, world.client(1, &bob).await];
    for writer in &mut writers {
        writer.join(room).await;
        let op = writer.session.clone();
        writer.submit(room, &op, &json!({"kind": "shape.add", "shape": rect(&op, 1)})).await;
    }
    let mut readers = Vec::new();
    for base in world.cluster().nodes().iter().map(|node| node.url()).chain([world.cluster().url()]) {
        readers.push(Reader::of(&base, &bob, room).await);
    }
    let writing = futures_util::future::join_all(writers.iter_mut().map(|writer| draws(writer, room)));
    let reading = futures_util::future::join_all(readers.iter_mut().map(|reader| reader.catches_up(402)));
    futures_util::future::join(writing, reading).await;
    for writer in &mut writers {
        writer.catches_up(room, 402).await;
    }
    for reader in &readers {
        assert_eq!(reader.names[0], "snapshot");
        assert_eq!(reader.headers["cache-control"], "no-store, no-transform");
        assert!(reader.headers.contains_key("x-request-id"), "{:?}", reader.headers);
        assert!(reader.names.iter().all(|name| ["snapshot", "event", "presence"].contains(&name.as_str())));
        assert_eq!(reader.view.shapes, writers[0].rooms[&room].shapes);
        assert_eq!(reader.view.seq, 402);
    }
}

async fn draws(writer: &mut Client, room: u64) {
    let id = writer.session.clone();
    for n in 0..200 {
        let text = "line one\nline two\r\u{2028}🦀";
        let patch = json!({"kind": "shape.update", "shape_id": id, "patch": {"x": n, "text": text}});
        let ack = writer.submit(room, &format!("{id}-{n}"), &patch).await;
        assert_eq!(ack["type"], "ack", "{ack}");
    }
}

#[tokio::test]
async fn a_stream_goes_on_from_its_last_id_on_another_node_when_its_own_is_killed() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, ..options }).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let nodes: Vec<String> = world.cluster().nodes().iter().map(|node| node.url()).collect();
    let mut reader = Reader::of(&nodes[1], &bob, room).await;
    commits(&world, &alice, room, 0, &vec!["before".to_owned(); 50]).await;
    reader.catches_up(30).await;
    world.cluster().nodes()[1].service().kill_for_good().await;
    reader.ends().await;
    commits(&world, &alice, room, 50, &vec!["meanwhile".to_owned(); 900]).await;
    let seen = reader.view.seq;
    let mut again = Reader::after(&nodes[0], &bob, room, reader).await;
    again.catches_up(950).await;
    commits(&world, &alice, room, 950, &["live".to_owned()]).await;
    again.catches_up(951).await;
    assert!((30..=50).contains(&seen), "{seen}");
    assert_eq!(again.names[0], "events", "{:?}", again.names);
    assert!(!again.names.contains(&"snapshot".to_owned()), "{:?}", again.names);
    assert_eq!(again.last_id, Some(format!("{}.951", again.view.epoch)));
}

#[tokio::test]
async fn a_position_may_stand_in_the_address_and_one_that_is_lost_is_answered_with_the_state() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    commits(world, &alice, room, 0, &["one".to_owned(), "two".to_owned()]).await;
    let node = world.cluster().nodes()[1].url();
    let mut all = Reader::of(&node, &bob, room).await;
    all.catches_up(2).await;
    let epoch = all.view.epoch;

    let asked = |query: String, last_id: Option<&str>| Ask {
        query,
        last_id: last_id.map(str::to_owned),
        ..Ask::by(&bob)
    };
    // The header is what a browser saw last; the address is as old as the page.
    let from_one = [
        asked(format!("?last_event_id={epoch}.1"), None),
        asked("?last_event_id=0.0".to_owned(), Some(&format!("{epoch}.1"))),
    ];
    for ask in from_one {
        let mut reader = Reader::open(&node, room, &ask).await.ok().unwrap();
        reader.view.seq = 1;
        reader.catches_up(2).await;
        assert_eq!(reader.view.seen.len(), 1);
    }
    let mut whole =
        Reader::open(&node, room, &asked("?last_event_id=0.0".to_owned(), None)).await.ok().unwrap();
    whole.catches_up(2).await;
    assert_eq!((whole.names[0].as_str(), whole.view.seen.len()), ("events", 2));
    for (lost, reason) in
        [(format!("{}.2", epoch - 1), "position_lost"), (format!("{epoch}.3"), "ahead_of_log")]
    {
        let mut reader = Reader::open(&node, room, &asked(String::new(), Some(&lost))).await.ok().unwrap();
        reader.catches_up(2).await;
        assert_eq!(reader.names[..2], ["resync", "snapshot"]);
        assert_eq!(reader.wait(|m| m["type"] == "resync").await["reason"], reason);
    }
}

#[tokio::test]
async fn no_page_of_a_long_snapshot_is_a_place_to_go_on_from_but_the_last() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let mut writer = world.client(0, &alice).await;
    writer.join(room).await;
    for n in 0..20 {
        let shape = json!({"id": format!("s{n}"), "text": "x".repeat(60_000)});
        writer.submit(room, &format!("op{n}"), &json!({"kind": "shape.add", "shape": shape})).await;
    }
    let node = world.cluster().nodes()[1].url();
    let mut reader = Reader::of(&node, &bob, room).await;
    reader.until(|reader| reader.names.len() == 2).await;
    assert_eq!((reader.view.live, &reader.last_id), (false, &None), "{:?}", reader.names);
    writer.submit(room, "meanwhile", &says("meanwhile")).await;
    // Cut off here, it begins anew.
    let mut again = Reader::after(&node, &bob, room, reader).await;
    again.catches_up(21).await;
    assert_eq!(again.view.shapes.len(), 20);
    assert_eq!(again.last_id, Some(format!("{}.21", again.view.epoch)));
}

#[tokio::test]
async fn a_stream_that_is_not_read_costs_bounded_memory_and_goes_on_from_the_log() {
    /// Of events while it takes nothing. A queue without a limit would hold them.
    const BYTES: usize = 48 * MIB;
    const TEXT: usize = 8 * 1024;
    const BATCH: usize = 100;
    /// Beyond what the node has grown to while it was read: its outbox holds 1 MiB,
    /// and an allocator differs from time to time.
    const GROWTH: usize = 32 * MIB;
    let change = |options: Options| {
        Options { nodes: 2, shards: 1, ..options }.set("sessions.slow_consumer_timeout_ms", 120_000)
    };
    let world = World::start(change).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let node = world.cluster().nodes()[1].url();
    let straw = Straw::to(&node).await;
    let mut slow = Reader::of(&straw.url, &bob, room).await;
    let mut lively = Reader::of(&node, &bob, room).await;
    let texts = vec!["x".repeat(TEXT); BATCH];
    let mut seq = 0;
    let mut batches = async |count: usize, slow: Option<&mut Reader>, lively: &mut Reader| {
        let mut readers: Vec<&mut Reader> = slow.into_iter().chain([lively]).collect();
        for _ in 0..count {
            commits(&world, &alice, room, seq, &texts).await;
            seq += BATCH as u64;
            for reader in &mut readers {
                reader.catches_up(seq).await;
                reader.view.seen.clear();
            }
        }
        resident(&world)
    };
    let read = batches(BYTES / TEXT / BATCH / 3, Some(&mut slow), &mut lively).await;
    straw.close();
    let unread = batches(BYTES / TEXT / BATCH, None, &mut lively).await;
    println!(
        "resident {} KiB while all was read, {} KiB after {} KiB that one took nothing of",
        read / 1024,
        unread / 1024,
        BYTES / 1024
    );
    assert_eq!(world.measured(1, "roomgate_sessions_lagging").await, 1.0, "it took everything: void");
    assert!(unread < read + GROWTH);
    straw.open();
    slow.catches_up(lively.view.seq).await;
    let live = async {
        while world.measured(1, "roomgate_sessions_lagging").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), live).await.expect("it is live again");
    assert_eq!(world.counted_on(1, "roomgate_sessions", "transport").await["sse"], 2.0);
}

/// Bytes of the node with the readers.
fn resident(world: &World) -> usize {
    let pid = world.cluster().nodes()[1].service().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn signals_and_who_is_here_are_told_and_a_stream_counts_as_somebody() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let mut writer = world.client(0, &alice).await;
    writer.join(room).await;
    let mut reader = Reader::of(&world.cluster().nodes()[1].url(), &bob, room).await;
    let here = reader.wait(|m| m["type"] == "presence").await;
    assert_eq!((&here["count"], &here["joined"][0]["user"]), (&json!(2), &json!(alice.user)), "{here}");
    assert_eq!(here["joined"].as_array().unwrap().len(), 1, "never about oneself");
    assert_eq!(reader.names[..2], ["snapshot", "presence"], "the state comes first");

    let came = writer.wait(|m| m["type"] == "presence" && m["count"] == 2).await;
    assert_eq!(came["joined"][0]["user"], bob.user, "{came}");
    writer.send(&json!({"type": "signal", "room": room, "data": {"x": 1}})).await;
    assert_eq!(reader.wait(|m| m["type"] == "signal").await["data"], json!({"x": 1}));
    writer.send(&submit(room, "op", &says("an event"))).await;
    reader.catches_up(1).await;
    drop(reader);
    let left = writer.wait(|m| m["type"] == "presence" && m["count"] == 1).await;
    assert_eq!(left["left"][0], came["joined"][0]["session"], "{left}");
}

#[tokio::test]
async fn a_quiet_stream_has_a_comment_every_15_s_also_behind_the_balancer() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut reader = Reader::of(&world.cluster().url(), &alice, room).await;
    let began = std::time::Instant::now();
    reader.until(|reader| reader.comments == 1).await;
    let took = began.elapsed();
    assert!((14..17).contains(&took.as_secs()), "{took:?}");
    assert_eq!(reader.names, ["snapshot", "presence"]);
}
