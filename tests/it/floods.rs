//! Sessions that send more than their budget.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt, future};
use roomgate::dev::Options;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::client::submit;
use crate::session::{anonymous, small_world, until_closed, with_bearer};
use crate::world::{Person, World, now};

/// A message of each type, a malformed one, and an empty frame. `None` stands for a
/// control frame.
fn kinds(room: u64) -> Vec<(&'static str, Option<Value>)> {
    let put = submit(room, "one-op", &json!({"kind": "message", "data": 1}));
    vec![
        ("hello", Some(json!({"type": "hello"}))),
        ("join", Some(json!({"type": "join", "room": room}))),
        ("leave", Some(json!({"type": "leave", "room": 7}))),
        ("submit", Some(put)),
        ("signal", Some(json!({"type": "signal", "room": room, "data": 1}))),
        ("refresh", Some(json!({"type": "refresh", "token": "bad"}))),
        ("ping", Some(json!({"type": "ping"}))),
        ("invalid", Some(json!({"type": "nonsense"}))),
        ("nothing", Some(json!([]))),
        ("control frame", None),
    ]
}

fn few(options: Options) -> Options {
    // Below 60 a second no refusal counts as abuse: only the budget closes.
    let limits = [("limits.messages_per_second", 40), ("limits.message_burst", 40)];
    limits.into_iter().fold(options, |options, (key, value)| options.set(key, value))
}

#[tokio::test]
async fn a_flood_of_each_kind_is_slowed_down_and_then_closed() {
    let world = small_world(few).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let received = world.counted_on(0, "roomgate_messages_received_total", "type").await;
    for (kind, _) in kinds(room) {
        let is_counted = !["nothing", "control frame"].contains(&kind);
        assert_eq!(received.contains_key(kind), is_counted, "{kind}");
    }
    assert!(received.keys().all(|name| kinds(room).iter().any(|(kind, _)| kind == name)), "{received:?}");

    let floods = kinds(room).into_iter().map(|(kind, message)| flood(&world, kind, message));
    // An honest client beside them has its answers.
    let mut honest = world.client(0, &alice).await;
    honest.join(room).await;
    let draws = async {
        for n in 0.. {
            let ack = honest.submit(room, &format!("op-{n}"), &json!({"kind": "message", "data": n})).await;
            assert_eq!(ack["type"], "ack", "{ack}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! { _ = future::join_all(floods) => {}, () = draws => {} }
}

/// Sends as much as the socket takes, until the session is closed.
async fn flood(world: &World, kind: &str, message: Option<Value>) {
    let person = world.person("flooder");
    let began = Instant::now();
    let (mut send, mut receive) = with_bearer(world, &person.token).await.split();
    let frame = match message {
        Some(Value::Array(nothing)) => Message::text(Value::Array(nothing).to_string()),
        Some(message) => Message::text(Value::Array(vec![message; 40]).to_string()),
        None => Message::Ping(Bytes::new()),
    };
    let sending = async {
        while send.send(frame.clone()).await.is_ok() {}
        future::pending::<()>().await;
    };
    let (heard, closed) = tokio::select! {
        closed = until_closed(&mut receive) => closed,
        () = sending => unreachable!(),
    };
    assert_eq!(closed, Some(4103), "{kind}: {:?}", heard.last());
    // Forty at once, then forty a second, and one frame that was under way. A join has
    // two answers; welcome and goodbye come besides.
    let frames = began.elapsed().as_secs() as usize + 3;
    assert!(heard.len() <= 2 * 40 * frames + 2, "{kind}: {} answers", heard.len());
}

/// Batches over HTTP are messages too: their items and bytes are the user's.
#[tokio::test]
async fn batches_over_http_share_the_budget_of_a_users_messages() {
    for (key, least) in [("limits.user_messages_per_second", 5), ("limits.user_bytes_per_second", 100)] {
        let world = small_world(|options| options.set(key, least)).await;
        let (alice, bob) = (world.person("alice"), world.person("bob"));
        let room = world.room(&alice, "open").await;
        let path = format!("/v1/rooms/{room}/events");
        let batch = |of: &str| {
            let item = |n| json!({"op": format!("{of}-{n}"), "kind": "message", "data": "x".repeat(50)});
            json!({"items": (0..20).map(item).collect::<Vec<_>>()})
        };
        let token = world.sign(&json!({"sub": "backend", "scope": "server", "exp": now() + 600}));
        let server = world.api(&Person { user: "backend".to_owned(), token });
        let api = world.api(&alice);
        assert_eq!(api.post(&path, &batch("first")).await.unwrap().status, 200, "{key}");
        let refused = api.post(&path, &batch("second")).await.unwrap();
        assert_eq!(refused.status, 429, "{key}");
        assert!(refused.headers.contains_key("retry-after"), "{key}: {:?}", refused.headers);
        assert_eq!(world.api(&bob).post(&path, &batch("bob")).await.unwrap().status, 200, "{key}");
        for of in ["server-1", "server-2"] {
            assert_eq!(server.post(&path, &batch(of)).await.unwrap().status, 200, "{key}");
        }
    }
}

/// Nobody knows yet who it is: a token is all that they may send.
#[tokio::test]
async fn before_hello_a_frame_holds_a_token_and_no_more() {
    let world = World::shared();
    let alice = world.person("alice");
    let frame = |bytes: usize| {
        let empty = json!({"type": "ping", "x": ""}).to_string().len();
        Message::text(json!({"type": "ping", "x": "x".repeat(bytes - empty)}).to_string())
    };
    let mut socket = anonymous(world).await;
    socket.send(frame(16 * 1024)).await.unwrap();
    let answer: Value =
        serde_json::from_str(socket.next().await.unwrap().unwrap().to_text().unwrap()).unwrap();
    assert_eq!(answer["type"], "pong", "{answer}");
    let mut socket = anonymous(world).await;
    socket.send(frame(16 * 1024 + 1)).await.unwrap();
    assert_eq!(until_closed(&mut socket).await.1, Some(1009));
    let mut socket = with_bearer(world, &alice.token).await;
    socket.send(frame(40 * 1024)).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        if message.to_text().unwrap().contains("pong") {
            return;
        }
    }
    panic!("a large frame after hello is answered");
}
