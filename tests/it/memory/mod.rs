//! A node's memory is shared fairly by its users: a request reserves its bytes before it
//! reads, and a client that does not take its answer makes nobody else wait.

mod bounds;
mod lists;

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use roomgate::dev::Options;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, submit};
use crate::convergence::FROM_PRIMARY;
use crate::session::raw_session;
use crate::session::with_bearer;
use crate::world::{Person, World};

const MIB: f64 = 1048576.0;

/// One node whose users may take up so many MiB.
pub async fn one_node(user_mib: usize) -> World {
    let bytes = user_mib << 20;
    World::start(|options| Options { nodes: 1, shards: 1, ..options.set("memory.user_bytes", bytes as u64) })
        .await
}

/// Fills a room with `count` shapes of 60 kB each.
pub async fn draw(world: &World, person: &Person, room: u64, count: usize) {
    let mut client = world.client(0, person).await;
    client.join(room).await;
    for n in 0..count {
        let shape = json!({"id": format!("s{n:04}"), "type": "rect", "text": noise(60_000)});
        let body = json!({"kind": "shape.add", "shape": shape});
        assert_eq!(client.submit(room, &format!("s{n}"), &body).await["type"], "ack");
    }
}

/// A text that does not get shorter by compression.
pub fn noise(bytes: usize) -> String {
    use rand::distr::{Alphanumeric, SampleString};
    Alphanumeric.sample_string(&mut rand::rng(), bytes)
}

pub async fn reserved(world: &World) -> f64 {
    world.measured(0, "roomgate_memory_reserved_bytes").await
}

/// A request whose answer nobody reads.
pub async fn asks_and_takes_nothing(world: &World, person: &Person, path: &str) -> TcpStream {
    let url = world.cluster().nodes()[0].url();
    let address = url.strip_prefix("http://").unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\r\n", person.token);
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn slow_readers_wait_for_themselves_and_for_nobody_else() {
    let world = one_node(16).await;
    let [alice, eve] = ["alice", "eve"].map(|name| world.person(name));
    let room = world.room(&alice, "open").await;
    draw(&world, &alice, room, 80).await;
    let path = format!("/v1/rooms/{room}/events?limit=1000&{FROM_PRIMARY}");
    let mut sockets = Vec::new();
    for _ in 0..12 {
        sockets.push(asks_and_takes_nothing(&world, &eve, &path).await);
    }
    let (eves, alices) = (world.api_of(0, &eve), world.api_of(0, &alice));
    let begun = Instant::now();
    let refused = loop {
        let answer = eves.get(&path).await.unwrap();
        let held = reserved(&world).await;
        assert!(held <= 17.0 * MIB, "{held}");
        if answer.status == 503 {
            break answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no request was refused; {held} bytes are held");
    };
    assert_eq!(
        (refused.json()["error"]["code"].as_str(), &refused.headers["retry-after"]),
        (Some("unavailable"), &"1".parse().unwrap())
    );
    assert!(world.measured(0, "roomgate_rate_limited_total{action=\"memory\"}").await > 0.0);
    assert_eq!(alices.get(&path).await.unwrap().status, 200, "another user's request");
    drop(sockets);
    let begun = Instant::now();
    while reserved(&world).await > 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} bytes stay", reserved(&world).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(eves.get(&path).await.unwrap().status, 200);
}

/// A session that joins and takes nothing.
pub async fn joins_and_takes_nothing(world: &World, person: &Person, room: u64) -> impl Sized + use<> {
    let mut socket = with_bearer(world, &person.token).await;
    let join = json!({"type": "join", "room": room});
    socket.send(Message::text(join.to_string())).await.unwrap();
    socket
}

#[tokio::test]
async fn clients_that_join_slowly_share_one_state_of_a_busy_room() {
    const SHAPES: usize = 100;
    let world =
        World::start(|options| Options { nodes: 1, shards: 1, ..options.set("sessions.ring_events", 4) })
            .await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    draw(&world, &alice, room, SHAPES).await;
    let mut writer = world.client(0, &alice).await;
    writer.join(room).await;
    let state = SHAPES as f64 * 60_000.0;
    let mut joiners = Vec::new();
    let mut most = 0.0_f64;
    for n in 0..8 {
        joiners.push(joins_and_takes_nothing(&world, &world.person("slow"), room).await);
        let begun = Instant::now();
        while reserved(&world).await < state {
            assert!(begun.elapsed() < Duration::from_secs(60), "no joiner is slow");
        }
        // So many that the state can't be brought up to date from memory.
        for event in 0..10 {
            let said = json!({"kind": "message", "data": event});
            assert_eq!(writer.submit(room, &format!("m{n}-{event}"), &said).await["type"], "ack");
        }
        most = most.max(reserved(&world).await);
    }
    // The state, and pages of the log since an older state: each once, not once a joiner.
    assert!(most < 3.0 * state, "{most} bytes for a state of {state}");
    let mut late = world.client(0, &world.person("late")).await;
    late.join(room).await;
    late.catches_up(room, SHAPES as u64 + 80).await;
    assert_eq!(late.rooms[&room].shapes.len(), SHAPES);
}

#[tokio::test]
async fn a_state_in_the_past_waits_for_its_users_share() {
    let world = one_node(8).await;
    let [alice, eve] = ["alice", "eve"].map(|name| world.person(name));
    let room = world.room(&alice, "open").await;
    draw(&world, &alice, room, 60).await;
    let path = format!("/v1/rooms/{room}/shapes?seq=50&limit=1&{FROM_PRIMARY}");
    let slow =
        asks_and_takes_nothing(&world, &eve, &format!("/v1/rooms/{room}/events?limit=1000&{FROM_PRIMARY}"))
            .await;
    let begun = Instant::now();
    while reserved(&world).await < 3.0 * MIB {
        assert!(begun.elapsed() < Duration::from_secs(60), "the slow client took it all");
    }
    assert_eq!(world.api_of(0, &eve).get(&path).await.unwrap().status, 503);
    let answer = world.api_of(0, &alice).get(&path).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.json()["seq"].as_u64()), (200, Some(50)));
    drop(slow);
}

#[tokio::test]
async fn unfinished_frames_wait_for_their_users_share() {
    let world = one_node(4).await;
    let [alice, eve] = ["alice", "eve"].map(|name| world.person(name));
    let room = world.room(&alice, "open").await;
    // Of 1 MiB, as the node reserves for a frame that has begun.
    let unfinished =
        [&[0x81, 0xff][..], &(1_u64 << 20).to_be_bytes(), &[0; 4], &vec![b'x'; 100_000]].concat();
    let mut sockets = Vec::new();
    for _ in 0..12 {
        let mut raw = raw_session(&world, &eve).await;
        raw.write_all(&unfinished).await.unwrap();
        sockets.push(raw);
    }
    let begun = Instant::now();
    while reserved(&world).await < 4.0 * MIB {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} bytes are held", reserved(&world).await);
    }
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let large: Vec<Value> = (0..12)
        .map(|n| submit(room, &format!("op-{n}"), &json!({"kind": "message", "data": noise(50_000)})))
        .collect();
    client.send(&Value::Array(large)).await;
    assert_eq!(client.answer(room, "op-11").await["type"], "ack");
    assert!(reserved(&world).await <= 4.5 * MIB);
    drop(sockets);
    while reserved(&world).await > 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} bytes stay", reserved(&world).await);
    }
}

/// The answers of a client that hears all, for tests of bounds.
pub async fn answer_to(client: &mut Client, room: u64, op: &str, body: &Value) -> (String, String) {
    let answer = client.submit(room, op, body).await;
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    (text("type"), text("code"))
}
