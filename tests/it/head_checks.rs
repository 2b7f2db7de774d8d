//! What it costs to find lost announcements: one statement a shard and tick,
//! however many rooms are live.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::delivery::draws_and_is_seen;
use crate::world::{Person, World};

const TICK: Duration = Duration::from_millis(250);
const WINDOW: Duration = Duration::from_secs(4);
/// On a busy machine a window has fewer; so it lasts until it has enough to count.
const ENOUGH: f64 = 12.0;
const SHARDS: f64 = 2.0;
/// The node whose statements are counted.
const NODE: usize = 1;

#[tokio::test]
async fn polls_of_a_node_grow_with_shards_not_with_rooms_while_redis_is_down() {
    let quick = u64::try_from(TICK.as_millis()).unwrap();
    let world = World::start(|options| {
        options.set("sessions.head_check_ms", quick).set("limits.rooms_per_session", 0)
    })
    .await;
    let alice = world.person("alice");
    let mut reader = world.client(NODE, &alice).await;
    let mut writer = world.client(0, &alice).await;
    let mut rooms = joins_first_rooms(&world, &alice, &mut reader).await;
    let first = rooms.len();
    writer.join(rooms[0]).await;
    draws_and_is_seen(&mut writer, &mut reader, rooms[0], 0).await;
    world.cluster().redis().service().kill().await;

    let few = polls(&world, &mut reader).await;
    while rooms.len() < 100 {
        rooms.push(joins_new_room(&world, &alice, &mut reader).await);
    }
    assert_eq!(world.measured(NODE, "roomgate_rooms_active").await as usize, rooms.len());
    let many = polls(&world, &mut reader).await;
    println!("head checks a shard and tick: {few:.2} with {first} rooms, {many:.2} with {}", rooms.len());
    // With one a room it would be fifty. Some come between ticks, when Redis is lost.
    assert!(few <= 2.0 && many <= 2.0, "{few} and {many}");
    // And they do what they are for.
    let last = *rooms.last().unwrap();
    writer.join(last).await;
    draws_and_is_seen(&mut writer, &mut reader, last, 1).await;
}

/// How many statements compared heads, a shard and tick.
async fn polls(world: &World, reader: &mut Client) -> f64 {
    let began = Instant::now();
    let before = statements(world).await;
    let mut made = 0.0;
    while made < ENOUGH {
        assert!(began.elapsed() < 10 * WINDOW, "{made} head checks in {:?}", began.elapsed());
        reader.listens_until(tokio::time::sleep(WINDOW)).await;
        made = statements(world).await - before;
    }
    made / (began.elapsed().div_duration_f64(TICK) * SHARDS)
}

async fn statements(world: &World) -> f64 {
    let all = world.counted_on(NODE, "db_query_duration_seconds_count", "statement").await;
    all.get("read_heads").copied().unwrap_or_default()
}

/// At least five, on both shards.
async fn joins_first_rooms(world: &World, owner: &Person, reader: &mut Client) -> Vec<u64> {
    let (mut rooms, mut shards) = (Vec::new(), BTreeSet::new());
    while rooms.len() < 5 || shards.len() < 2 {
        rooms.push(joins_new_room(world, owner, reader).await);
        shards.insert(world.shard_of(rooms[rooms.len() - 1]).await);
    }
    rooms
}

async fn joins_new_room(world: &World, owner: &Person, reader: &mut Client) -> u64 {
    let room = world.room(owner, "drawing").await;
    reader.join(room).await;
    room
}
