//! Bad input gets the refusal that the protocol names, and the connection goes on.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::client::{Client, rect};
use crate::convergence::{FROM_PRIMARY, state_over_http};
use crate::world::{World, now};

#[tokio::test]
async fn frames_that_are_no_messages_are_refused_and_the_connection_goes_on() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let deep = format!("{{\"type\":\"ping\",\"t\":{}{}}}", "[".repeat(40), "]".repeat(40));
    let large = format!("{{\"type\":\"ping\",\"t\":\"{}\"}}", "x".repeat(70_000));
    for (frame, code) in [
        ("{", "bad_json"),
        ("nonsense", "bad_json"),
        ("{\"type\":\"ping\",\"t\":1e999}", "bad_json"),
        ("{\"type\":\"ping\",\"t\":NaN}", "bad_json"),
        ("{\"type\":\"ping\",\"type\":\"ping\"}", "bad_json"),
        ("{\"type\":\"ping\",\"t\":\"\\u0000\"}", "bad_json"),
        ("{\"type\":\"ping\",\"t\":\"\\ud800\"}", "bad_json"),
        ("{\"type\":\"ping\",\"t\":18446744073709551616}", "bad_json"),
        ("7", "bad_message"),
        ("[[]]", "bad_message"),
        ("{}", "bad_message"),
        ("{\"type\":\"fly\"}", "unknown_type"),
        ("{\"type\":\"join\"}", "bad_message"),
        ("{\"type\":\"join\",\"room\":0}", "bad_message"),
        ("{\"type\":\"submit\",\"op\":\"x\"}", "bad_message"),
        ("{\"type\":\"hello\"}", "bad_message"),
        (&deep, "too_deep"),
        (&large, "too_large"),
    ] {
        let error = client.refused(frame).await;
        let start: String = frame.chars().take(60).collect();
        assert_eq!(error["code"], code, "{start}: {error}");
    }
    client.send_text("[]").await;
    let ack = client.submit(room, "op", &json!({"kind": "shape.add", "shape": rect("r", 1)})).await;
    assert_eq!((&ack["type"], &ack["seq"]), (&json!("ack"), &json!(1)), "{ack}");
}

#[tokio::test]
async fn submits_that_break_a_rule_are_rejected_one_by_one() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(1, &alice).await;
    client.join(room).await;
    let sql = "'; DROP TABLE room; --";
    let cases = [
        (json!({"kind": "shape.add", "shape": rect("a", 1)}), "ack"),
        (json!({"kind": "shape.add", "shape": rect("a", 1)}), "shape_exists"),
        (json!({"kind": "shape.update", "shape_id": "b", "patch": {}}), "shape_unknown"),
        (json!({"kind": "shape.update", "shape_id": "a", "patch": {"type": "line"}}), "invalid_shape"),
        (json!({"kind": "shape.update", "shape_id": "a", "patch": {"width": null}}), "invalid_shape"),
        (json!({"kind": "shape.put", "shape": rect("a", 1), "base": 7}), "version_conflict"),
        (
            json!({"kind": "shape.add", "shape": {"id": "c", "type": "circle", "x": 1, "y": 1}}),
            "invalid_shape",
        ),
        (json!({"kind": "shape.add", "shape": {"id": "c", "type": "fish", "x": 1, "y": 1}}), "invalid_shape"),
        (json!({"kind": "shape.delete", "shape_id": "a"}), "ack"),
        (json!({"kind": "shape.update", "shape_id": "a", "patch": {"x": 2}}), "shape_deleted"),
        (
            json!({"kind": "shape.add", "shape": {"id": sql, "type": "text", "text": sql, "x": 1, "y": 1}}),
            "ack",
        ),
    ];
    for (number, (body, expected)) in cases.iter().enumerate() {
        let answer = client.submit(room, &format!("op-{number}"), body).await;
        let got = if answer["type"] == "ack" { "ack" } else { answer["code"].as_str().unwrap() };
        assert_eq!(got, *expected, "{body}: {answer}");
    }
    client.catches_up(room, 3).await;
    assert_eq!(client.rooms[&room].shapes.keys().collect::<Vec<_>>(), [sql]);
}

