//! Who comes, what they say, what they are shown, how they go.

use std::time::Duration;

use futures_util::SinkExt;
use futures_util::future::{join, join5};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::watch::Watch;
use crate::client::{Client, submit};
use crate::session::{raw_close, raw_session, small_world, until_closed, with_bearer};
use crate::straw::Straw;
use crate::view::View;
use crate::world::{Person, World, now};

pub const COMING_AND_GOING: &[&str] = &[
    "roomgate_sessions{transport=\"websocket\"}",
    "roomgate_sessions{transport=\"legacy\"}",
    "roomgate_sessions{transport=\"sse\"}",
    "roomgate_rooms_active",
    "roomgate_messages_received_total{type=\"hello\"}",
    "roomgate_messages_received_total{type=\"join\"}",
    "roomgate_messages_received_total{type=\"leave\"}",
    "roomgate_messages_received_total{type=\"submit\"}",
    "roomgate_messages_received_total{type=\"signal\"}",
    "roomgate_messages_received_total{type=\"refresh\"}",
    "roomgate_messages_received_total{type=\"ping\"}",
    "roomgate_messages_received_total{type=\"invalid\"}",
    "roomgate_resumes_total{outcome=\"resumed\"}",
    "roomgate_resumes_total{outcome=\"snapshot\"}",
    "roomgate_resyncs_total{reason=\"position_lost\"}",
    "roomgate_resyncs_total{reason=\"ahead_of_log\"}",
    "roomgate_events_delivered_total",
    "roomgate_commit_to_delivery_seconds",
    "roomgate_disconnects_total{code=\"1000\"}",
    "roomgate_disconnects_total{code=\"1001\"}",
    "roomgate_disconnects_total{code=\"1002\"}",
    "roomgate_disconnects_total{code=\"1003\"}",
    "roomgate_disconnects_total{code=\"1007\"}",
    "roomgate_disconnects_total{code=\"1009\"}",
];

#[tokio::test]
async fn who_comes_what_they_say_and_how_they_go_is_counted() {
    let world = small_world(|options| options.set("sessions.ring_events", 10)).await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    comes_by_every_way(&world, &watch, &alice, room).await;
    says_everything(&world, &watch, &alice, room).await;
    comes_back(&world, &watch, &alice, room).await;
    breaks_the_protocol(&world, &watch, &alice).await;
    watch.all(COMING_AND_GOING);
}

async fn comes_by_every_way(world: &World, watch: &Watch<'_>, alice: &Person, room: u64) {
    let node = watch.node.url();
    let come = async {
        let mut client = world.client(0, alice).await;
        client.join(room).await;
        client
    };
    let hello = "roomgate_messages_received_total{type=\"hello\"}";
    let join = "roomgate_messages_received_total{type=\"join\"}";
    let websocket = "roomgate_sessions{transport=\"websocket\"}";
    let client = watch.moves(&[websocket, "roomgate_rooms_active", hello, join], come).await;
    let gone = "roomgate_disconnects_total{code=\"1001\"}";
    watch.moves(&[gone, websocket, "roomgate_rooms_active"], async { drop(client.vanish()) }).await;
    let mut socket = with_bearer(world, &alice.token).await;
    let closed = "roomgate_disconnects_total{code=\"1000\"}";
    watch.moves(&[closed], async { socket.close(None).await.unwrap() }).await;

    let old = format!("{}/?token={}", node.replacen("http", "ws", 1), alice.token);
    let come = async { tokio_tungstenite::connect_async(old).await.unwrap().0 };
    drop(watch.moves(&["roomgate_sessions{transport=\"legacy\"}"], come).await);
    let host = node.trim_start_matches("http://");
    let get = format!(
        "GET /v1/rooms/{room}/live HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\n",
        alice.token
    );
    let come = async {
        let mut stream = TcpStream::connect(host).await.unwrap();
        stream.write_all(get.as_bytes()).await.unwrap();
        stream
    };
    drop(watch.moves(&["roomgate_sessions{transport=\"sse\"}"], come).await);
}

