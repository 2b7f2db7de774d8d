//! What a session answers, when it ends, and with which code.

use std::time::Duration;

use futures_util::{SinkExt, Stream, StreamExt};
use nix::sys::signal::Signal;
use roomgate::dev::Options;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::client::{Client, rect, submit};
use crate::world::{Person, World, now};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

const PATIENCE: Duration = Duration::from_secs(60);

/// An upgrade at `path` of the world's first node, with these headers; the
/// status if it is refused.
async fn upgrade(world: &World, path: &str, headers: &[(&'static str, &str)]) -> Result<Socket, u16> {
    let node = world.cluster().nodes()[0].url().replacen("http", "ws", 1);
    let mut request = format!("{node}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{path}: {error}"),
    }
}

pub async fn with_bearer(world: &World, token: &str) -> Socket {
    let protocols = format!("roomgate.v1, bearer.{token}");
    upgrade(world, "/v1/ws", &[("Sec-WebSocket-Protocol", &protocols)]).await.unwrap()
}

/// Nobody yet: no token was shown.
pub async fn anonymous(world: &World) -> Socket {
    upgrade(world, "/v1/ws", &[("Sec-WebSocket-Protocol", "roomgate.v1")]).await.unwrap()
}

/// All messages up to the close, and its code.
pub async fn until_closed(
    socket: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
) -> (Vec<Value>, Option<u16>) {
    let mut heard = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.expect("the connection ends") {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text).unwrap() {
                Value::Array(messages) => heard.extend(messages),
                message => heard.push(message),
            },
            Some(Ok(Message::Close(close))) => return (heard, close.map(|close| close.code.into())),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return (heard, None),
        }
    }
}

pub fn types(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["type"].as_str().unwrap()).collect()
}

/// A cluster of one node and one database, for tests of what time does.
pub async fn small_world(change: impl FnOnce(Options) -> Options) -> World {
    World::start(|options| change(Options { nodes: 1, shards: 1, replicas: 0, ..options })).await
}

#[tokio::test]
async fn answers_come_in_order_and_carry_the_id_of_what_they_answer() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = Client::silent(&world.cluster().nodes()[0].url(), &alice).await;
    let frame = json!([
        { "type": "ping", "id": 1, "t": { "any": [1.50, "x"] } },
        { "type": "hello", "id": "two", "token": alice.token, "client": { "name": "it", "version": "1" } },
        { "type": "join", "id": 3, "room": room },
        { "type": "leave", "id": "four", "room": room },
        { "type": "leave", "id": 5, "room": room },
        { "type": "ping" },
    ]);
    client.send(&frame).await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        let answered = ["pong", "welcome", "joined", "left", "error"];
        answers.push(client.wait(|m| answered.contains(&m["type"].as_str().unwrap())).await);
    }
    assert_eq!(types(&answers), ["pong", "welcome", "joined", "left", "left", "pong"]);
    let ids: Vec<_> = answers.iter().map(|answer| answer["id"].clone()).collect();
    assert_eq!(ids, [json!(1), json!("two"), json!(3), json!("four"), json!(5), Value::Null]);
    assert_eq!(answers[0]["t"], json!({ "any": [1.50, "x"] }));
    assert!(answers[0]["server_time"].as_u64().is_some_and(|time| time / 1000 >= now() - 60));
    let welcome = &answers[1];
    assert_eq!((&welcome["user"], &welcome["name"]), (&json!(alice.user), &json!("alice")));
    assert_eq!(
        (&welcome["heartbeat_ms"], &welcome["limits"]["message_bytes"]),
        (&json!(600_000), &json!(65_536))
    );
    let joined = &answers[2];
    assert_eq!(
        (&joined["room"], &joined["head"], &joined["role"]),
        (&json!(room), &json!(0), &json!("owner"))
    );
    assert_eq!((&joined["mode"], &joined["count"]), (&json!("snapshot"), &json!(1)));
    assert_eq!(joined["members"][0]["session"], welcome["session"]);
}

