//! `POST /v1/rooms/{room}/import?op=…`: many shapes, one range of events.

use std::fmt::Write;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use roomgate::dev::{Answer, Api};
use roomgate::ids::RoomId;
use roomgate::placement::slot_of;
use roomgate::store::slots::SLOT_LOCKS;
use serde_json::{Value, json};

use super::world::{shard, state_at};
use crate::client::rect;
use crate::convergence::{FROM_PRIMARY, state_over_http, whole_log};
use crate::stopwatch::Stopwatch;
use crate::world::{World, now};

async fn import(api: &Api, room: u64, op: &str, lines: &str) -> Answer {
    let api = api.clone().with("content-type", "application/x-ndjson");
    let path = format!("/v1/rooms/{room}/import?op={op}");
    api.send("POST".parse().unwrap(), &path, Some(lines.to_owned())).await.unwrap()
}

/// Lines of `count` rects with ids from `prefix`.
fn rects(prefix: &str, count: u64) -> String {
    (0..count).fold(String::new(), |mut lines, n| {
        writeln!(lines, "{}", rect(&format!("{prefix}{n}"), n as i32)).unwrap();
        lines
    })
}

/// As JSON writes it.
const HOSTILE: &str = "tab\\tnew\\nline\\\\N\\\\.\\u0001é🦀";

/// Lines that are no new shape of the room below, and what they are refused for.
fn bad_lines() -> Vec<(String, &'static str)> {
    vec![
        ("{not json".to_owned(), "bad_json"),
        ("[1]".to_owned(), "bad_message"),
        (rect("i7", 9).to_string(), "shape_exists"),
        (rect("there", 9).to_string(), "shape_exists"),
        (rect("gone", 9).to_string(), "shape_deleted"),
        (json!({"type": "rect", "x": 1, "y": 1, "width": 1, "height": 1}).to_string(), "invalid_shape"),
        (json!({"id": "blob", "type": "blob"}).to_string(), "invalid_shape"),
        (r#"{"id":"nul","type":"text","x":0,"y":0,"text":"\u0000"}"#.to_owned(), "bad_json"),
        (
            json!({"id": "long", "type": "text", "x": 0, "y": 0, "text": "x".repeat(70_000)}).to_string(),
            "too_large",
        ),
        (format!("{{\"id\":\"longer\",\"text\":\"{}\"}}", "x".repeat(200_000)), "too_large"),
    ]
}

#[tokio::test]
async fn an_import_is_one_range_of_events_that_every_node_sees() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut clients = Vec::new();
    for node in 0..3 {
        let mut client = world.client(node, &alice).await;
        client.join(room).await;
        clients.push(client);
    }
    for (op, body) in [
        ("a", json!({"kind": "shape.add", "shape": rect("there", 1)})),
        ("b", json!({"kind": "shape.add", "shape": rect("gone", 1)})),
        ("c", json!({"kind": "shape.delete", "shape_id": "gone"})),
    ] {
        assert_eq!(clients[0].submit(room, op, &body).await["type"], "ack");
    }
    let mut lines = rects("i", 2000);
    let (bad, codes): (Vec<String>, Vec<&str>) = bad_lines().into_iter().unzip();
    lines.push_str(&bad.join("\n"));
    lines.push_str("\n\n");
    lines.push_str(&format!(
        "{{\"id\":\"odd\",\"type\":\"text\",  \"x\":0,\"y\":1.50,\"text\":\"{HOSTILE}\"}}\r\n"
    ));
    lines.push_str(&rect("last", 5).to_string());
    let answer = import(&world.api_of(1, &alice), room, "big", &lines).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let rejected: Vec<Value> =
        (2001..).zip(codes).map(|(line, code)| json!({"line": line, "code": code})).collect();
    let done = answer.json();
    assert_eq!(done["rejected"], json!(rejected));
    assert_eq!((&done["imported"], &done["from"], &done["to"]), (&json!(2002), &json!(4), &json!(2005)));

    let imported = Stopwatch::start();
    for client in &mut clients {
        client.catches_up(room, 2005).await;
    }
    assert!(imported.elapsed() < Duration::from_secs(5), "{:?}", imported.elapsed());
    let state = state_over_http(world, &alice, room, FROM_PRIMARY).await;
    assert_eq!(state.len(), 2003);
    assert_eq!(state["odd"].1["text"], "tab\tnew\nline\\N\\.\u{1}é🦀");
    for client in &clients {
        assert_eq!(client.rooms[&room].shapes, state);
    }
    let log = whole_log(world, &alice, room, FROM_PRIMARY).await;
    assert!(log.iter().all(|event| event["user"] == alice.user.as_str()));
    assert!(log[3..].iter().all(|event| event["epoch"] == done["epoch"] && event["kind"] == "shape.add"));
    assert_eq!(done["epoch"], log[0]["epoch"]);
    let then = state_at(&world.api(&alice), room, 1003, 1000).await;
    assert_eq!(then.len(), 1001, "half of it, as it was");
    // And it is drawn on as ever.
    let patch = json!({"kind": "shape.update", "shape_id": "i7", "base": 1, "patch": {"x": 70}});
    assert_eq!(clients[2].submit(room, "after", &patch).await["version"], 2);
}