async fn says_everything(world: &World, watch: &Watch<'_>, alice: &Person, room: u64) {
    let mut client = world.client(0, alice).await;
    client.join(room).await;
    let fresh = world.sign(&json!({"sub": alice.user, "exp": now() + 9000}));
    let talk = async {
        client.submit(room, "said", &json!({"kind": "message", "data": 1})).await;
        client.catches_up(room, 1).await;
        client.send(&json!({"type": "signal", "room": room, "data": 1})).await;
        client.ask(&json!({"type": "refresh", "token": fresh}), "refreshed").await;
        client.ask(&json!({"type": "ping"}), "pong").await;
        client.ask(&json!({"type": "leave", "room": room}), "left").await;
        client.refused("7").await;
    };
    let said = [
        "roomgate_messages_received_total{type=\"submit\"}",
        "roomgate_messages_received_total{type=\"signal\"}",
        "roomgate_messages_received_total{type=\"refresh\"}",
        "roomgate_messages_received_total{type=\"ping\"}",
        "roomgate_messages_received_total{type=\"leave\"}",
        "roomgate_messages_received_total{type=\"invalid\"}",
        "roomgate_events_delivered_total",
        "roomgate_commit_to_delivery_seconds",
    ];
    watch.moves(&said, talk).await;
}

/// From memory, from the log, and to places that are in neither.
async fn comes_back(world: &World, watch: &Watch<'_>, alice: &Person, room: u64) {
    let item = |n: usize| json!({"op": format!("more-{n}"), "kind": "message", "data": n});
    let items: Vec<Value> = (0..40).map(item).collect();
    let path = format!("/v1/rooms/{room}/events");
    world.api(alice).post(&path, &json!({"items": items})).await.unwrap();
    let mut client = world.client(0, alice).await;
    client.join(room).await;
    let View { epoch, seq, .. } = client.rooms[&room].clone();
    let at = |epoch, seq| View { epoch, seq, live: true, ..View::default() };
    let (resumed, delivered) =
        ("roomgate_resumes_total{outcome=\"resumed\"}", "roomgate_events_delivered_total");
    let snapshot = "roomgate_resumes_total{outcome=\"snapshot\"}";
    for seq in [seq - 5, 5] {
        watch.moves(&[resumed, delivered], client.resume(room, at(epoch, seq))).await;
    }
    let lost = "roomgate_resyncs_total{reason=\"position_lost\"}";
    watch.moves(&[snapshot, lost], client.resume(room, at(epoch + 1, seq))).await;
    let ahead = "roomgate_resyncs_total{reason=\"ahead_of_log\"}";
    watch.moves(&[snapshot, ahead], client.resume(room, at(epoch, seq + 9))).await;
}

