//! What it costs to find lost announcements: one statement a shard and tick,
//! however many rooms are live.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::delivery::draws_and_is_seen;
use crate::stopwatch::Stopwatch;
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
    reader.listens_until(notices_that_redis_is_away(&world)).await;

    let few = polls(&world, &mut reader).await;
    while rooms.len() < 100 {
        rooms.push(joins_new_room(&world, &alice, &mut reader).await);
    }
    assert_eq!(world.measured(NODE, "roomgate_rooms_active").await as usize, rooms.len());
    let many = polls(&world, &mut reader).await;
    println!("head checks a shard: {few:?} with {first} rooms, {many:?} with {}", rooms.len());
    for polls in [few, many] {
        // A window begins and ends between two ticks; a tick waits for the answer before it.
        assert!(polls.a_tick <= 1.0 + 1.5 * TICK.div_duration_f64(polls.window), "{few:?} and {many:?}");
        assert!(polls.a_turn >= 0.5, "{few:?} and {many:?}");
    }
    // And they do what they are for.
    let last = *rooms.last().unwrap();
    writer.join(last).await;
    draws_and_is_seen(&mut writer, &mut reader, last, 1).await;
}

/// The statements that compared heads.
#[derive(Debug, Clone, Copy)]
struct Polls {
    window: Duration,
    /// A shard and tick.
    a_tick: f64,
    /// A shard, and as many ticks as had time if each begins when the answer to
    /// the last one is there.
    a_turn: f64,
}

async fn polls(world: &World, reader: &mut Client) -> Polls {
    let began = Stopwatch::start();
    let (before, took_before) = statements(world).await;
    loop {
        reader.listens_until(tokio::time::sleep(WINDOW)).await;
        let (made, took) = statements(world).await;
        let (made, took, window) = (made - before, took - took_before, began.elapsed());
        if made >= ENOUGH {
            let a_shard = made / SHARDS;
            let turn = TICK.as_secs_f64() + took / made;
            return Polls {
                window,
                a_tick: a_shard / window.div_duration_f64(TICK),
                a_turn: a_shard / (window.as_secs_f64() / turn),
            };
        }
        assert!(window < 10 * WINDOW, "{made} head checks in {window:?}");
    }
}

/// That makes a node look once, whenever its next tick is.
async fn notices_that_redis_is_away(world: &World) {
    let until = Instant::now() + 10 * WINDOW;
    while world.measured(NODE, "roomgate_bus_up").await > 0.0 {
        assert!(Instant::now() < until, "node {NODE} believes in its bus");
        tokio::time::sleep(TICK / 10).await;
    }
}

/// How many there were, and how many seconds they took.
async fn statements(world: &World) -> (f64, f64) {
    let of = async |metric: &str| {
        let all = world.counted_on(NODE, metric, "statement").await;
        all.get("read_heads").copied().unwrap_or_default()
    };
    (of("db_query_duration_seconds_count").await, of("db_query_duration_seconds_sum").await)
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