#[tokio::test]
async fn the_same_import_again_has_one_effect_and_the_same_answer() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let lines = rects("once-", 300) + "{}\n";
    let nodes: Vec<Api> = (0..6).map(|n| world.api_of(n % 3, &alice)).collect();
    let answers = join_all(nodes.iter().map(|api| import(api, room, "once", &lines))).await;
    for answer in &answers {
        assert_eq!((answer.status.as_u16(), &answer.text), (200, &answers[0].text));
    }
    assert_eq!(answers[0].json()["imported"], 300);
    assert_eq!(whole_log(world, &alice, room, FROM_PRIMARY).await.len(), 300);

    let refused = async |op: &str, lines: &str| {
        import(&nodes[0], room, op, lines).await.json()["error"]["code"].clone()
    };
    assert_eq!(refused("once", &rects("t", 2)).await, "op_reused", "another body");
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let said = json!({"kind": "message", "data": 1});
    assert_eq!(client.submit(room, "said", &said).await["type"], "ack");
    assert_eq!(refused("said", &lines).await, "op_reused", "a submit's op");
    assert_eq!(client.submit(room, "once", &said).await["code"], "op_reused", "an import's op");
    // Another person's op is another op.
    let bob = world.person("bob");
    let answer = import(&world.api(&bob), room, "once", &rects("b", 3)).await;
    assert_eq!(answer.json()["imported"], 3, "{}", answer.text);
    // No event; the repeat is judged anew and finds as little.
    let nothing = import(&nodes[0], room, "nothing", &lines).await.json();
    assert_eq!(
        (&nothing["imported"], &nothing["from"], &nothing["to"]),
        (&json!(0), &json!(305), &json!(304))
    );
    assert_eq!(import(&nodes[1], room, "nothing", &lines).await.json(), nothing);
    let admin = shard(world, room).await;
    let left: i64 = admin
        .query_one("SELECT count(*) FROM import_line WHERE shape_id LIKE 'once-%'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(left, 0, "staged lines were left behind");
}

#[tokio::test]
async fn who_may_not_draw_may_not_import_and_what_is_no_import_is_refused() {
    let world = World::shared();
    let (olga, bob) = (world.person("olga"), world.person("bob"));
    let slug = format!("room-{:016x}", rand::random::<u64>());
    let wish = json!({"slug": slug, "default_role": "viewer"});
    let room = world.api(&olga).post("/v1/rooms", &wish).await.unwrap().json()["room"].as_u64().unwrap();
    let line = rects("s", 1);
    let refused = |answer: Answer, status: u16, code: &str| {
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (status, &json!(code)));
    };
    refused(import(&world.api(&bob), room, "op", &line).await, 403, "forbidden");
    refused(import(&world.api(&olga), 4242, "op", &line).await, 404, "room_unknown");
    refused(import(&world.api(&olga), room, "no%20op", &line).await, 400, "bad_message");
    let path = format!("/v1/rooms/{room}/import");
    refused(world.api(&olga).post(&format!("{path}?op=x"), &json!({})).await.unwrap(), 415, "bad_message");
    refused(world.api(&olga).post(&path, &json!({})).await.unwrap(), 400, "bad_message");
    let many = "\n".repeat(100_001);
    refused(import(&world.api(&olga), room, "many", &many).await, 413, "too_large");
    // A role that was taken away after the first look is noticed under the lock.
    assert_eq!(import(&world.api(&olga), room, "fine", &line).await.status, 200);
    let token = world.sign(&json!({"sub": "bot", "scope": "server", "exp": now() + 60}));
    let server = Api::new(&world.cluster().url()).signed_in(&token);
    assert_eq!(import(&server, room, "bot", &rects("bot", 2)).await.json()["imported"], 2);
    let archive = format!("UPDATE room SET archived_at = now() WHERE id = {room}");
    shard(world, room).await.batch_execute(&archive).await.unwrap();
    refused(import(&server, room, "late", &rects("late", 2)).await, 410, "room_archived");
}

#[tokio::test]
async fn an_import_waits_for_who_moves_the_slot_and_never_writes_beside_them() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let admin = shard(world, room).await;
    let slot = i32::from(slot_of(RoomId::new(room).unwrap()).0);
    admin.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({SLOT_LOCKS}, {slot})")).await.unwrap();
    let watcher = shard(world, room).await;
    let (api, lines) = (world.api(&alice), rects("s", 50));
    let moved = async {
        // Its lines are staged, and it has come to the lock.
        let waits = format!(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = {slot} AND NOT granted)
                AND (SELECT count(*) FROM import_line) >= 50"
        );
        let end = Instant::now() + Duration::from_secs(60);
        while !watcher.query_one(&waits, &[]).await.unwrap().get::<_, bool>(0) {
            assert!(Instant::now() < end, "it didn't wait");
        }
        let events = format!("SELECT count(*) FROM room_event WHERE room_id = {room}");
        assert_eq!(watcher.query_one(&events, &[]).await.unwrap().get::<_, i64>(0), 0);
        admin.batch_execute("COMMIT").await.unwrap();
    };
    let (answer, ()) = tokio::join!(import(&api, room, "op", &lines), moved);
    assert_eq!(answer.json()["imported"], 50, "{}", answer.text);
}

#[tokio::test]
async fn a_long_import_takes_little_memory() {
    let world = World::start(|options| options).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let filler = "x".repeat(1000);
    let lines = (0..30_000).fold(String::new(), |mut lines, n| {
        writeln!(lines, "{{\"id\":\"s{n}\",\"filler\":\"{filler}\"}}").unwrap();
        lines
    });
    let pid = world.cluster().report().nodes[0].pid;
    let before = super::export::peak_kib(pid);
    let begun = Instant::now();
    let answer = import(&world.api_of(0, &alice), room, "long", &lines).await;
    assert_eq!(answer.json()["imported"], 30_000, "{}", answer.text);
    let peak = super::export::peak_kib(pid);
    let kib = lines.len() / 1024;
    println!(
        "{kib} KiB in {:?}; the node's memory peaked at {peak} KiB, before at {before}",
        begun.elapsed()
    );
    assert!(peak < before + 32 * 1024, "{kib} KiB took {peak} KiB, before {before}");
}