#[tokio::test]
async fn a_token_may_come_with_the_handshake_and_then_welcome_comes_by_itself() {
    let world = World::shared();
    let alice = world.person("alice");
    let mut socket = with_bearer(world, &alice.token).await;
    for hello in
        [json!({"type":"hello","id":1}), json!({"type":"hello","id":2}), json!({"type":"ping","id":3})]
    {
        socket.send(Message::text(hello.to_string())).await.unwrap();
    }
    let mut heard = Vec::new();
    while heard.len() < 4 {
        match tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Text(text) => match serde_json::from_str(&text).unwrap() {
                Value::Array(messages) => heard.extend(messages),
                message => heard.push(message),
            },
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(types(&heard), ["welcome", "welcome", "error", "pong"]);
    assert_eq!((&heard[1]["id"], &heard[2]["code"]), (&json!(1), &json!("bad_message")));

    let mut refused = with_bearer(world, "a.b.c").await;
    let (heard, code) = until_closed(&mut refused).await;
    assert_eq!((types(&heard), code), (vec!["error", "goodbye"], Some(4100)));
    assert_eq!(
        (&heard[0]["code"], &heard[1]["reason"]),
        (&json!("unauthenticated"), &json!("unauthenticated"))
    );
}

#[tokio::test]
async fn handshakes_that_would_leak_a_token_or_speak_another_protocol_are_refused() {
    let world = World::shared();
    let token = &world.person("alice").token;
    let v1 = ("Sec-WebSocket-Protocol", "roomgate.v1");
    for (path, headers, status) in [
        (format!("/v1/ws?token={token}"), vec![v1], 400),
        (format!("/?token={token}"), vec![v1], 400),
        ("/v1/ws".to_owned(), vec![], 400),
        ("/v1/ws".to_owned(), vec![("Sec-WebSocket-Protocol", "roomgate.v9, chat")], 400),
        ("/ws".to_owned(), vec![], 401),
        ("/v1/ws".to_owned(), vec![v1, ("Sec-WebSocket-Version", "8")], 426),
        ("/v1/ws".to_owned(), vec![v1, ("Origin", "http://evil.test")], 403),
    ] {
        let refused = upgrade(world, &path, &headers).await.map(drop);
        assert_eq!(refused, Err(status), "{path} {headers:?}");
    }
}

#[tokio::test]
async fn signals_reach_everybody_else_and_never_their_sender() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "drawing").await;
    let mut sender = world.client(0, &alice).await;
    let joined = sender.join(room).await;
    let (mut near, mut far) = (world.client(0, &bob).await, world.client(1, &bob).await);
    near.join(room).await;
    far.join(room).await;
    sender.send(&json!({"type": "signal", "room": room, "data": {"cursor": [1, 2.5]}})).await;
    for receiver in [&mut near, &mut far] {
        let signal = receiver.wait(|m| m["type"] == "signal").await;
        assert_eq!(signal["data"], json!({"cursor": [1, 2.5]}));
        assert_eq!(
            (&signal["user"], &signal["session"]),
            (&json!(alice.user), &joined["members"][0]["session"])
        );
    }
    sender.ask(&json!({"type": "ping"}), "pong").await;
    let large = json!({"type": "signal", "room": room, "id": 9, "data": "x".repeat(1024)}).to_string();
    let refused = sender.refused(&large).await;
    assert_eq!(
        (&refused["code"], &refused["of"], &refused["id"]),
        (&json!("too_large"), &json!("signal"), &json!(9))
    );
    let foreign = json!({"type": "signal", "room": room + 1, "data": 1}).to_string();
    assert_eq!(sender.refused(&foreign).await["code"], "not_joined");
}

