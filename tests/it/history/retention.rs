//! Old events go behind a snapshot, and nothing else is disturbed.

use std::io::Read;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use roomgate::dev::{Admin, Scratch};
use serde_json::{Value, json};

use super::world::{draw, shard, snapshots, state_at};
use crate::client::rect;
use crate::convergence::{FROM_PRIMARY, state_over_http, whole_log};
use crate::view::View;
use crate::world::World;

/// A cluster that looks for old events at once, and whose rooms forget quickly.
async fn world(change: impl FnOnce(roomgate::dev::Options) -> roomgate::dev::Options) -> World {
    World::start(|options| {
        change(options.set("history.retention_interval_ms", 100).set("sessions.ring_events", 10))
    })
    .await
}

async fn set_retention(admin: &Admin, room: u64, ms: u64) {
    admin.batch_execute(&format!("UPDATE room SET retention_ms = {ms} WHERE id = {room}")).await.unwrap();
}

/// The first event there is, once it is `first`, and its room's snapshots too.
async fn trimmed(admin: &Admin, room: u64, first: i64) {
    let end = Instant::now() + Duration::from_secs(60);
    let oldest = format!(
        "SELECT (SELECT min(seq) FROM room_event WHERE room_id = {room}),
                (SELECT min(seq) FROM room_snapshot WHERE room_id = {room})"
    );
    loop {
        let row = admin.query_one(&oldest, &[]).await.unwrap();
        let (event, snapshot): (Option<i64>, Option<i64>) = (row.get(0), row.get(1));
        if (event, snapshot) == (Some(first), Some(first - 1)) {
            return;
        }
        assert!(Instant::now() < end, "the first event is {event:?}, snapshot {snapshot:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn old_events_are_deleted_behind_a_snapshot_while_others_draw() {
    let world = world(|options| options).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let kept = world.room(&alice, "drawing").await;
    let states = draw(&world, &alice, room, 350).await;
    draw(&world, &alice, kept, 250).await;
    let admin = shard(&world, room).await;
    snapshots(&admin, room, 3).await;
    let before = state_over_http(&world, &alice, room, FROM_PRIMARY).await;
    assert_eq!(before, states[350]);
    let epoch = whole_log(&world, &alice, room, FROM_PRIMARY).await[0]["epoch"].as_u64().unwrap();

    // They draw from before the deletion until after it.
    let mut clients = Vec::new();
    for node in 0..3 {
        let mut client = world.client(node, &alice).await;
        client.join(room).await;
        clients.push(client);
    }
    set_retention(&admin, room, 1).await;
    let mut drawn = 0;
    let mut trimming = std::pin::pin!(trimmed(&admin, room, 301).fuse());
    // Fewer than bring the next snapshot.
    while drawn < 45 {
        let client = &mut clients[drawn % 3];
        let put = json!({"kind": "shape.put", "shape": rect(&format!("n{drawn}"), drawn as i32)});
        assert_eq!(client.submit(room, &format!("new-{drawn}"), &put).await["type"], "ack");
        drawn += 1;
        if tokio::time::timeout(Duration::from_millis(50), &mut trimming).await.is_ok() {
            break;
        }
    }
    if !trimming.is_terminated() {
        trimming.await;
    }
    let head = 350 + drawn as u64;
    for client in &mut clients {
        client.catches_up(room, head).await;
    }
    let state = state_over_http(&world, &alice, room, FROM_PRIMARY).await;
    assert_eq!(state.len(), before.len() + drawn, "no shape was lost");
    for client in &clients {
        assert_eq!(client.rooms[&room].shapes, state);
    }

    // What is gone is said to be, everywhere and in every way.
    let api = world.api_of(1, &alice);
    for path in ["events?after=0", "events?after=299", "events?stream=ndjson", "shapes?seq=299"] {
        let answer = api.get(&format!("/v1/rooms/{room}/{path}&{FROM_PRIMARY}")).await.unwrap();
        let code = answer.json()["error"]["code"].clone();
        assert_eq!((answer.status.as_u16(), code), (410, json!("below_retention")), "{path}");
    }
    for seq in [300, 301, 350] {
        assert_eq!(state_at(&api, room, seq, 1000).await, states[seq as usize], "at {seq}");
    }
    let after = api.get(&format!("/v1/rooms/{room}/events?after=300&{FROM_PRIMARY}")).await.unwrap().json();
    assert_eq!(after["items"][0]["seq"], 301);
    let mut late = world.client(2, &alice).await;
    let view = View { epoch, seq: 1, live: true, ..View::default() };
    late.resume(room, view).await;
    assert_eq!(late.rooms[&room].shapes, state, "it was given the state");
    assert_eq!(late.hears().await.unwrap()["reason"], "below_retention");
    // A tombstone outlasts its events: what is deleted stays dead.
    let gone = format!("s{}", 6 - 3);
    let put = json!({"kind": "shape.put", "shape": rect(&gone, 1)});
    assert_eq!(late.submit(room, "zombie", &put).await["code"], "shape_deleted");
    // And a room that keeps everything does.
    assert_eq!(whole_log(&world, &alice, kept, FROM_PRIMARY).await.len(), 250);
    let mut counted = 0.0;
    for node in 0..3 {
        counted += world.measured(node, "roomgate_events_expired_total").await;
    }
    assert_eq!(counted, 300.0, "each was deleted once");
}

#[tokio::test]
async fn a_retention_for_all_rooms_is_configured_and_a_room_may_keep_everything() {
    let world = world(|options| options.set("history.retention_ms", 1)).await;
    let alice = world.person("alice");
    let (forgets, keeps) = (world.room(&alice, "drawing").await, world.room(&alice, "drawing").await);
    set_retention(&shard(&world, keeps).await, keeps, 0).await;
    draw(&world, &alice, keeps, 150).await;
    draw(&world, &alice, forgets, 250).await;
    trimmed(&shard(&world, forgets).await, forgets, 201).await;
    snapshots(&shard(&world, keeps).await, keeps, 1).await;
    assert_eq!(whole_log(&world, &alice, keeps, FROM_PRIMARY).await.len(), 150);
}

#[tokio::test]
async fn what_is_deleted_was_archived_before_and_nothing_is_deleted_without() {
    let scratch = Scratch::new("archive").unwrap();
    let folder = scratch.path().join("archive");
    // A file where the folder is to be: nothing can be written.
    std::fs::write(&folder, "in the way").unwrap();
    let folder_text = folder.display().to_string();
    let world = world(|options| options.set("history.archive_dir", &folder_text)).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    draw(&world, &alice, room, 250).await;
    let log = whole_log(&world, &alice, room, FROM_PRIMARY).await;
    let admin = shard(&world, room).await;
    snapshots(&admin, room, 2).await;
    set_retention(&admin, room, 1).await;
    // Every node has tried, and said so.
    let tried = Instant::now() + Duration::from_secs(60);
    let logs =
        || (0..3).filter(|node| log_of(&world, *node).contains("the archive can't be written")).count();
    while logs() < 3 {
        assert!(Instant::now() < tried, "{} nodes have tried", logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(whole_log(&world, &alice, room, FROM_PRIMARY).await.len(), 250);

    std::fs::remove_file(&folder).unwrap();
    trimmed(&admin, room, 201).await;
    let archived = folder.join(room.to_string()).join("000000000001-000000000200.ndjson.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(&archived).unwrap()).read_to_string(&mut text).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, log[..200]);
}

fn log_of(world: &World, node: usize) -> String {
    std::fs::read_to_string(world.cluster().nodes()[node].service().log()).unwrap_or_default()
}
