//! Rooms that somebody else holds, and several nodes that want the same ones.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use roomgate::config::{self, Writes};
use roomgate::dev::Postgres;
use roomgate::ids::{RoomId, ShardName};
use roomgate::placement::slot_of;
use roomgate::protocol::Code;

use super::world::{Node, World, insert_room, message, prepare_shard, put, writes};
use crate::stopwatch::Stopwatch;

#[tokio::test]
async fn locked_room_does_not_stall_its_lane() {
    let world = World::start().await;
    let node = world.node_with(Writes { lanes: 1, ..writes() }).await;
    let rooms = world.rooms(4).await;
    let locker = world.server.admin().await.unwrap();
    let lock = format!("BEGIN; SELECT FROM room_head WHERE room_id = {} FOR UPDATE", rooms[0]);
    locker.batch_execute(&lock).await.unwrap();
    let started = Stopwatch::start();
    let mut stuck = Vec::new();
    for round in 0..20 {
        stuck.push(node.submit(message(rooms[0], &format!("op{round}"), "x")));
        for room in &rooms[1..] {
            node.submit(message(*room, &format!("op{round}"), "x")).ack().await;
        }
    }
    // One lock_timeout, not one a round.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(world.log(rooms[1]).await.len(), 20);
    assert!(world.log(rooms[0]).await.is_empty());
    locker.batch_execute("ROLLBACK").await.unwrap();
    for (n, pending) in stuck.into_iter().enumerate() {
        assert_eq!(pending.ack().await.position.seq.0, n as u64 + 1, "in the order of sending");
    }
    // And back in its own lane.
    node.submit(message(rooms[0], "after", "x")).ack().await;
}

#[tokio::test]
async fn a_room_locked_for_too_long_is_refused_without_effect() {
    let world = World::start().await;
    let writes = Writes { failover_wait: Duration::from_secs(3), ..writes() };
    let (node, room) = (world.node_with(writes).await, world.room().await);
    let locker = world.server.admin().await.unwrap();
    locker.batch_execute("BEGIN; SELECT FROM room_head FOR UPDATE").await.unwrap();
    let rejection = node.submit(message(room, "a", "x")).rejection().await;
    assert_eq!(rejection.refusal.code, Code::ShardUnavailable);
    locker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(node.submit(message(room, "b", "x")).ack().await.position.seq.0, 1);
}

#[tokio::test]
async fn nodes_writing_the_same_rooms_leave_no_hole() {
    let world = World::start().await;
    let rooms = world.rooms(10).await;
    let nodes = [world.node().await, world.node().await, world.node().await];
    let mut pending = Vec::new();
    for n in 0..600 {
        for (at, node) in nodes.iter().enumerate() {
            let room = rooms[n % rooms.len()];
            pending.push(node.submit(put(room, &format!("n{at}-{n}"), &format!("s{}", n % 7), n as u64)));
        }
    }
    for pending in pending {
        pending.ack().await;
    }
    for room in rooms {
        let log = world.log(room).await;
        assert_eq!(log.len(), 180);
        // What the nodes announced, together, is the log.
        let mut announced = std::collections::BTreeMap::new();
        for node in &nodes {
            announced.extend(node.heard.log_of(room));
        }
        let ops: Vec<_> = log.into_iter().map(|(_, op)| op).collect();
        assert_eq!(announced.into_values().collect::<Vec<_>>(), ops);
    }
}

#[tokio::test]
async fn deadlocks_are_retried() {
    let world = World::start().await;
    world.sql("ALTER SYSTEM SET deadlock_timeout = '10ms'; ").await;
    world.sql("SELECT pg_reload_conf()").await;
    let node = world.node_with(Writes { lanes: 1, ..writes() }).await;
    let rooms = world.rooms(8).await;
    let mut rng = SmallRng::seed_from_u64(7);
    let rival = world.server.admin().await.unwrap();
    let mut rival_fell = 0;
    for round in 0..40 {
        // Somebody who locks in the wrong order, while a batch locks in order.
        let (high, low) = (rooms.iter().max().unwrap(), rooms.iter().min().unwrap());
        let lock = |room: &RoomId| format!("SELECT FROM room_head WHERE room_id = {room} FOR UPDATE");
        rival.batch_execute(&format!("BEGIN; {}", lock(high))).await.unwrap();
        let pending: Vec<_> =
            rooms.iter().map(|room| node.submit(message(*room, &format!("op{round}"), "x"))).collect();
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..20))).await;
        rival_fell += usize::from(rival.batch_execute(&lock(low)).await.is_err());
        rival.batch_execute("ROLLBACK").await.unwrap();
        for pending in pending {
            assert_eq!(pending.ack().await.position.seq.0, round + 1);
        }
    }
    let deadlocks: i64 = world
        .admin
        .query_one("SELECT deadlocks FROM pg_stat_database WHERE datname = 'roomgate'", &[])
        .await
        .unwrap()
        .get(0);
    assert!(deadlocks > rival_fell as i64 || rival_fell > 0, "no deadlock was felt: the test is void");
}

#[tokio::test]
async fn writers_follow_a_slot_that_has_moved() {
    let world = World::start().await;
    let other = Postgres::primary(&world.scratch.path().join("b-1"), "b-1").await.unwrap();
    let other_admin = other.admin().await.unwrap();
    prepare_shard(&other_admin, false).await;
    let shard = |name: &str, server: &Postgres| config::Shard {
        name: ShardName::new(name).unwrap(),
        weight: 100,
        endpoints: vec![server.endpoint()],
    };
    let node = Node::over(vec![shard("a", &world.server), shard("b", &other)], writes()).await;
    let room = world.room().await;
    assert_eq!(node.submit(message(room, "before", "x")).ack().await.position.epoch.0, 7);

    // The move, as the one who moves would do it, without the copying.
    let slot = slot_of(room).0;
    insert_room(&other_admin, room, "public", "editor").await;
    world.sql(&format!("UPDATE slot_owner SET state = 'moved', moved_to = 'b' WHERE slot = {slot}")).await;
    let pending: Vec<_> = (0..100).map(|n| node.submit(message(room, &format!("op{n}"), "x"))).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let take = format!("INSERT INTO slot_owner VALUES ({slot}, 9, 'active', null)");
    other_admin.batch_execute(&take).await.unwrap();

    for (n, pending) in pending.into_iter().enumerate() {
        let ack = pending.ack().await;
        assert_eq!((ack.position.epoch.0, ack.position.seq.0), (9, n as u64 + 1), "paused, not refused");
    }
    assert_eq!(world.log(room).await.len(), 1, "nothing was written to the old owner");
}