#[tokio::test]
async fn a_token_is_refreshed_only_by_one_of_the_same_person() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let mut client = world.client(0, &alice).await;
    let refresh = |token: &str| json!({"type": "refresh", "id": 7, "token": token});
    let until = now() + 9000;
    let fresh = world.sign(&json!({"sub": alice.user, "exp": until}));
    let refreshed = client.ask(&refresh(&fresh), "refreshed").await;
    assert_eq!((&refreshed["expires_at"], &refreshed["id"]), (&json!(until * 1000), &json!(7)));
    let expired = world.sign(&json!({"sub": alice.user, "exp": now() - 100}));
    for (token, code) in
        [(&bob.token, "forbidden"), (&expired, "token_expired"), (&"x".to_owned(), "unauthenticated")]
    {
        let refused = client.refused(&refresh(token).to_string()).await;
        assert_eq!((&refused["code"], &refused["of"]), (&json!(code), &json!("refresh")));
    }
    client.ask(&json!({"type": "ping"}), "pong").await;
}

#[tokio::test]
async fn a_session_ends_with_its_token_after_a_warning() {
    let world = World::shared();
    let alice = world.person("alice");
    let expires_at = now() + 3;
    let short = world.sign(&json!({"sub": alice.user, "exp": expires_at}));
    let mut socket = with_bearer(world, &short).await;
    let (heard, code) = until_closed(&mut socket).await;
    assert_eq!((types(&heard), code), (vec!["welcome", "token_expiring", "goodbye"], Some(4101)));
    assert_eq!(
        (&heard[1]["expires_at"], &heard[2]["reason"]),
        (&json!(expires_at * 1000), &json!("token_expired"))
    );
    assert!(now() >= expires_at);
}

#[tokio::test]
async fn items_of_an_array_are_judged_alone_and_named_by_their_place() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let large = json!({"type": "ping", "t": "x".repeat(66_000)});
    let add = |n: i32| {
        submit(room, &format!("op{n}"), &json!({"kind":"shape.add","shape":rect(&format!("r{n}"), n)}))
    };
    client.send(&json!([add(1), 7, add(2), large, {"type":"ping","a":1}, add(3)])).await;
    for (n, seq) in [(1, 1), (2, 2), (3, 3)] {
        assert_eq!(client.answer(room, &format!("op{n}")).await["seq"], seq);
    }
    let first = client.wait(|m| m["type"] == "error").await;
    let second = client.wait(|m| m["type"] == "error").await;
    assert_eq!((&first["index"], &first["code"]), (&json!(1), &json!("bad_message")));
    assert_eq!(
        (&second["index"], &second["code"], &second["of"]),
        (&json!(3), &json!("too_large"), &json!("ping"))
    );
    client.catches_up(room, 3).await;

    let pings = |count: usize| Value::Array(vec![json!({"type": "ping"}); count]);
    client.send(&pings(256)).await;
    for _ in 0..256 + 1 {
        client.wait(|m| m["type"] == "pong").await;
    }
    client.send(&pings(257)).await;
    assert_eq!(client.ends().await, Some(1009));
}

#[tokio::test]
async fn who_breaks_the_websocket_protocol_is_closed_with_its_code() {
    let world = World::shared();
    let alice = world.person("alice");
    let binary = Message::Binary(Bytes::from_static(b"{}"));
    let large = Message::text("x".repeat((1 << 20) + 1));
    for (message, code) in [(binary, 1003), (large, 1009)] {
        let mut socket = with_bearer(world, &alice.token).await;
        // A server that has seen enough may stop reading before all is sent.
        drop(socket.send(message).await);
        assert_eq!(until_closed(&mut socket).await.1, Some(code));
    }
    for (bytes, code) in [
        (b"\x81\x82\0\0\0\0\xff\xfe".as_slice(), 1007),
        (b"\x81\x02{}", 1002),
        (b"\xc1\x82\0\0\0\0{}", 1002),
        (b"\x83\x82\0\0\0\0{}", 1002),
        (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),
    ] {
        let mut raw = raw_session(world, &alice).await;
        raw.write_all(bytes).await.unwrap();
        assert_eq!(raw_close(&mut raw).await, code, "{bytes:?}");
    }
}

