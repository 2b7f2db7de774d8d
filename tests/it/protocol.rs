//! Hostile messages on a joined connection: each gets the refusal that the wire
//! names, the database stays as it was, and the connection goes on.

use serde_json::{Value, json};

use crate::client::{Client, rect};
use crate::world::{Person, World};

/// Everything that the shard holds of a room, but the visits, which are counted
/// later.
async fn rows(world: &World, room: u64) -> Vec<String> {
    const ROWS: &str = "SELECT 'head ' || (to_jsonb(h) - 'visits')::text FROM room_head h WHERE room_id = $1
        UNION ALL SELECT 'event ' || e::text FROM room_event e WHERE room_id = $1
        UNION ALL SELECT 'shape ' || s::text FROM shape s WHERE room_id = $1
        UNION ALL SELECT 'member ' || m::text FROM room_member m WHERE room_id = $1
        ORDER BY 1";
    let id = i64::try_from(room).unwrap();
    let shard = world.shard_of(room).await;
    let rows = world.primaries().await[shard].query(ROWS, &[&id]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// A room with one shape `a` at version 2 and one deleted shape `d`, both at 3
/// events each.
async fn drawn(world: &World, owner: &Person, schema: &str) -> (u64, Client) {
    let room = world.room(owner, schema).await;
    let mut client = world.client(0, owner).await;
    client.join(room).await;
    for (op, body) in [
        ("o1", json!({"kind": "shape.add", "shape": rect("a", 1)})),
        ("o2", json!({"kind": "shape.update", "shape_id": "a", "patch": {"x": 2}})),
        ("o3", json!({"kind": "shape.add", "shape": rect("d", 1)})),
        ("o4", json!({"kind": "shape.delete", "shape_id": "d"})),
    ] {
        let ack = client.submit(room, op, &body).await;
        assert_eq!(ack["type"], "ack", "{ack}");
    }
    (room, client)
}

#[tokio::test]
async fn rejected_submits_leave_no_trace_and_stop_nothing() {
    let world = World::shared();
    let alice = world.person("alice");
    let (room, mut client) = drawn(world, &alice, "drawing").await;
    let before = rows(world, room).await;
    for (rest, code) in bad_submits() {
        let text = format!(r#"{{"type":"submit","room":{room},"op":"bad",{rest}}}"#);
        client.send_text(&text).await;
        let reject = client.answer(room, "bad").await;
        let start: String = rest.chars().take(80).collect();
        assert_eq!((&reject["type"], &reject["code"]), (&json!("reject"), &json!(code)), "{start}: {reject}");
    }
    let unreadable = format!(r#"{{"type":"submit","room":{room},"op":"bad","kind":"message","data":NaN}}"#);
    assert_eq!(client.refused(&unreadable).await["code"], "bad_json");
    assert_eq!(rows(world, room).await, before);
    let ack = client.submit(room, "bad", &json!({"kind": "message", "data": null})).await;
    assert_eq!((&ack["type"], &ack["seq"]), (&json!("ack"), &json!(5)), "the op is judged anew: {ack}");
}

/// What follows room and op in a submit, and the code of its reject.
fn bad_submits() -> Vec<(String, &'static str)> {
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    let long = "x".repeat(66_000);
    let points = vec!["[0,0]"; 10_001].join(",");
    let made = [
        (format!(r#""kind":"message","data":{deep}"#), "too_deep"),
        (format!(r#""kind":"message","data":"{long}""#), "too_large"),
        (
            format!(r#""kind":"shape.add","shape":{{"id":"b","type":"pencil","points":[{points}]}}"#),
            "invalid_shape",
        ),
    ];
    BAD_SUBMITS.iter().map(|(rest, code)| ((*rest).to_owned(), *code)).chain(made).collect()
}

const BAD_SUBMITS: &[(&str, &str)] = &[
    (r#""kind":"shape.add","shape":{"id":"b","type":"text","x":1e999,"y":0,"text":""}"#, "bad_json"),
    (r#""kind":"shape.add","shape":{"id":"b","type":"text","x":1,"y":0,"text":"\u0000"}"#, "bad_json"),
    (r#""kind":"shape.add","shape":{"id":"b","type":"text","x":1,"y":0,"text":"\ud800"}"#, "bad_json"),
    (r#""kind":"shape.add","shape":{"id":"b","id":"c","type":"text","x":1,"y":0,"text":""}"#, "bad_json"),
    (r#""kind":"shape.add","shape":{"id":"b","n":-18446744073709551616}"#, "bad_json"),
    (r#""kind":"shape.add","shape":{"id":"b","type":"text","x":"1","y":0,"text":""}"#, "invalid_shape"),
    (r#""kind":"shape.add","shape":{"id":"b","type":"circle","x":1,"y":0,"radius":-1}"#, "invalid_shape"),
    (r#""kind":"shape.add","shape":{"type":"circle","x":1,"y":0,"radius":1}"#, "invalid_shape"),
    (r#""kind":"shape.add","shape":{"id":"b\n","type":"circle","x":1,"y":0,"radius":1}"#, "invalid_shape"),
    (r#""kind":"shape.add","shape":[]"#, "invalid_shape"),
    (
        r#""kind":"shape.add","shape":{"id":"a","type":"rect","x":1,"y":0,"width":1,"height":1}"#,
        "shape_exists",
    ),
    (
        r#""kind":"shape.add","shape":{"id":"d","type":"rect","x":1,"y":0,"width":1,"height":1}"#,
        "shape_deleted",
    ),
    (
        r#""kind":"shape.put","shape":{"id":"d","type":"rect","x":1,"y":0,"width":1,"height":1}"#,
        "shape_deleted",
    ),
    (
        r#""kind":"shape.put","base":1,"shape":{"id":"d","type":"rect","x":1,"y":0,"width":1,"height":1}"#,
        "shape_deleted",
    ),
    (
        r#""kind":"shape.put","base":1,"shape":{"id":"a","type":"rect","x":1,"y":0,"width":1,"height":1}"#,
        "version_conflict",
    ),
    (r#""kind":"shape.put","base":1.5,"shape":{"id":"a"}"#, "bad_message"),
    (r#""kind":"shape.update","shape_id":"a","patch":{"id":"z"}"#, "invalid_shape"),
    (r#""kind":"shape.update","shape_id":"a","patch":{"width":null}"#, "invalid_shape"),
    (r#""kind":"shape.update","shape_id":"a","patch":7"#, "bad_message"),
    (r#""kind":"shape.update","shape_id":"*","patch":{}"#, "shape_unknown"),
    (r#""kind":"shape.update","shape_id":"a' OR '1'='1","patch":{}"#, "shape_unknown"),
    (r#""kind":"shape.delete","shape_id":"nobody""#, "shape_unknown"),
    (r#""kind":"shape.delete","shape_id":"d""#, "shape_deleted"),
    (r#""kind":"shape.delete""#, "bad_message"),
    (r#""kind":"shape.fly","shape_id":"a""#, "bad_message"),
    (r#""kind":"message""#, "bad_message"),
    (r#""kind":"room.clear","unknown":{"k":1,"k":2}"#, "bad_json"),
];

#[tokio::test]
async fn messages_refused_with_an_error_name_what_they_were() {
    let world = World::shared();
    let alice = world.person("alice");
    let (room, mut client) = drawn(world, &alice, "drawing").await;
    let before = rows(world, room).await;
    let from =
        |seq: &str| format!(r#"{{"type":"join","id":"x","room":{room},"from":{{"epoch":0,"seq":{seq}}}}}"#);
    let kib = format!(r#"{{"type":"signal","id":"x","room":{room},"data":"{}"}}"#, "x".repeat(1023));
    for (frame, code, of) in [
        (from("-1").as_str(), "bad_message", Some("join")),
        (&from("1.5"), "bad_message", Some("join")),
        (&from("\"1\""), "bad_message", Some("join")),
        (&from("18446744073709551616"), "bad_json", Some("join")),
        (&kib, "too_large", Some("signal")),
        (r#"{"type":"join","id":"x","room":9007199254740992}"#, "bad_message", Some("join")),
        (r#"{"type":"join","id":"x","room":-1}"#, "bad_message", Some("join")),
        (r#"{"type":"join","id":"x","room":"7"}"#, "bad_message", Some("join")),
        (r#"{"type":"join","id":"x","slug":"*"}"#, "bad_message", Some("join")),
        (r#"{"type":"join","id":"x","slug":"a\r\nb"}"#, "bad_message", Some("join")),
        (r#"{"type":"join","id":"x","slug":"no-such-room"}"#, "room_unknown", Some("join")),
        (r#"{"type":"submit","id":"x","room":1,"kind":"room.clear"}"#, "bad_message", Some("submit")),
        (
            r#"{"type":"submit","id":"x","room":1,"op":"a b","kind":"room.clear"}"#,
            "bad_message",
            Some("submit"),
        ),
        (r#"{"type":"refresh","id":"x","token":"nope"}"#, "unauthenticated", Some("refresh")),
        (r#"{"type":"Ping","id":"x"}"#, "unknown_type", Some("Ping")),
        (r#"{"type":["ping"],"id":"x"}"#, "bad_message", None),
    ] {
        let error = client.refused(frame).await;
        let start: String = frame.chars().take(80).collect();
        let expected = (&json!("x"), &json!(code), &json!(of));
        assert_eq!((&error["id"], &error["code"], &error["of"]), expected, "{start}: {error}");
    }
    assert_eq!(rows(world, room).await, before);
    let ack = client.submit(room, "o5", &json!({"kind": "room.clear"})).await;
    assert_eq!((&ack["seq"], &ack["cleared"]), (&json!(5), &json!(1)), "{ack}");
}

#[tokio::test]
async fn the_items_of_a_frame_stand_or_fall_alone() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let add = |id: &str| {
        format!(r#"{{"type":"submit","room":{room},"op":"{id}","kind":"shape.add","shape":{{"id":"{id}"}}}}"#)
    };
    let large = format!(r#"{{"type":"ping","t":"{}"}}"#, "x".repeat(70_000));
    let frame = format!(
        r#"[{}, 7, [{}], {{"type":"ping","type":"ping"}}, {large}, {{"type":"fly"}}, {}, null, {{"type":"ping","id":9}}]"#,
        add("first"),
        add("nested"),
        add("second"),
    );
    client.send_text(&frame).await;
    assert_eq!(client.wait(|m| m["type"] == "pong").await["id"], 9);
    assert_eq!(client.answer(room, "first").await["seq"], 1);
    assert_eq!(client.answer(room, "second").await["seq"], 2);
    for (index, code) in [
        (1, "bad_message"),
        (2, "bad_message"),
        (3, "bad_json"),
        (4, "too_large"),
        (5, "unknown_type"),
        (7, "bad_message"),
    ] {
        let error = client.wait(|m| m["type"] == "error").await;
        assert_eq!((&error["index"], &error["code"]), (&json!(index), &json!(code)), "{error}");
    }
    client.send_text(&format!("[{}]", vec!["{\"type\":\"ping\",\"id\":\"p\"}"; 256].join(","))).await;
    for _ in 0..256 {
        client.wait(|m| m["type"] == "pong" && m["id"] == "p").await;
    }
    client.send_text(&format!("[{}]", vec!["{}"; 257].join(","))).await;
    assert_eq!(client.ends().await, Some(1009));
}

#[tokio::test]
async fn submits_are_answered_in_order_refused_ones_too() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let kinds = [r#""message","data":1"#, r#""fly""#, r#""shape.delete","shape_id":"a""#, r#""message""#];
    let ops: Vec<_> = (0..200).map(|n| format!("op-{n}")).collect();
    let submits: Vec<_> = ops
        .iter()
        .zip(kinds.iter().cycle())
        .map(|(op, kind)| format!(r#"{{"type":"submit","room":{room},"op":"{op}","kind":{kind}}}"#))
        .collect();
    client.send_text(&format!("[{}]", submits.join(","))).await;
    let mut answered = Vec::new();
    for _ in &ops {
        let answer = client.wait(|m| m["type"] == "ack" || m["type"] == "reject").await;
        answered.push(answer["op"].as_str().unwrap().to_owned());
    }
    assert_eq!(answered, ops);
}

#[tokio::test]
async fn values_come_back_exactly_as_they_were_sent() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let numbers = "[9007199254740993,18446744073709551615,-18446744073709551615,-9223372036854775809,\
                   0.1,5e-324,1.7976931348623157e308,-0.0,1.0,123456789.123456789]";
    let text = r#""<script>alert('x')</script> \u202e\ud83d\ude00 *?[a-z] %s ${1} ' OR 1=1; --""#;
    let frame = format!(
        r#"{{"type":"submit","room":{room},"op":"o","kind":"shape.add","shape":{{"id":"s","n":{numbers},"t":{text}}}}}"#
    );
    client.send_text(&frame).await;
    let ack = client.answer(room, "o").await;
    assert_eq!(ack["type"], "ack", "{ack}");
    for path in ["shapes", "events"] {
        let answer =
            world.api(&alice).get(&format!("/v1/rooms/{room}/{path}?freshness=primary")).await.unwrap();
        assert!(answer.text.contains(&format!("\"n\":{numbers}")), "{path}: {}", answer.text);
        assert!(answer.text.contains(&format!("\"t\":{text}")), "{path}: {}", answer.text);
    }
    let patch = format!(
        r#"{{"type":"submit","room":{room},"op":"p","kind":"shape.update","shape_id":"s","patch":{{"more":1.50}}}}"#
    );
    client.send_text(&patch).await;
    assert_eq!(client.answer(room, "p").await["version"], 2);
    let fresh = world.api(&alice).get(&format!("/v1/rooms/{room}/shapes?freshness=primary")).await.unwrap();
    let shape = format!(r#"{{"id":"s","n":{numbers},"t":{text},"more":1.50}}"#);
    assert!(fresh.text.contains(&shape), "{}", fresh.text);
}

#[tokio::test]
async fn nobody_writes_before_hello_or_into_a_room_they_are_not_in() {
    let world = World::shared();
    let alice = world.person("alice");
    let (room, _client) = drawn(world, &alice, "drawing").await;
    let before = rows(world, room).await;
    let clear = json!({"type": "submit", "room": room, "op": "o", "kind": "room.clear"});
    let eve = world.person("eve");
    let mut stranger = world.client(1, &eve).await;
    stranger.send(&clear).await;
    assert_eq!(stranger.answer(room, "o").await["code"], "not_joined");
    let mut silent = Client::silent(&world.cluster().nodes()[0].url(), &eve).await;
    silent.send(&clear).await;
    let reject: Value = silent.answer(room, "o").await;
    assert_eq!(reject["code"], "unauthenticated", "{reject}");
    assert_eq!(rows(world, room).await, before);
}
