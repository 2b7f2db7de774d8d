//! What is left of a room where it was, and what is made of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use roomgate::dev::{Admin, Options};
use serde_json::Value;

use super::{owner, shards, slot, told};
use crate::convergence::{FROM_PRIMARY, whole_log};
use crate::history::world::{draw, snapshots};
use crate::world::{Person, World};

const WITHOUT_ROOMS: [&str; 5] = ["slot_owner", "shard_claim", "audit", "import_line", "schema_migration"];

#[tokio::test]
async fn every_table_of_a_shard_either_goes_with_its_rooms_or_is_known_not_to() {
    let world = World::shared();
    let tables = "SELECT table_name::text FROM information_schema.tables
                   WHERE table_schema = 'public' AND table_type = 'BASE TABLE'";
    let found = world.primaries().await[0].query(tables, &[]).await.unwrap();
    let found: BTreeSet<String> = found.iter().map(|row| row.get(0)).collect();
    let known = roomgate::moves::tables().chain(WITHOUT_ROOMS).map(str::to_owned).collect();
    assert_eq!(found, known);
}

/// A room with a past, on the first shard, and one that stays there.
async fn two_rooms(world: &World, alice: &Person) -> [u64; 2] {
    let mut rooms = Vec::new();
    while rooms.len() < 2 {
        let room = world.room(alice, "drawing").await;
        if owner(world, slot(room)).await == "a" {
            rooms.push(room);
        }
    }
    // In the order in which they are looked through.
    rooms.sort_unstable();
    for room in &rooms {
        draw(world, alice, *room, 250).await;
        snapshots(&world.primaries().await[0], *room, 2).await;
    }
    [rooms[0], rooms[1]]
}

async fn events(admin: &Admin, room: u64) -> i64 {
    let count = "SELECT count(*) FROM room_event WHERE room_id = $1";
    admin.query_one(count, &[&(room as i64)]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_is_left_of_a_room_says_nothing_of_it_to_nodes_that_missed_its_move() {
    let world = World::start(|options| {
        let options = options.set("history.retention_interval_ms", 100);
        Options { shards: 2, replicas: 0, nodes: 2, ..options }
    })
    .await;
    let alice = world.person("alice");
    let [moved, stays] = two_rooms(&world, &alice).await;
    let slots = slot(moved).0.to_string();
    told(&world, &["move", "--slots", &slots, "--to", "b"]).await;
    let [here, there] = &world.primaries().await[..] else { unreachable!() };
    let forget = format!("UPDATE room SET retention_ms = 1 WHERE id IN ({moved}, {stays})");
    here.batch_execute(&forget).await.unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while events(here, stays).await > 50 {
        assert!(Instant::now() < end, "nothing is ever deleted: the test is void");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(events(there, moved).await, 250, "its owner keeps everything");
    assert_eq!(whole_log(&world, &alice, moved, FROM_PRIMARY).await.len(), 250);
}

#[tokio::test]
async fn what_was_left_is_made_whole_when_its_room_comes_back() {
    let world = World::start(|options| Options { shards: 2, replicas: 0, nodes: 2, ..options }).await;
    let alice = world.person("alice");
    let [room, _] = two_rooms(&world, &alice).await;
    let before = whole_log(&world, &alice, room, FROM_PRIMARY).await;
    let slots = slot(room).0.to_string();
    let admins = world.primaries().await;
    for damage in [
        "DELETE FROM room_event WHERE room_id = $1 AND seq < 10",
        "DELETE FROM room_event WHERE room_id = $1 AND seq BETWEEN 100 AND 109",
        "DELETE FROM room_event WHERE room_id = $1",
        "UPDATE room_event SET body = '{}' WHERE room_id = $1 AND seq = 17",
        "UPDATE room_head SET head_seq = head_seq + 1 WHERE room_id = $1",
        "DELETE FROM shape WHERE room_id = $1",
        "UPDATE shape SET data = '{}' WHERE room_id = $1",
        "DELETE FROM room_member WHERE room_id = $1",
        "UPDATE room SET name = 'another' WHERE id = $1",
    ] {
        told(&world, &["move", "--slots", &slots, "--to", "b"]).await;
        admins[0].execute(damage, &[&(room as i64)]).await.unwrap();
        told(&world, &["move", "--slots", &slots, "--to", "a"]).await;
        assert_eq!(whole_log(&world, &alice, room, FROM_PRIMARY).await, before, "{damage}");
        let verified = told(&world, &["verify", "--slots", &slots]).await;
        let [here, there] = &verified["slots"][0]["on"].as_array().unwrap()[..] else { unreachable!() };
        for part in ["rooms", "events", "shapes", "log_digest", "shapes_digest", "broken"] {
            assert_eq!(here[part], there[part], "{damage}: {verified:#}");
        }
    }
}

#[tokio::test]
async fn nothing_is_cleaned_up_that_its_shard_owns() {
    let world = World::start(|options| Options { shards: 2, replicas: 0, nodes: 2, ..options }).await;
    let alice = world.person("alice");
    let [room, _] = two_rooms(&world, &alice).await;
    let slots = slot(room).0.to_string();
    for to in ["b", "a"] {
        told(&world, &["move", "--slots", &slots, "--to", to]).await;
    }
    let cleaned = shards(&world, &["cleanup", "--older-than", "0"]).await;
    let text = String::from_utf8_lossy(&cleaned.stdout);
    assert!(cleaned.status.success(), "{text}{}", String::from_utf8_lossy(&cleaned.stderr));
    let verified: Value = told(&world, &["verify", "--slots", &slots]).await;
    let on = verified["slots"][0]["on"].as_array().unwrap();
    assert_eq!(on.len(), 1, "{verified}");
    assert_eq!((&on[0]["shard"], &on[0]["events"]), (&Value::from("a"), &Value::from(250)));
}
