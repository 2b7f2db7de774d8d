//! How a stream ends: as a session does, with a `goodbye` and then no more.

use std::time::Duration;

use nix::sys::signal::Signal;
use roomgate::dev::{Api, Options};
use serde_json::json;

use super::reader::{Ask, Reader, says};
use crate::stopwatch::Stopwatch;
use crate::straw::Straw;
use crate::world::{Person, World, now};

/// The promise: a kick reaches every node within 5 s.
const PROMISED: Duration = Duration::from_secs(5);

async fn two_nodes() -> World {
    World::start(|options| Options { nodes: 2, shards: 1, replicas: 1, ..options }).await
}

async fn remove(world: &World, room: u64, person: &Person) {
    let user = &person.user;
    let text = format!(
        "BEGIN;
         INSERT INTO room_member (room_id, user_id, role) VALUES ({room}, '{user}', 'removed');
         UPDATE room_head SET access_rev = access_rev + 1 WHERE room_id = {room};
         COMMIT"
    );
    world.primaries().await[0].batch_execute(&text).await.unwrap();
}

#[tokio::test]
async fn who_is_removed_loses_the_stream_on_every_node_within_5_s_also_if_it_is_not_read() {
    let world = two_nodes().await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| world.person(name));
    let room = world.room(&alice, "open").await;
    let nodes: Vec<String> = world.cluster().nodes().iter().map(|node| node.url()).collect();
    let straw = Straw::to(&nodes[1]).await;
    let _stuck = Reader::of(&straw.url, &bob, room).await;
    straw.close();
    let mut writer = world.client(0, &alice).await;
    writer.join(room).await;
    for n in 0..200 {
        // Twelve megabytes are more than two sockets hold.
        let ack = writer.submit(room, &format!("op{n}"), &says(&"x".repeat(60_000))).await;
        assert_eq!(ack["type"], "ack", "{ack}");
    }
    assert_eq!(world.measured(1, "roomgate_sessions_lagging").await, 1.0, "it took everything: void");
    let mut stays = Reader::of(&nodes[1], &carol, room).await;
    let mut bobs = [Reader::of(&nodes[0], &bob, room).await, Reader::of(&nodes[1], &bob, room).await];
    for reader in &mut bobs {
        reader.catches_up(200).await;
    }

    remove(&world, room, &bob).await;
    let removed = Stopwatch::start();
    for reader in &mut bobs {
        let goodbye = reader.wait(|m| m["type"] == "goodbye").await;
        assert_eq!(goodbye["reason"], "kicked", "{goodbye}");
        reader.ends().await;
    }
    while world.counted("roomgate_sessions", "transport").await["sse"] > 1.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = removed.elapsed();
    assert!(took < PROMISED, "{took:?}");
    let refused = Reader::open(&nodes[0], room, &Ask::by(&bob)).await.err().unwrap();
    assert_eq!(refused.json()["error"]["code"], "forbidden");
    stays.catches_up(200).await;
    writer.submit(room, "last", &says("still here")).await;
    stays.catches_up(201).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_its_sign_in() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let node = world.cluster().nodes()[1].url();
    let token = world.sign(&json!({"sub": alice.user, "exp": now() + 3}));
    let short = Ask { token: Some(token), ..Ask::default() };
    let mut reader = Reader::open(&node, room, &short).await.ok().unwrap();
    assert!(reader.wait(|m| m["type"] == "token_expiring").await["expires_at"].is_u64());
    assert_eq!(reader.wait(|m| m["type"] == "goodbye").await["reason"], "token_expired");
    reader.ends().await;

    let email = format!("live-{:016x}@example.test", rand::random::<u64>());
    let wish = json!({"email": email, "password": "long enough", "name": "Live"});
    let account = Api::new(&node).post("/v1/signup", &wish).await.unwrap();
    assert_eq!(account.status, 201, "{}", account.text);
    let person = Person { user: String::new(), token: account.json()["token"].as_str().unwrap().to_owned() };
    let other = world.api_of(0, &person);
    let ticket = other.post("/v1/tickets", &json!(null)).await.unwrap().json();
    let by_ticket =
        Ask { query: format!("?ticket={}", ticket["ticket"].as_str().unwrap()), ..Ask::default() };
    let mut readers =
        [Reader::of(&node, &person, room).await, Reader::open(&node, room, &by_ticket).await.ok().unwrap()];
    let unused = other.post("/v1/tickets", &json!(null)).await.unwrap().json();
    assert_eq!(other.post("/v1/signout", &json!({})).await.unwrap().status, 204);
    for reader in &mut readers {
        assert_eq!(reader.wait(|m| m["type"] == "goodbye").await["reason"], "unauthenticated");
        reader.ends().await;
    }
    let late = Ask { query: format!("?ticket={}", unused["ticket"].as_str().unwrap()), ..Ask::default() };
    let refused = Reader::open(&node, room, &late).await.err().unwrap();
    assert_eq!(refused.status, 401, "{}", refused.text);
}

