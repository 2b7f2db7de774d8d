//! People draw in rooms whose slots go to another shard and come back.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::{join, join_all};
use roomgate::dev::Options;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{owner, slot, told};
use crate::client::{Client, rect};
use crate::convergence::{FROM_PRIMARY, whole_log};
use crate::stopwatch::Stopwatch;
use crate::view::View;
use crate::world::{Person, World};

const ROOMS: usize = 6;

#[tokio::test]
async fn slots_move_while_people_draw_and_they_see_a_pause_and_nothing_else() {
    let world = World::start(|options| Options { shards: 2, replicas: 1, ..options }).await;
    let alice = world.person("alice");
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        rooms.push(world.room(&alice, "drawing").await);
    }
    let slots: Vec<String> = rooms.iter().map(|room| slot(*room).0.to_string()).collect();
    let slots = slots.join(",");
    let (tell, done) = watch::channel(false);
    let drawing = join_all(rooms.iter().enumerate().map(|(number, room)| {
        let (world, alice, done) = (&world, &alice, done.clone());
        async move { draws(world, alice, number, *room, done).await }
    }));
    let moving = async {
        let mut reports = Vec::new();
        for to in ["b", "a", "b"] {
            reports.push(told(&world, &["move", "--slots", &slots, "--to", to]).await);
            for room in &rooms {
                assert_eq!(owner(&world, slot(*room)).await, to);
            }
        }
        tell.send_replace(true);
        reports
    };
    let (people, reports) = join(drawing, moving).await;
    reports.iter().for_each(|report| println!("{report}"));
    let moved: u64 = reports.iter().map(|report| report["arrived"].as_u64().unwrap()).sum();
    assert!(moved >= 2 * ROOMS as u64, "{reports:?}");

    for (room, (mut writer, mut reader, acked)) in rooms.iter().zip(people) {
        let log = whole_log(&world, &alice, *room, FROM_PRIMARY).await;
        let ops: Vec<&str> = log.iter().map(|event| event["op"].as_str().unwrap()).collect();
        assert_eq!(
            ops,
            (0..acked).map(|n| format!("op-{n}")).collect::<Vec<_>>(),
            "lost, doubled or reordered"
        );
        for client in [&mut writer, &mut reader] {
            client.catches_up(*room, log.len() as u64).await;
            let untaken: Vec<&Value> = client.untaken().iter().collect();
            assert!(untaken.iter().all(|m| m["type"] == "presence"), "somebody noticed: {untaken:?}");
        }
        assert_eq!(writer.rooms[room].shapes, reader.rooms[room].shapes);
        let epochs: BTreeMap<u64, u64> = log
            .iter()
            .map(|event| (event["epoch"].as_u64().unwrap(), event["seq"].as_u64().unwrap()))
            .collect();
        assert!(epochs.len() >= 3, "every move raises the epoch: {epochs:?}");
        assert!(epochs.values().is_sorted(), "epochs only rise");
        // A position from before all moves is still one.
        let mut late = world.client(1, &alice).await;
        let view = View { epoch: log[0]["epoch"].as_u64().unwrap(), seq: 1, ..View::default() };
        late.resume(*room, view).await;
        late.catches_up(*room, log.len() as u64).await;
        assert!(late.untaken().iter().all(|m| m["type"] == "presence"), "{:?}", late.untaken());
    }
    let verified = told(&world, &["verify", "--slots", &slots]).await;
    assert_eq!(verified["problems"], json!([]));
    what_is_left_equals_what_arrived(&verified);
}

/// The old copy has all but what was written after the move.
fn what_is_left_equals_what_arrived(verified: &Value) {
    for slot in verified["slots"].as_array().unwrap() {
        let on = slot["on"].as_array().unwrap();
        assert_eq!(on.len(), 2, "{slot}");
        assert_eq!(on[0]["rooms"], on[1]["rooms"], "{slot}");
    }
}

/// Submits one after the other on one node, and listens on another, until told.
async fn draws(
    world: &World,
    person: &Person,
    number: usize,
    room: u64,
    mut done: watch::Receiver<bool>,
) -> (Client, Client, usize) {
    let mut writer = world.client(number % 3, person).await;
    let mut reader = world.client((number + 1) % 3, person).await;
    writer.join(room).await;
    reader.join(room).await;
    let mut count = 0;
    while !*done.borrow() || count < 10 {
        let body = json!({"kind": "shape.put", "shape": rect(&format!("r{}", count % 20), count as i32)});
        let answer = writer.submit(room, &format!("op-{count}"), &body).await;
        assert_eq!(answer["type"], "ack", "{answer}");
        count += 1;
        if count % 10 == 0 {
            // Who reads nothing for long is closed.
            reader.catches_up(room, count as u64).await;
        }
    }
    done.borrow_and_update();
    (writer, reader, count)
}

/// Longer than the promise says, by what the test itself takes.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn who_only_reads_hears_of_what_is_drawn_after_a_move_within_5_s_without_redis() {
    let world = World::start(|options| Options { shards: 2, replicas: 1, nodes: 2, ..options }).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut reader = world.client(1, &alice).await;
    reader.join(room).await;
    world.cluster().redis().service().kill().await;
    let to = if owner(&world, slot(room)).await == "a" { "b" } else { "a" };
    told(&world, &["move", "--slots", &slot(room).0.to_string(), "--to", to]).await;
    let mut writer = world.client(0, &alice).await;
    writer.join(room).await;
    let body = json!({"kind": "shape.put", "shape": rect("r", 1)});
    assert_eq!(writer.submit(room, "op", &body).await["type"], "ack");
    let begun = Stopwatch::start();
    reader.catches_up(room, 1).await;
    assert!(begun.elapsed() < HEARD_WITHIN, "{:?}", begun.elapsed());
}