#[tokio::test]
async fn what_people_write_comes_back_byte_for_byte() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let text = "<script>alert(1)</script> שלום 👩‍👩‍👧‍👦 \u{202e}back\u{202c} a\tb\r\n * ? \u{7f}";
    let shape =
        json!({"id": "💧", "text": text, "n": [0.1, 1e-320, 9007199254740993_u64, -1.5e300, 1.0, u64::MAX]});
    let ack = client.submit(room, "op", &json!({"kind": "shape.add", "shape": shape})).await;
    assert_eq!(ack["type"], "ack", "{ack}");
    let bob = world.person("bob");
    let mut other = world.client(2, &bob).await;
    other.join(room).await;
    other.catches_up(room, 1).await;
    assert_eq!(other.rooms[&room].shapes["💧"].1, shape);
    let state = state_over_http(world, &bob, room, FROM_PRIMARY).await;
    assert_eq!(state["💧"].1, shape);
}

#[tokio::test]
async fn rooms_one_is_not_in_are_refused() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(2, &alice).await;
    let reject = client.submit(room, "op", &json!({"kind": "room.clear"})).await;
    assert_eq!((&reject["type"], &reject["code"]), (&json!("reject"), &json!("not_joined")), "{reject}");
    let error = client.refused("{\"type\":\"join\",\"room\":12345,\"id\":\"j1\"}").await;
    assert_eq!((&error["code"], &error["id"]), (&json!("room_unknown"), &json!("j1")), "{error}");
    let left = client.ask(&json!({"type": "leave", "room": room}), "left").await;
    assert_eq!(left["room"], room);
    client.join(room).await;
}

#[tokio::test]
async fn positions_that_are_not_in_the_log_are_answered_with_a_resync() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let ack = client.submit(room, "op", &json!({"kind": "shape.add", "shape": rect("r", 1)})).await;
    let epoch = ack["epoch"].as_u64().unwrap();
    for (from, reason) in [
        (json!({"epoch": epoch, "seq": 5}), "ahead_of_log"),
        (json!({"epoch": epoch, "seq": u64::MAX}), "ahead_of_log"),
        (json!({"epoch": epoch - 1, "seq": 1}), "position_lost"),
    ] {
        let mut late = world.client(1, &alice).await;
        late.rooms.insert(room, crate::view::View::default());
        late.send(&json!({"type": "join", "room": room, "from": from})).await;
        let resync = late.wait(|m| m["type"] == "resync").await;
        assert_eq!(resync["reason"], reason, "{from}");
        late.until(|client| client.rooms[&room].live).await;
        late.catches_up(room, 1).await;
        assert_eq!(late.rooms[&room].shapes["r"], (1, rect("r", 1)));
    }
    let mut all = world.client(2, &alice).await;
    all.resume(room, crate::view::View::default()).await;
    all.catches_up(room, 1).await;
    assert_eq!(all.rooms[&room].seen.len(), 1);
}

#[tokio::test]
async fn a_position_below_what_is_kept_is_answered_with_a_resync_and_the_state() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let mut epoch = 0;
    for i in 1..=6 {
        let body = json!({"kind": "shape.add", "shape": rect(&format!("r{i}"), i)});
        epoch = client.submit(room, &format!("op-{i}"), &body).await["epoch"].as_u64().unwrap();
    }
    let primary = &world.primaries().await[world.shard_of(room).await];
    let id = i64::try_from(room).unwrap();
    primary.execute("DELETE FROM room_event WHERE room_id = $1 AND seq <= 4", &[&id]).await.unwrap();
    // A replica that has them yet would serve them, and rightly so.
    world.replicas_have_caught_up().await;
    for seq in [1, 4] {
        let mut late = world.client(1, &alice).await;
        late.rooms.insert(room, crate::view::View::default());
        let from = json!({"epoch": epoch, "seq": seq});
        late.send(&json!({"type": "join", "room": room, "from": from})).await;
        let resync = late.wait(|m| m["type"] == "resync").await;
        assert_eq!(resync["reason"], "below_retention", "from {seq}");
        late.until(|client| client.rooms[&room].live).await;
        late.catches_up(room, 6).await;
        assert_eq!(late.rooms[&room].shapes.len(), 6);
    }
    let mut kept = world.client(1, &alice).await;
    let view = crate::view::View { epoch, seq: 5, ..crate::view::View::default() };
    let joined = kept.resume(room, view).await;
    assert_eq!(joined["mode"], "resume", "{joined}");
    kept.catches_up(room, 6).await;
}