#[tokio::test]
async fn a_node_that_is_stopped_sends_its_streams_elsewhere_with_a_delay_each() {
    const STREAMS: usize = 20;
    let world = two_nodes().await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let nodes: Vec<String> = world.cluster().nodes().iter().map(|node| node.url()).collect();
    let mut readers = Vec::new();
    for _ in 0..STREAMS {
        let mut reader = Reader::of(&nodes[0], &alice, room).await;
        reader.catches_up(0).await;
        readers.push(reader);
    }
    world.cluster().nodes()[0].service().signal(Signal::SIGTERM);
    let mut delays = Vec::new();
    for reader in &mut readers {
        let goodbye = reader.wait(|m| m["type"] == "goodbye").await;
        assert_eq!(goodbye["reason"], "restart", "{goodbye}");
        reader.ends().await;
        let delay = goodbye["reconnect_after_ms"].as_u64().unwrap();
        assert!(delay == 0 || reader.retry_ms == Some(delay), "{:?}", reader.retry_ms);
        delays.push(delay);
    }
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > STREAMS / 2, "{delays:?}");
    let mut writer = world.client(1, &alice).await;
    writer.join(room).await;
    writer.submit(room, "op", &says("elsewhere")).await;
    let mut again = Reader::after(&nodes[1], &alice, room, readers.pop().unwrap()).await;
    again.catches_up(1).await;
}

#[tokio::test]
async fn a_stream_of_a_room_that_is_archived_says_so_and_ends() {
    let world = World::shared();
    let [alice, bob] = ["alice", "bob"].map(|name| world.person(name));
    let room = world.room(&alice, "open").await;
    let mut reader = Reader::of(&world.cluster().nodes()[1].url(), &bob, room).await;
    let path = format!("/v1/rooms/{room}");
    let archived = world.api_of(0, &alice).send("DELETE".parse().unwrap(), &path, None).await.unwrap();
    assert_eq!(archived.status, 204, "{}", archived.text);
    let told = reader.wait(|m| m["type"] == "error").await;
    assert_eq!(told["code"], "room_archived", "{told}");
    reader.ends().await;
}

#[tokio::test]
async fn a_stream_that_takes_nothing_is_closed_when_its_time_is_up() {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let change = |options: Options| {
        let options = Options { nodes: 1, shards: 1, replicas: 0, ..options };
        options.set("sessions.slow_consumer_timeout_ms", TIMEOUT.as_millis())
    };
    let world = World::start(change).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let straw = Straw::to(&world.cluster().nodes()[0].url()).await;
    let mut stuck = Reader::of(&straw.url, &bob, room).await;
    stuck.catches_up(0).await;
    straw.close();
    let mut writer = world.client(0, &alice).await;
    writer.join(room).await;
    let began = Stopwatch::start();
    for n in 0..100 {
        writer.submit(room, &format!("op{n}"), &says(&"x".repeat(60_000))).await;
    }
    while world.counted("roomgate_disconnects_total", "code").await["4000"] < 1.0 {
        assert!(began.elapsed() < TIMEOUT * 5, "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() + began.stood_still() >= TIMEOUT, "{:?}", began.elapsed());
    let mut again = Reader::after(&world.cluster().nodes()[0].url(), &bob, room, stuck).await;
    again.catches_up(100).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_room_within_5_s() {
    let world = two_nodes().await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let mut readers = Vec::new();
    for node in world.cluster().nodes() {
        readers.push(Reader::of(&node.url(), &bob, room).await);
    }
    let path = format!("/v1/rooms/{room}");
    let archived = world.api_of(0, &alice).send("DELETE".parse().unwrap(), &path, None).await.unwrap();
    assert_eq!(archived.status, 204, "{}", archived.text);
    let begun = Stopwatch::start();
    for reader in &mut readers {
        assert_eq!(reader.wait(|m| m["type"] == "error").await["code"], "room_archived");
        reader.wait(|m| m["type"] == "goodbye").await;
        reader.ends().await;
    }
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
    // Who may come in may be read from a replica that doesn't know yet.
    let again = loop {
        match Reader::open(&world.cluster().nodes()[1].url(), room, &Ask::by(&bob)).await {
            Err(refused) => break refused,
            Ok(_) => assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed()),
        }
    };
    assert_eq!(again.status, 410, "{}", again.text);
}
