//! What is left of a room where it was, and what is made of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use roomgate::dev::{Admin, Options};
use serde_json::Value;

use super::{shards, slot, told};
use crate::convergence::{FROM_PRIMARY, whole_log};
use crate::history::world::{draw, snapshots};
use crate::world::{Person, World};

const WITHOUT_ROOMS: [&str; 5] = ["slot_owner", "shard_claim", "audit", "import_line", "schema_migration"];

const EVENTS: usize = 50;
/// So many events from one snapshot to the next.
const EVERY: usize = 20;

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

/// Rooms with a past, on the first shard, in the order in which they are looked
/// through.
async fn rooms(world: &World, alice: &Person, count: usize) -> Vec<u64> {
    let mut rooms = Vec::new();
    while rooms.len() < count {
        let room = world.room(alice, "drawing").await;
        if world.shard_of(room).await == 0 {
            rooms.push(room);
        }
    }
    rooms.sort_unstable();
    join_all(rooms.iter().map(|room| draw(world, alice, *room, EVENTS))).await;
    for room in &rooms {
        snapshots(&world.primaries().await[0], *room, EVENTS / EVERY).await;
    }
    rooms
}

async fn world() -> World {
    World::start(|options| {
        let options = options.set("history.retention_interval_ms", 100).set("history.snapshot_events", EVERY);
        Options { shards: 2, replicas: 0, nodes: 2, ..options }
    })
    .await
}

async fn events(admin: &Admin, room: u64) -> i64 {
    let count = "SELECT count(*) FROM room_event WHERE room_id = $1";
    admin.query_one(count, &[&(room as i64)]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_is_left_of_a_room_says_nothing_of_it_to_nodes_that_missed_its_move() {
    let world = world().await;
    let alice = world.person("alice");
    let [moved, stays] = rooms(&world, &alice, 2).await[..] else { unreachable!() };
    let slots = slot(moved).0.to_string();
    told(&world, &["move", "--slots", &slots, "--to", "b"]).await;
    let [here, there] = &world.primaries().await[..] else { unreachable!() };
    let forget = format!("UPDATE room SET retention_ms = 1 WHERE id IN ({moved}, {stays})");
    here.batch_execute(&forget).await.unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while events(here, stays).await == EVENTS as i64 {
        assert!(Instant::now() < end, "nothing is ever deleted: the test is void");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(events(there, moved).await, EVENTS as i64, "its owner keeps everything");
    assert_eq!(whole_log(&world, &alice, moved, FROM_PRIMARY).await.len(), EVENTS);
}

#[tokio::test]
async fn what_was_left_is_made_whole_when_its_room_comes_back() {
    let damages = [
        "DELETE FROM room_event WHERE room_id = $1 AND seq < 10",
        "DELETE FROM room_event WHERE room_id = $1 AND seq BETWEEN 10 AND 19",
        "DELETE FROM room_event WHERE room_id = $1",
        "UPDATE room_event SET body = '{}' WHERE room_id = $1 AND seq = 17",
        "UPDATE room_head SET head_seq = head_seq + 1 WHERE room_id = $1",
        "DELETE FROM shape WHERE room_id = $1",
        "UPDATE shape SET data = '{}' WHERE room_id = $1 AND NOT deleted",
        "DELETE FROM room_snapshot WHERE room_id = $1",
        "UPDATE room SET name = 'another' WHERE id = $1",
    ];
    let world = world().await;
    let alice = world.person("alice");
    let rooms = rooms(&world, &alice, damages.len()).await;
    let slots = rooms.iter().map(|room| slot(*room).0.to_string()).collect::<Vec<_>>().join(",");
    told(&world, &["move", "--slots", &slots, "--to", "b"]).await;
    let left = &world.primaries().await[0];
    for (damage, room) in damages.iter().zip(&rooms) {
        let damaged = left.execute(*damage, &[&(*room as i64)]).await.unwrap();
        assert!(damaged > 0, "{damage}");
    }
    told(&world, &["move", "--slots", &slots, "--to", "a"]).await;
    let verified = told(&world, &["verify", "--slots", &slots]).await;
    for room in &verified["slots"].as_array().unwrap()[..] {
        let [here, there] = &room["on"].as_array().unwrap()[..] else { panic!("{verified:#}") };
        for part in ["rooms", "events", "shapes", "log_digest", "shapes_digest", "broken"] {
            assert_eq!(here[part], there[part], "{verified:#}");
        }
    }
    for (damage, room) in damages.iter().zip(&rooms) {
        assert_eq!(whole_log(&world, &alice, *room, FROM_PRIMARY).await.len(), EVENTS, "{damage}");
        assert_eq!(snapshots(left, *room, 0).await.len(), EVENTS / EVERY, "{damage}");
    }
}

#[tokio::test]
async fn nothing_is_cleaned_up_that_its_shard_owns() {
    let world = world().await;
    let alice = world.person("alice");
    let room = rooms(&world, &alice, 1).await[0];
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
    assert_eq!((&on[0]["shard"], &on[0]["events"]), (&Value::from("a"), &Value::from(EVENTS)));
}
