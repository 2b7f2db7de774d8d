//! Logs that are too long to be read as a whole.

use std::time::{Duration, Instant};

use roomgate::config;
use roomgate::ids::RoomId;
use roomgate::jobs::Snapshots;
use roomgate::memory::Memory;
use roomgate::position::Seq;
use roomgate::routing::Freshness;
use roomgate::store::history::ReadError;
use roomgate::tasks::Tasks;

use crate::routing::world::{EPOCH, Node, World, eventually, memory};

/// As the promise has it.
const ROWS_MAX: i64 = 10_000;
const FRESH: Freshness = Freshness::MaxStale(Duration::from_secs(1));

/// Every event puts one of 500 shapes.
pub async fn fill(world: &World, room: RoomId, events: u64) {
    let fill = format!(
        "INSERT INTO room_event
                (room_id, seq, epoch, op_id, user_id, kind, body, digest, version, created_at)
           SELECT {room}, seq, {EPOCH}, 'op-' || seq, 'u' || seq % 3, 'shape.put',
                  ('{{\"shape\":{{\"id\":\"s' || seq % 500 || '\",\"type\":\"rect\",\"n\":' || seq || '}}}}')::json,
                  '\\x00112233445566778899aabbccddeeff', (seq - 1) / 500 + 1, now()
             FROM generate_series(1, {events}) AS seq;
         INSERT INTO shape (room_id, shape_id, version, type, data, last_seq)
           SELECT room_id, 's' || seq % 500, version, 'rect', body->'shape', seq FROM room_event
            WHERE room_id = {room} AND seq > {events} - 500;
         UPDATE room_head SET head_seq = {events}, head_epoch = {EPOCH}, live_shapes = 500 WHERE room_id = {room};
         ANALYZE"
    );
    world.sql(&fill).await;
}

/// Rows of the log that were read since the server began. A backend tells what
/// it has counted when it ends; the one that asks is made to.
async fn rows_read(world: &World) -> i64 {
    let backends = "SELECT pid FROM pg_stat_activity WHERE usename = 'roomgate'";
    let rows = world.admin.query(backends, &[]).await.unwrap();
    let pids: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    world
        .admin
        .query("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", &[&pids])
        .await
        .unwrap();
    eventually("the backends end", async || {
        let left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)";
        world.admin.query_one(left, &[&pids]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    world.admin.query_one("SELECT pg_stat_force_next_flush()", &[]).await.unwrap();
    let count = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'room_event'";
    world.admin.query_one(count, &[]).await.unwrap().get(0)
}

/// Runs the job until the room's snapshots have come near its head.
async fn make_snapshots(world: &World, node: &Node, room: RoomId, events: u64) {
    let tasks = Tasks::new();
    let config =
        config::History { snapshot_interval: Duration::from_millis(50), ..config::History::default() };
    let job = Snapshots::new(&node.history, &Memory::new(&config::Memory::default()), &config);
    tasks.spawn("snapshots", job.run(tasks.stop_signal()));
    let newest = format!("SELECT coalesce(max(seq), 0) FROM room_snapshot WHERE room_id = {room}");
    let end = Instant::now() + Duration::from_secs(300);
    loop {
        let newest = world.admin.query_one(&newest, &[]).await.unwrap().get::<_, i64>(0) as u64;
        if newest + 1000 > events {
            break;
        }
        assert!(Instant::now() < end, "snapshots have come to {newest} only");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tasks.stop();
    tasks.ended(Duration::from_secs(30)).await.unwrap();
}

/// What reading the state at `seq` costs, and whether it is right.
async fn read_at(world: &World, node: &Node, room: RoomId, seq: u64) -> i64 {
    let before = rows_read(world).await;
    let position = node.history.position_of(room, Seq(seq), FRESH).await.unwrap().value;
    let state = node.history.state_at(room, position, 10_000, FRESH, &mut memory().await).await.unwrap();
    let rows = rows_read(world).await - before;
    assert_eq!(state.position.seq, Seq(seq));
    assert_eq!(state.shapes.len() as u64, seq.min(500));
    for shape in &state.shapes {
        let slot: u64 = shape.id[1..].parse().unwrap();
        let last = seq - (seq - slot) % 500;
        let expected = format!(
            r#"{{"version":{},"shape":{{"id":"{}","type":"rect","n":{last}}}}}"#,
            (last - 1) / 500 + 1,
            shape.id
        );
        assert_eq!(shape.json, expected, "at {seq}");
    }
    rows
}

async fn an_old_state_reads_few_rows_of(events: u64) {
    let world = World::start(0).await;
    let node = world.node().await;
    let room = world.room().await;
    fill(&world, room, events).await;
    let begun = Instant::now();
    make_snapshots(&world, &node, room, events).await;
    println!("snapshots of {events} events were made in {:?}", begun.elapsed());
    for seq in [1, 999, 1000, 1001, events / 2, events / 2 + 777, events - 1, events] {
        let begun = Instant::now();
        let rows = read_at(&world, &node, room, seq).await;
        println!("the state at {seq} of {events} read {rows} rows of the log in {:?}", begun.elapsed());
        assert!(rows <= ROWS_MAX, "{rows} rows were read for the state at {seq}");
    }
}

#[tokio::test]
async fn an_old_state_of_a_long_log_reads_at_most_ten_thousand_of_its_rows() {
    an_old_state_reads_few_rows_of(30_000).await;
}

/// `make million`
#[tokio::test]
#[ignore = "takes minutes"]
async fn an_old_state_of_a_million_events_reads_at_most_ten_thousand_of_them() {
    an_old_state_reads_few_rows_of(1_000_000).await;
}

#[tokio::test]
async fn a_state_too_far_from_any_snapshot_is_refused_for_now_instead_of_read() {
    let world = World::start(0).await;
    let node = world.node().await;
    let room = world.room().await;
    fill(&world, room, 30_000).await;
    let position = node.history.position_of(room, Seq(20_000), FRESH).await.unwrap().value;
    let before = rows_read(&world).await;
    let refused = node.history.state_at(room, position, 10_000, FRESH, &mut memory().await).await;
    assert!(matches!(refused, Err(ReadError::NotPrepared(_))), "{refused:?}");
    assert!(refused.unwrap_err().refusal().retry_after_ms.is_some());
    let rows = rows_read(&world).await - before;
    assert!(rows < 20, "{rows} rows were read for a refusal");
}