/// A session whose frames the test makes itself.
pub async fn raw_session(world: &World, person: &Person) -> TcpStream {
    let authority = world.cluster().nodes()[0].url().trim_start_matches("http://").to_owned();
    let mut raw = TcpStream::connect(&authority).await.unwrap();
    let request = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: roomgate.v1, bearer.{}\r\n\r\n",
        person.token
    );
    raw.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(raw.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    raw
}

/// Reads frames up to the close frame and returns its code.
pub async fn raw_close(raw: &mut TcpStream) -> u16 {
    tokio::time::timeout(PATIENCE, read_to_close(raw)).await.expect("the connection ends")
}

async fn read_to_close(raw: &mut TcpStream) -> u16 {
    loop {
        let (first, length) = (raw.read_u8().await.unwrap(), raw.read_u8().await.unwrap());
        let length = match length {
            126 => u64::from(raw.read_u16().await.unwrap()),
            127 => raw.read_u64().await.unwrap(),
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        raw.read_exact(&mut payload).await.unwrap();
        if first == 0x88 {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}

#[tokio::test]
async fn what_came_in_one_packet_with_the_handshake_is_heard() {
    let world = World::shared();
    let alice = world.person("alice");
    let authority = world.cluster().nodes()[0].url().trim_start_matches("http://").to_owned();
    let mut raw = TcpStream::connect(&authority).await.unwrap();
    let mut packet = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: roomgate.v1, bearer.{}\r\n\r\n",
        alice.token
    )
    .into_bytes();
    packet.extend(b"\x82\x80\0\0\0\0");
    raw.write_all(&packet).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(raw.read_u8().await.unwrap());
    }
    assert_eq!(raw_close(&mut raw).await, 1003, "the binary frame behind the request");
}

#[tokio::test]
async fn limits_refuse_with_a_delay_and_the_connection_goes_on() {
    let world = small_world(|options| {
        [("submits_per_second", 1), ("submit_burst", 5), ("signals_per_second", 2), ("rooms_per_session", 2)]
            .into_iter()
            .chain([("sessions_per_user", 2), ("joins_per_second", 1), ("join_burst", 20)])
            .fold(options, |options, (limit, value)| options.set(&format!("limits.{limit}"), value))
    })
    .await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let rooms = [
        world.room(&alice, "open").await,
        world.room(&alice, "open").await,
        world.room(&alice, "open").await,
    ];
    let mut client = world.client(0, &alice).await;
    client.join(rooms[0]).await;
    client.join(rooms[1]).await;
    let third = client.refused(&json!({"type": "join", "room": rooms[2]}).to_string()).await;
    assert_eq!((&third["code"], &third["room"]), (&json!("rate_limited"), &json!(rooms[2])));
    client.join(rooms[0]).await;

    let put = |n: usize| submit(rooms[0], &format!("op{n}"), &json!({"kind":"message","data":n}));
    client.send(&Value::Array((0..20).map(put).collect())).await;
    let mut acked = 0;
    for n in 0..20 {
        let answer = client.answer(rooms[0], &format!("op{n}")).await;
        match answer["type"].as_str().unwrap() {
            "ack" => acked += 1,
            _ => {
                assert_eq!(answer["code"], "rate_limited");
                assert!(
                    answer["retry_after_ms"].as_u64().is_some_and(|ms| (1..=1001).contains(&ms)),
                    "{answer}"
                );
            }
        }
    }
    assert!((5..10).contains(&acked), "{acked} of 20");
    let signal = json!({"type": "signal", "room": rooms[0], "data": 1});
    client.send(&Value::Array(vec![signal; 10])).await;
    assert_eq!(client.wait(|m| m["type"] == "error").await["code"], "rate_limited");

    let joins = vec![json!({"type": "join", "room": rooms[0]}); 30];
    client.send(&Value::Array(joins)).await;
    let refused = client.wait(|m| m["type"] == "error" && m["of"] == "join").await;
    assert_eq!(refused["code"], "rate_limited");
    assert!(refused["retry_after_ms"].as_u64().is_some_and(|ms| (1..=1001).contains(&ms)), "{refused}");

    let _second = world.client(0, &alice).await;
    let mut third = with_bearer(&world, &alice.token).await;
    let (heard, code) = until_closed(&mut third).await;
    assert_eq!((types(&heard), code), (vec!["error", "goodbye"], Some(1013)));
    assert_eq!(heard[0]["code"], "rate_limited");
    world.client(0, &bob).await;
    client.send(&json!({"type": "ping"})).await;
    client.wait(|m| m["type"] == "pong").await;
}

#[tokio::test]
async fn silent_dead_and_stuck_clients_are_told_apart() {
    let world = small_world(|options| {
        [
            ("heartbeat_ms", 500),
            ("pong_timeout_ms", 3000),
            ("hello_timeout_ms", 4000),
            ("slow_consumer_timeout_ms", 4000),
        ]
        .into_iter()
        .fold(options, |options, (key, value)| options.set(&format!("sessions.{key}"), value))
    })
    .await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;

    let mut silent = Client::silent(&world.cluster().nodes()[0].url(), &alice).await;
    assert_eq!(silent.ends().await, Some(4100), "no hello");

    // Raw sockets answer no pings.
    let mut dead = raw_session(&world, &alice).await;
    assert_eq!(raw_close(&mut dead).await, 4001);

    let mut lively = world.client(0, &alice).await;
    lively.join(room).await;
    let text = "x".repeat(60_000);
    for n in 0..200 {
        let ack = lively.submit(room, &format!("op{n}"), &json!({"kind": "message", "data": text})).await;
        assert_eq!(ack["type"], "ack");
    }
    // Twelve megabytes are more than two sockets hold.
    let mut stuck = raw_session(&world, &alice).await;
    let join = json!({"type": "join", "room": room, "from": {"epoch": 0, "seq": 0}}).to_string();
    stuck.write_all(&masked(&join)).await.unwrap();
    let closed = async {
        while world.counted("roomgate_disconnects_total", "code").await["4000"] < 1.0 {
            lively.ask(&json!({"type": "ping"}), "pong").await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("a stuck client is closed as a slow consumer");
    lively.catches_up(room, 200).await;
}

fn masked(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(text.as_bytes());
    frame
}

#[tokio::test]
async fn a_stopped_node_answers_what_is_in_flight_and_sends_everybody_away_politely() {
    let world = small_world(|options| options.set("listen.drain_notice_ms", 100)).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(with_bearer(&world, &alice.token).await);
    }
    let mut drawing = world.client(0, &alice).await;
    drawing.join(room).await;
    for n in 0..100 {
        drawing.send(&submit(room, &format!("op{n}"), &json!({"kind": "message", "data": n}))).await;
    }
    world.cluster().nodes()[0].service().signal(Signal::SIGTERM);
    for n in 0..100 {
        assert_eq!(drawing.answer(room, &format!("op{n}")).await["type"], "ack", "op{n}");
    }
    assert_eq!(drawing.ends().await, Some(1012));
    let mut delays = std::collections::BTreeSet::new();
    for client in &mut clients {
        let (heard, code) = until_closed(client).await;
        assert_eq!((types(&heard), code), (vec!["welcome", "goodbye"], Some(1012)));
        assert_eq!(heard[1]["reason"], "restart");
        delays.insert(heard[1]["reconnect_after_ms"].as_u64().unwrap());
    }
    assert!(delays.len() > 5, "delays are spread: {delays:?}");
}
