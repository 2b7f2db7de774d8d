//! A room's shapes and bytes are bounded, whichever way they come.

use roomgate::dev::Options;
use serde_json::{Value, json};

use super::answer_to;
use crate::client::{Client, rect};
use crate::history::world::shard;
use crate::world::{Person, World};

async fn world(limit: &'static str, value: u64) -> World {
    World::start(|options| Options { nodes: 1, shards: 1, ..options.set(limit, value) }).await
}

fn full() -> (String, String) {
    ("reject".to_owned(), "too_large".to_owned())
}

fn ack() -> (String, String) {
    ("ack".to_owned(), String::new())
}

/// The shapes and bytes that the head counts. The state table has as many.
async fn counts(world: &World, room: u64) -> (i64, i64) {
    let admin = shard(world, room).await;
    let id = i64::try_from(room).unwrap();
    let head = "SELECT live_shapes, live_bytes FROM room_head WHERE room_id = $1";
    let head = admin.query_one(head, &[&id]).await.unwrap();
    let table = "SELECT count(*), coalesce(sum(octet_length(data::text)), 0)::bigint
                   FROM shape JOIN room_head USING (room_id)
                  WHERE room_id = $1 AND NOT deleted AND last_seq > cleared_seq";
    let table = admin.query_one(table, &[&id]).await.unwrap();
    let head: (i64, i64) = (head.get(0), head.get(1));
    assert_eq!(head, (table.get(0), table.get(1)));
    head
}

/// Every way to more shapes or bytes, tried in a room that is full.
async fn everything_is_refused(
    world: &World,
    alice: &Person,
    room: u64,
    client: &mut Client,
    tries: &[Value],
) {
    let before = counts(world, room).await;
    for (n, body) in tries.iter().enumerate() {
        assert_eq!(answer_to(client, room, &format!("try-{n}"), body).await, full(), "{body}");
    }
    let api = world.api_of(0, alice);
    let mut item = tries[0].clone();
    item["op"] = json!("by-http");
    let batch = api.post(&format!("/v1/rooms/{room}/events"), &json!({"items": [item]})).await.unwrap();
    assert_eq!(batch.json()["items"][0]["code"], "too_large", "{}", batch.text);
    let mut shape = tries[0]["shape"].clone();
    shape["id"] = json!("imported");
    let line = shape.to_string();
    let import = api.with("content-type", "application/x-ndjson");
    let path = format!("/v1/rooms/{room}/import?op=import");
    let refused = import.send("POST".parse().unwrap(), &path, Some(line)).await.unwrap();
    assert_eq!(
        (refused.status.as_u16(), refused.json()["error"]["code"].as_str()),
        (413, Some("too_large")),
        "{}",
        refused.text
    );
    assert_eq!(counts(world, room).await, before);
}

#[tokio::test]
async fn a_room_full_of_shapes_takes_no_more_until_some_are_deleted() {
    let world = world("limits.shapes_per_room", 5).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let add = |n: usize| json!({"kind": "shape.add", "shape": rect(&format!("s{n}"), 1)});
    let put = |id: &str| json!({"kind": "shape.put", "shape": rect(id, 2)});
    for n in 0..5 {
        assert_eq!(answer_to(&mut client, room, &format!("add-{n}"), &add(n)).await, ack());
    }
    assert_eq!(counts(&world, room).await.0, 5);
    everything_is_refused(&world, &alice, room, &mut client, &[add(5), put("new")]).await;
    for (op, body) in [
        ("put", put("s1")),
        ("update", json!({"kind": "shape.update", "shape_id": "s2", "patch": {"x": 7}})),
        ("message", json!({"kind": "message", "data": 1})),
        ("delete", json!({"kind": "shape.delete", "shape_id": "s3"})),
        ("again", add(5)),
        ("clear", json!({"kind": "room.clear"})),
        ("anew", add(6)),
    ] {
        assert_eq!(answer_to(&mut client, room, op, &body).await, ack(), "{op}");
    }
    assert_eq!(counts(&world, room).await.0, 1);
}

#[tokio::test]
async fn a_room_full_of_bytes_takes_no_more_until_some_are_deleted() {
    let world = world("limits.room_bytes", 10_000).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let shape = |id: &str, bytes: usize| json!({"id": id, "text": "x".repeat(bytes)});
    let add = |id: &str, bytes| json!({"kind": "shape.add", "shape": shape(id, bytes)});
    for id in ["a", "b", "c"] {
        assert_eq!(answer_to(&mut client, room, &format!("add-{id}"), &add(id, 3270)).await, ack());
    }
    let patch = json!({"kind": "shape.update", "shape_id": "a", "patch": {"more": "y".repeat(200)}});
    let put = json!({"kind": "shape.put", "shape": shape("b", 3500)});
    everything_is_refused(&world, &alice, room, &mut client, &[add("d", 200), patch.clone(), put]).await;
    let smaller = json!({"kind": "shape.put", "shape": shape("c", 1000)});
    assert_eq!(answer_to(&mut client, room, "smaller", &smaller).await, ack());
    assert_eq!(answer_to(&mut client, room, "patch", &patch).await, ack());
    counts(&world, room).await;
}
