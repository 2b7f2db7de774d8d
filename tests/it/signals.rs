//! Cursors and the like: the last value arrives, and not one message each.

use std::time::{Duration, Instant};

use roomgate::dev::{Api, Options};
use serde_json::{Value, json};

use crate::client::Client;
use crate::session::small_world;
use crate::world::World;

/// How often a room tells signals.
const TICK: Duration = Duration::from_millis(33);

/// A frame with signals `from` … `to` − 1.
fn burst(room: u64, from: u64, to: u64) -> Value {
    (from..to).map(|n| json!({"type": "signal", "room": room, "data": n})).collect()
}

/// At once, and then one a tick; with a tick to spare at the end.
fn ticks_since(start: Instant) -> usize {
    usize::try_from(start.elapsed().as_millis() / TICK.as_millis()).unwrap() + 2
}

/// What is heard of one sender, up to `last`, and how much it may be.
async fn hears(client: &mut Client, start: Instant, last: u64) -> (Vec<u64>, usize) {
    let mut heard = Vec::new();
    while heard.last() != Some(&last) {
        heard.push(client.wait(|m| m["type"] == "signal").await["data"].as_u64().unwrap());
    }
    (heard, ticks_since(start))
}

#[tokio::test]
async fn of_a_burst_of_signals_few_arrive_and_the_last_value_last_on_every_node() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let mut sender = world.client(0, &alice).await;
    let (mut near, mut far) = (world.client(0, &bob).await, world.client(1, &bob).await);
    for client in [&mut sender, &mut near, &mut far] {
        client.join(room).await;
    }
    let (start, mut said) = (Instant::now(), 0);
    while start.elapsed() < 10 * TICK {
        let mut frame = burst(room, said, said + 10);
        frame.as_array_mut().unwrap().push(json!({"type": "ping"}));
        sender.ask(&frame, "pong").await;
        said += 10;
    }
    let heard = tokio::join!(hears(&mut near, start, said - 1), hears(&mut far, start, said - 1));
    for (values, most) in [heard.0, heard.1] {
        assert!(values.is_sorted_by(|a, b| a < b), "{values:?}");
        assert!(values.len() <= most, "{} of {said} where {most} ticks fit", values.len());
    }
}

#[tokio::test]
async fn a_tick_is_one_announcement_for_all_senders_and_each_is_held_to_its_rate() {
    let world = World::start(|options| {
        Options { nodes: 2, shards: 1, replicas: 0, ..options }.set("limits.signals_per_second", 30)
    })
    .await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut far = world.client(1, &alice).await;
    far.join(room).await;
    let mut senders = Vec::new();
    for _ in 0..20 {
        let mut sender = world.client(0, &alice).await;
        sender.join(room).await;
        senders.push(sender);
    }
    far.wait(|m| m["type"] == "presence" && m["count"] == 21).await;
    let before = announced(&world, 0).await;
    let start = Instant::now();
    for sender in &mut senders {
        sender.send(&burst(room, 0, 30)).await;
    }
    for _ in 0..20 {
        far.wait(|m| m["type"] == "signal" && m["data"] == 29).await;
    }
    let (made, most) = (announced(&world, 0).await - before, ticks_since(start));
    assert!((1..=most).contains(&made), "{made} announcements where {most} ticks fit, of 600 signals");

    let sender = &mut senders[0];
    sender.send(&burst(room, 0, 100)).await;
    let refused = sender.wait(|m| m["type"] == "error").await;
    assert_eq!((&refused["code"], &refused["of"]), (&json!("rate_limited"), &json!("signal")));
    assert!(refused["retry_after_ms"].as_u64().is_some_and(|ms| (1..=100).contains(&ms)), "{refused}");
    sender.send(&json!({"type": "ping"})).await;
    sender.wait(|m| m["type"] == "pong").await;
}

/// Twenty senders of signals to three receivers, and an event in between.
#[tokio::test]
async fn signals_beyond_their_bytes_are_held_back_and_events_are_not() {
    const RATE: usize = 40_000;
    let world = small_world(|options| options.set("limits.room_signal_bytes_per_second", RATE)).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let (mut clients, mut receiver) = (Vec::new(), world.client(0, &alice).await);
    receiver.join(room).await;
    for _ in 0..20 {
        let mut client = world.client(0, &alice).await;
        client.join(room).await;
        clients.push(client);
    }
    let data = |n: u64| json!({"n": n, "text": "x".repeat(900)});
    let start = Instant::now();
    for n in 0..60 {
        for client in &mut clients {
            client.send(&json!({"type": "signal", "room": room, "data": data(n)})).await;
        }
        let body = json!({"kind": "message", "data": n});
        clients[0].submit(room, &format!("op-{n}"), &body).await;
        receiver.catches_up(room, n + 1).await;
    }
    let is_signal = |message: &&Value| message["type"] == "signal";
    let heard = receiver.untaken().iter().filter(is_signal).count();
    let most = RATE as f64 * (start.elapsed().as_secs_f64() + 0.25) / (21.0 * 900.0) + 1.0;
    assert!(heard > 0 && heard as f64 <= most, "{heard} of 1200 where {most} are paid for");
    let held = world.counted_on(0, "roomgate_rate_limited_total", "action").await["signal_fanout"];
    assert!(held > 0.0, "{held}");
    // The last values arrive in the end, of every sender.
    for client in &clients {
        let from = json!(client.session);
        let last = |m: &Value| m["type"] == "signal" && m["session"] == from && m["data"]["n"] == 59;
        receiver.wait(last).await;
    }
}

#[tokio::test]
async fn signals_beyond_a_users_bytes_are_refused() {
    let world = small_world(|options| options.set("limits.user_signal_bytes_per_second", 4000)).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let signal = json!({"type": "signal", "room": room, "data": "x".repeat(900)});
    let (mut here, mut there, mut other) =
        (world.client(0, &alice).await, world.client(0, &alice).await, world.client(0, &bob).await);
    for client in [&mut here, &mut there, &mut other] {
        client.join(room).await;
    }
    // Three members: about 3 000 bytes a signal, over all sessions of the user.
    here.send(&signal).await;
    other.wait(|m| m["type"] == "signal").await;
    let refused = there.refused(&signal.to_string()).await;
    assert_eq!((&refused["code"], &refused["of"]), (&json!("rate_limited"), &json!("signal")));
    assert!(refused["retry_after_ms"].as_u64().is_some_and(|ms| ms <= 1000), "{refused}");
    other.send(&signal).await;
    here.wait(|m| m["type"] == "signal" && m["user"] == json!(bob.user)).await;
    let ack = there.submit(room, "op", &json!({"kind": "message", "data": 1})).await;
    assert_eq!(ack["type"], "ack", "{ack}");
}

/// How many announcements Redis took of a node.
async fn announced(world: &World, node: usize) -> usize {
    let text = Api::new(&world.cluster().nodes()[node].admin_url()).get("/metrics").await.unwrap().text;
    let line = text.lines().find(|line| line.starts_with("roomgate_bus_published_total ")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}
