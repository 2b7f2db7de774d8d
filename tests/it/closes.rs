//! Sessions that the gateway ends on its own account, as the client sees it, and
//! those that it must not end.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt, future, stream};
use nix::sys::signal::Signal;
use roomgate::dev::Options;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::append::replication::receiver;
use crate::client::{Client, submit};
use crate::session::{small_world, until_closed, with_bearer};
use crate::world::{Person, World};

#[tokio::test]
async fn an_idle_client_that_answers_pings_stays() {
    let world = small_world(|options| {
        options.set("sessions.heartbeat_ms", 400).set("sessions.pong_timeout_ms", 4000)
    })
    .await;
    let alice = world.person("alice");
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(world.client(0, &alice).await);
    }
    let idle =
        clients.iter_mut().map(|client| client.listens_until(tokio::time::sleep(Duration::from_secs(6))));
    future::join_all(idle).await;
}

#[tokio::test]
async fn who_is_refused_hundreds_of_times_a_second_is_closed_after_ten_and_nobody_sooner() {
    let world = small_world(|options| options.set("limits.submits_per_second", 1)).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let over = submit(room, "op", &json!({"kind": "message", "data": 1}));
    let over = Message::text(Value::Array(vec![over; 100]).to_string());
    let nonsense = Message::text(Value::Array(vec![json!({"type": "nonsense"}); 100]).to_string());
    let closes = [
        (vec![over], 4103, "rate_abuse"),
        (vec![nonsense], 4104, "protocol_violation"),
        (vec![Message::Ping(Bytes::new()); 100], 4103, "rate_abuse"),
    ];
    let abused = closes.map(|(messages, code, reason)| abuse(&world, &alice, messages, code, reason));
    // Somebody beside them who is only now and then too fast.
    let mut careless = world.client(0, &alice).await;
    careless.join(room).await;
    let often = async {
        loop {
            careless.send(&json!({"type": "nonsense"})).await;
            careless.wait(|m| m["type"] == "error").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! { _ = future::join_all(abused) => {}, () = often => {} }
    careless.send(&json!({"type": "ping"})).await;
    careless.wait(|m| m["type"] == "pong").await;
}

/// Sends `messages` five times a second until it is closed.
async fn abuse(world: &World, person: &Person, messages: Vec<Message>, code: u16, reason: &str) {
    let began = Instant::now();
    let (mut send, mut receive) = with_bearer(world, &person.token).await.split();
    let sending = async {
        // It fails once the other end has closed.
        while send.send_all(&mut stream::iter(messages.clone()).map(Ok)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        future::pending::<()>().await;
    };
    let (heard, closed) = tokio::select! {
        closed = until_closed(&mut receive) => closed,
        () = sending => unreachable!(),
    };
    let goodbye = heard.last().unwrap();
    assert_eq!(closed, Some(code), "{goodbye}");
    assert_eq!((&goodbye["type"], &goodbye["reason"]), (&json!("goodbye"), &json!(reason)));
    assert!(began.elapsed() > Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_commit_whose_fate_is_unknown_at_the_deadline_closes_the_session_without_an_answer() {
    let world = World::start(|options| {
        let options = Options { nodes: 2, shards: 1, replicas: 1, sync: true, ..options };
        options.set("writes.failover_wait_ms", 8000)
    })
    .await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let body = json!({"kind": "message", "data": 1});
    let first = client.submit(room, "first", &body).await;
    assert_eq!(first["seq"], 1, "connections and statements are ready: {first}");
    // Who counts visits would wait for the standby as well, with the room locked: then
    // nothing of the submit is ever written, and it is refused.
    let counted = format!("SELECT visits FROM room_head WHERE room_id = {room}");
    while world.primaries().await[0].query_one(&counted, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let standby = world.cluster().shards()[0].replicas().next().unwrap();
    // COMMIT waits for it, and nobody can tell how it ends.
    receiver(standby, Signal::SIGSTOP).await;
    client.send(&submit(room, "op", &body)).await;
    let goodbye = client.wait(|m| ["ack", "reject", "goodbye"].contains(&m["type"].as_str().unwrap())).await;
    assert_eq!(
        (&goodbye["type"], &goodbye["reason"]),
        (&json!("goodbye"), &json!("shard_unavailable")),
        "{goodbye}"
    );
    assert!(goodbye["reconnect_after_ms"].as_u64().is_some_and(|ms| (500..2000).contains(&ms)), "{goodbye}");
    assert_eq!(client.ends().await, Some(4002));

    receiver(standby, Signal::SIGCONT).await;
    let mut again = Client::connect(&world.cluster().nodes()[1].url(), &alice).await;
    again.join(room).await;
    let ack = again.submit(room, "op", &body).await;
    assert_eq!((&ack["type"], &ack["seq"]), (&json!("ack"), &json!(2)), "{ack}");
    again.catches_up(room, 2).await;
    assert_eq!(again.submit(room, "next", &body).await["seq"], 3, "one effect");
}
