//! Delivery doesn't depend on Redis: it is faster with it, and complete without.
//!
//! Stopwatches here measure the promise's 5 s, not speed.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::client::{Client, rect};
use crate::world::World;

/// The promise: a hole closes within 5 s, even in a room that has gone quiet.
const PROMISED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn events_arrive_within_5_s_and_writes_are_acked_while_redis_is_dead_or_frozen() {
    let world = World::start(|options| options).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "drawing").await;
    let mut writer = world.client(0, &alice).await;
    let mut reader = world.client(1, &bob).await;
    writer.join(room).await;
    reader.join(room).await;
    draws_and_is_seen(&mut writer, &mut reader, room, 0).await;

    let redis = Pid::from_raw(world.cluster().report().redis.pid);
    kill(redis, Signal::SIGSTOP).unwrap();
    for i in 1..4 {
        draws_and_is_seen(&mut writer, &mut reader, room, i).await;
    }
    kill(redis, Signal::SIGKILL).unwrap();
    for i in 4..7 {
        draws_and_is_seen(&mut writer, &mut reader, room, i).await;
    }
    let repairs = world.counted("roomgate_gap_repairs_total", "cause").await;
    assert!(repairs["head"] >= 1.0, "it was the head check that found them: {repairs:?}");
}

/// One shape, and then silence: there is no later event to show that one is
/// missing.
async fn draws_and_is_seen(writer: &mut Client, reader: &mut Client, room: u64, i: i32) {
    let body = json!({"kind": "shape.add", "shape": rect(&format!("r{i}"), i)});
    let acked = writer.submit(room, &format!("op-{i}"), &body).await;
    assert_eq!(acked["type"], "ack", "{acked}");
    let committed = Instant::now();
    reader.catches_up(room, acked["seq"].as_u64().unwrap()).await;
    let took = committed.elapsed();
    assert!(took < PROMISED, "event {i} took {took:?}");
}