#[tokio::test]
async fn tokens_that_prove_nothing_open_nothing() {
    let world = World::shared();
    let alice = world.person("alice");
    let node = world.cluster().nodes()[0].url();
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let good = world.sign(&json!({"sub": "alice", "exp": now() + 60}));
    let [head, body, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let kid = world.cluster().report().jwt.kid;
    let headed = |header: &Value, signature: &str| format!("{}.{body}.{signature}", encode(header));
    let eve = encode(&json!({"sub": "eve", "exp": now() + 60}));
    for (token, code) in [
        (headed(&json!({"alg": "none", "kid": kid}), ""), 4100),
        (headed(&json!({"alg": "none", "kid": kid}), signature), 4100),
        (headed(&json!({"alg": "EdDSA", "kid": kid}), signature), 4100),
        (headed(&json!({"alg": "HS256", "kid": "unknown"}), signature), 4100),
        (headed(&json!({"alg": "HS256"}), signature), 4100),
        (format!("{head}.{eve}.{signature}"), 4100),
        (world.sign(&json!({"sub": "alice", "exp": now() + 60, "iss": "others"})), 4100),
        (world.sign(&json!({"sub": "alice", "exp": now() + 60, "iss": null})), 4100),
        ("".to_owned(), 4100),
        ("a.b.c".to_owned(), 4100),
        (world.sign(&json!({"sub": "alice"})), 4100),
        (world.sign(&json!({"sub": "alice", "exp": (now() + 60).to_string()})), 4100),
        (world.sign(&json!({"sub": "alice", "exp": now() + 60, "aud": "others"})), 4100),
        (world.sign(&json!({"sub": "alice", "exp": now() - 60})), 4101),
    ] {
        let mut client = Client::silent(&node, &alice).await;
        client.send(&json!({"type": "hello", "token": token})).await;
        assert_eq!(client.ends().await, Some(code), "{token}");
    }
    let mut hasty = Client::silent(&node, &alice).await;
    hasty.send(&json!({"type": "join", "room": 1})).await;
    assert_eq!(hasty.ends().await, Some(4100));
}

#[tokio::test]
async fn pages_of_other_sites_are_turned_away_before_the_upgrade() {
    let world = World::shared();
    let node = world.cluster().nodes()[0].url().replacen("http", "ws", 1);
    let host = node.trim_start_matches("ws://").to_owned();
    let allowed = [format!("http://{host}")];
    let foreign =
        ["http://evil.test", "null", "http://127.0.0.1.evil.test", &format!("http://{host}.evil.test")]
            .map(str::to_owned);
    for origin in allowed.iter().chain(&foreign) {
        let mut request = format!("{node}/v1/ws").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "roomgate.v1".parse().unwrap());
        request.headers_mut().insert("Origin", origin.parse().unwrap());
        let opened = tokio_tungstenite::connect_async(request).await;
        assert_eq!(opened.is_ok(), allowed.contains(origin), "{origin}");
        if let Err(tokio_tungstenite::tungstenite::Error::Http(answer)) = opened {
            assert_eq!(answer.status(), 403, "{origin}");
        }
    }
}

#[tokio::test]
async fn http_refusals_have_a_code_and_a_request_id() {
    let world = World::shared();
    let alice = world.person("alice");
    let api = world.api(&alice);
    let nobody = roomgate::dev::Api::new(&world.cluster().url());
    let room = world.room(&alice, "drawing").await;
    for (answer, status, code) in [
        (nobody.get("/v1/rooms").await, 401, "unauthenticated"),
        (api.get("/v1/rooms/12345").await, 404, "room_unknown"),
        (api.get("/v1/rooms/nobodys-room").await, 404, "room_unknown"),
        (api.get("/v1/nothing").await, 404, "not_found"),
        (api.post("/v1/rooms", &json!({"slug": "NO"})).await, 400, "bad_message"),
        (api.get(&format!("/v1/rooms/{room}/events?cursor=junk")).await, 400, "bad_message"),
    ] {
        let answer = answer.unwrap();
        let error: Value = answer.json()["error"].clone();
        assert_eq!((answer.status.as_u16(), &error["code"]), (status, &json!(code)), "{}", answer.text);
        assert!(error["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{}", answer.text);
    }
}