async fn breaks_the_protocol(world: &World, watch: &Watch<'_>, alice: &Person) {
    let binary = Message::Binary(Bytes::from_static(b"{}"));
    let mut socket = with_bearer(world, &alice.token).await;
    let sent = async {
        socket.send(binary).await.unwrap();
        until_closed(&mut socket).await
    };
    watch.moves(&["roomgate_disconnects_total{code=\"1003\"}"], sent).await;
    for (code, bytes) in [
        ("roomgate_disconnects_total{code=\"1007\"}", b"\x81\x82\0\0\0\0\xff\xfe".as_slice()),
        ("roomgate_disconnects_total{code=\"1002\"}", b"\x81\x02{}"),
        ("roomgate_disconnects_total{code=\"1009\"}", b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"),
    ] {
        let mut raw = raw_session(world, alice).await;
        watch.moves(&[code], async { raw.write_all(bytes).await.unwrap() }).await;
    }
}

pub const TIMES_AND_LIMITS: &[&str] = &[
    "roomgate_sessions_lagging",
    "roomgate_outbox_bytes",
    "roomgate_disconnects_total{code=\"1013\"}",
    "roomgate_disconnects_total{code=\"4000\"}",
    "roomgate_disconnects_total{code=\"4001\"}",
    "roomgate_disconnects_total{code=\"4100\"}",
    "roomgate_disconnects_total{code=\"4101\"}",
    "roomgate_disconnects_total{code=\"4102\"}",
    "roomgate_disconnects_total{code=\"4103\"}",
    "roomgate_disconnects_total{code=\"4104\"}",
    "roomgate_rate_limited_total{action=\"connection\"}",
    "roomgate_rate_limited_total{action=\"hello\"}",
    "roomgate_rate_limited_total{action=\"join\"}",
    "roomgate_rate_limited_total{action=\"submit\"}",
    "roomgate_rate_limited_total{action=\"signal\"}",
    "roomgate_rate_limited_total{action=\"signal_fanout\"}",
    "roomgate_rate_limited_total{action=\"traffic\"}",
    "roomgate_rate_limited_total{action=\"http\"}",
    "roomgate_rejects_total{code=\"rate_limited\"}",
    "roomgate_submits_total{outcome=\"refused\"}",
];

#[tokio::test]
async fn who_is_too_slow_too_silent_or_asks_too_much_is_counted() {
    let world = small_world(|options| {
        let times = [
            // Not when the others have had their ten seconds.
            ("sessions.heartbeat_ms", 3000),
            ("sessions.pong_timeout_ms", 4000),
            ("sessions.hello_timeout_ms", 4000),
            ("sessions.slow_consumer_timeout_ms", 3000),
        ];
        let limits = [
            ("limits.sessions_per_user", 2),
            ("limits.rooms_per_session", 1),
            ("limits.connections", 40),
            ("limits.submits_per_second", 1),
            ("limits.submit_burst", 5),
            ("limits.signals_per_second", 1),
            ("limits.room_signal_bytes_per_second", 1),
            ("limits.signins_per_minute", 1),
            ("limits.messages_per_second", 400),
            ("limits.message_burst", 800),
        ];
        times.into_iter().chain(limits).fold(options, |options, (key, value)| options.set(key, value))
    })
    .await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    asks_too_much(&world, &watch).await;
    let everybody = join5(
        takes_nothing(&world),
        says_nothing(&world),
        is_out_of_time(&world),
        is_removed(&world),
        join(goes_on_and_on(&world, "signal"), goes_on_and_on(&world, "nonsense")),
    );
    let seen = [
        "roomgate_sessions_lagging",
        "roomgate_outbox_bytes",
        "roomgate_disconnects_total{code=\"4000\"}",
        "roomgate_disconnects_total{code=\"4001\"}",
        "roomgate_disconnects_total{code=\"4100\"}",
        "roomgate_disconnects_total{code=\"4101\"}",
        "roomgate_disconnects_total{code=\"4102\"}",
        "roomgate_disconnects_total{code=\"4103\"}",
        "roomgate_disconnects_total{code=\"4104\"}",
    ];
    watch.moves(&seen, everybody).await;
    watch.all(TIMES_AND_LIMITS);
}

async fn asks_too_much(world: &World, watch: &Watch<'_>) {
    let alice = world.person("alice");
    let node = watch.node.url();
    let crowd = async {
        let mut connections = Vec::new();
        for _ in 0..80 {
            connections.push(TcpStream::connect(node.trim_start_matches("http://")).await.unwrap());
        }
    };
    watch.moves(&["roomgate_rate_limited_total{action=\"connection\"}"], crowd).await;
    let (room, other) = (world.room(&alice, "open").await, world.room(&alice, "open").await);
    let rejects = "roomgate_rejects_total{code=\"rate_limited\"}";
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let join = json!({"type": "join", "room": other}).to_string();
    watch.moves(&["roomgate_rate_limited_total{action=\"join\"}", rejects], client.refused(&join)).await;
    let put = |n: usize| submit(room, &format!("op{n}"), &json!({"kind": "message", "data": n}));
    let submits = Value::Array((0..20).map(put).collect());
    let refused = "roomgate_submits_total{outcome=\"refused\"}";
    let limited = "roomgate_rate_limited_total{action=\"submit\"}";
    watch.moves(&[limited, rejects, refused], client.send(&submits)).await;
    let signals = vec![json!({"type": "signal", "room": room, "data": 1}); 5];
    let signals = Value::Array(signals);
    watch.moves(&["roomgate_rate_limited_total{action=\"signal\"}", rejects], client.send(&signals)).await;

    let mut bob = world.client(0, &world.person("bob")).await;
    bob.join(room).await;
    let signal = json!({"type": "signal", "room": room, "data": 1});
    watch.moves(&["roomgate_rate_limited_total{action=\"signal_fanout\"}"], bob.send(&signal)).await;

    let pings = Value::Array(vec![json!({"type": "ping"}); 250]);
    let floods = async {
        for _ in 0..8 {
            client.send(&pings).await;
        }
    };
    watch.moves(&["roomgate_rate_limited_total{action=\"traffic\"}"], floods).await;

    let _second = world.client(0, &alice).await;
    let third = async { until_closed(&mut with_bearer(world, &alice.token).await).await };
    let overload = "roomgate_disconnects_total{code=\"1013\"}";
    watch.moves(&["roomgate_rate_limited_total{action=\"hello\"}", rejects, overload], third).await;
    let wish = json!({"email": "nobody@example.test", "password": "a long guess"});
    let api = world.api(&alice);
    let guesses = async {
        for _ in 0..3 {
            api.post("/v1/signin", &wish).await.unwrap();
        }
    };
    watch.moves(&["roomgate_rate_limited_total{action=\"http\"}", rejects], guesses).await;
}

/// Its outbox fills, it lags, and it is closed.
async fn takes_nothing(world: &World) {
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let straw = Straw::to(&world.cluster().nodes()[0].url()).await;
    let mut stuck = Client::connect(&straw.url, &bob).await;
    stuck.join(room).await;
    straw.close();
    let path = format!("/v1/rooms/{room}/events");
    for batch in 0..16 {
        let item = |n| json!({"op": format!("{batch}-{n}"), "kind": "message", "data": "x".repeat(4096)});
        let items: Vec<Value> = (0..100).map(item).collect();
        world.api(&alice).post(&path, &json!({"items": items})).await.unwrap();
    }
    // The straw stays as it is until that.
    while world.counted("roomgate_disconnects_total", "code").await["4000"] < 1.0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// No hello, and no pongs.
async fn says_nothing(world: &World) {
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let mut silent = Client::silent(&world.cluster().nodes()[0].url(), &alice).await;
    assert_eq!(silent.ends().await, Some(4100));
    let mut dead = raw_session(world, &bob).await;
    assert_eq!(raw_close(&mut dead).await, 4001);
}

async fn is_out_of_time(world: &World) {
    let alice = world.person("alice");
    let short = world.sign(&json!({"sub": alice.user, "exp": now() + 2}));
    let mut socket = with_bearer(world, &short).await;
    assert_eq!(until_closed(&mut socket).await.1, Some(4101));
}

async fn is_removed(world: &World) {
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &bob).await;
    client.join(room).await;
    let path = format!("/v1/rooms/{room}/members/{}", bob.user);
    let removed = world.api(&alice).send("DELETE".parse().unwrap(), &path, None).await.unwrap();
    assert!(removed.status.is_success(), "{}", removed.text);
    assert_eq!(client.ends().await, Some(4102));
}

/// Over its limit, or beside the protocol, second after second.
async fn goes_on_and_on(world: &World, what: &str) {
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let (message, code) = match what {
        "signal" => (json!({"type": "signal", "room": room, "data": 1}), 4103),
        _ => (json!(7), 4104),
    };
    let frame = Value::Array(vec![message; 80]);
    let ended = loop {
        client.try_send(&frame).await;
        let pause = tokio::time::sleep(Duration::from_millis(250));
        tokio::select! { ended = client.ends() => break ended, () = pause => {} }
    };
    assert_eq!(ended, Some(code), "{what}");
}
