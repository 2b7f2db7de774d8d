//! How what was committed reaches people, and how what got lost is found.

use nix::sys::signal::Signal;
use roomgate::dev::Admin;
use serde_json::{Value, json};

use super::watch::Watch;
use crate::client::Client;
use crate::redis::redis as command;
use crate::session::small_world;
use crate::view::View;
use crate::world::{Person, World};

pub const GAPS: &[&str] = &[
    "roomgate_gap_repairs_total{cause=\"hole\"}",
    "roomgate_gap_repairs_total{cause=\"head\"}",
    "roomgate_gap_repairs_total{cause=\"bus\"}",
    "roomgate_gap_repairs_total{cause=\"epoch\"}",
    "roomgate_resyncs_total{reason=\"position_lost\"}",
    "roomgate_resyncs_total{reason=\"ahead_of_log\"}",
];

/// One node, and a database behind its back.
#[tokio::test]
async fn how_gaps_are_noticed_and_who_is_resynced_is_counted() {
    let world = small_world(|options| options).await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let admin = &world.primaries().await[0];
    let mut client = world.client(0, &alice).await;
    client.join(room).await;

    let unheard = async {
        unheard_of(admin, room, "message").await;
        client.catches_up(room, 1).await;
    };
    watch.moves(&["roomgate_gap_repairs_total{cause=\"head\"}"], unheard).await;
    let holes = async {
        // Sometimes the periodic look comes first.
        for seq in [3, 5, 7, 9, 11] {
            unheard_of(admin, room, "message").await;
            says(&mut client, room, seq).await;
            client.catches_up(room, seq).await;
        }
    };
    watch.moves(&["roomgate_gap_repairs_total{cause=\"hole\"}"], holes).await;
    // What can't be read is read again.
    watch.moves(&["roomgate_gap_repairs_total{cause=\"bus\"}"], unheard_of(admin, room, "unreadable")).await;
    let heal = "UPDATE room_event SET kind = 'message' WHERE kind = 'unreadable'";
    admin.batch_execute(heal).await.unwrap();
    client.catches_up(room, 12).await;

    let epoch = "roomgate_gap_repairs_total{cause=\"epoch\"}";
    let raised = async {
        another_epoch(admin).await;
        says(&mut client, room, 13).await;
    };
    watch.moves(&[epoch], raised).await;
    client.catches_up(room, 13).await;
    // As after failovers that lost something: another history, and a shorter one.
    let other = async {
        cut(admin, room, 12).await;
        another_epoch(admin).await;
        says(&mut client, room, 13).await;
        says(&mut client, room, 14).await;
        client.wait(|m| m["type"] == "resync").await
    };
    watch.moves(&["roomgate_resyncs_total{reason=\"position_lost\"}", epoch], other).await;
    client.catches_up(room, 14).await;
    let shorter = async {
        cut(admin, room, 3).await;
        client.wait(|m| m["type"] == "resync").await
    };
    watch.moves(&["roomgate_resyncs_total{reason=\"ahead_of_log\"}", epoch], shorter).await;
    watch.all(GAPS);
}

/// A commit that nobody announces.
async fn unheard_of(admin: &Admin, room: u64, kind: &str) {
    let append = format!(
        "WITH head AS (
           UPDATE room_head SET head_seq = head_seq + 1, head_epoch = (
                  SELECT epoch FROM slot_owner WHERE slot = (SELECT slot FROM room WHERE id = {room}))
            WHERE room_id = {room} RETURNING head_seq, head_epoch)
         INSERT INTO room_event (room_id, seq, epoch, op_id, user_id, kind, body, digest, created_at)
           SELECT {room}, head_seq, head_epoch, 'unheard-' || gen_random_uuid(), 'nobody', '{kind}',
                  '{{\"data\":1}}'::json, '\\x00112233445566778899aabbccddeeff', now()
             FROM head"
    );
    admin.batch_execute(&append).await.unwrap();
}

async fn says(client: &mut Client, room: u64, seq: u64) {
    let op = format!("{seq}-{:08x}", rand::random::<u32>());
    let ack = client.submit(room, &op, &json!({"kind": "message", "data": 1})).await;
    assert_eq!(ack["seq"], seq, "{ack}");
}

async fn another_epoch(admin: &Admin) {
    admin.batch_execute("UPDATE slot_owner SET epoch = epoch + 1").await.unwrap();
}

/// Nothing after `seq` has ever been.
async fn cut(admin: &Admin, room: u64, seq: u64) {
    let cut = format!(
        "BEGIN; DELETE FROM room_event WHERE room_id = {room} AND seq > {seq};
         UPDATE room_head SET head_seq = {seq}, head_epoch = (
                SELECT epoch FROM room_event WHERE room_id = {room} AND seq = {seq})
          WHERE room_id = {room}; COMMIT"
    );
    admin.batch_execute(&cut).await.unwrap();
}

pub const BUS: &[&str] = &[
    "roomgate_bus_up",
    "roomgate_bus_refused",
    "roomgate_bus_reconnects_total",
    "roomgate_bus_published_total",
    "roomgate_bus_dropped_total",
    "roomgate_bus_received_total",
    "roomgate_bus_forged_total{reason=\"unsigned\"}",
];

#[tokio::test]
async fn what_goes_through_redis_and_what_does_not_is_counted() {
    let world = small_world(|options| options).await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let redis = world.cluster().redis().service();
    let both = ["roomgate_bus_published_total", "roomgate_bus_received_total"];
    let mut client = world.client(0, &alice).await;
    // That somebody came is told, too.
    watch.moves(&both, client.join(room)).await;
    watch.moves(&both, says(&mut client, room, 1)).await;
    let forged = format!("SPUBLISH roomgate:room:{room} forged");
    watch.moves(&["roomgate_bus_forged_total{reason=\"unsigned\"}"], command(&world, &forged)).await;
    let keys = ["roomgate_bus_refused", "roomgate_bus_up"];
    watch.moves(&keys, command(&world, "ACL SETUSER default resetkeys")).await;
    watch.moves(&keys, command(&world, "ACL SETUSER default allkeys")).await;
    redis.signal(Signal::SIGSTOP);
    // It may be away already, as far as the node knows, or not.
    watch.moves(&["roomgate_bus_dropped_total", "roomgate_bus_up"], says(&mut client, room, 2)).await;
    watch.moves(&["roomgate_bus_dropped_total"], says(&mut client, room, 3)).await;
    redis.kill().await;
    let back = async { redis.restart().await.unwrap() };
    watch.moves(&["roomgate_bus_reconnects_total", "roomgate_bus_up"], back).await;
    watch.all(BUS);
}

pub const UPKEEP: &[&str] = &[
    "roomgate_snapshots_total",
    "roomgate_events_expired_total",
    "roomgate_resyncs_total{reason=\"below_retention\"}",
    "roomgate_resumes_total{outcome=\"snapshot\"}",
    "roomgate_rejects_total{code=\"below_retention\"}",
];

#[tokio::test]
async fn snapshots_what_retention_deletes_and_who_comes_too_late_is_counted() {
    let world = small_world(|options| {
        options.set("history.retention_interval_ms", 100).set("sessions.ring_events", 10)
    })
    .await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let drawn = many(&world, &alice, room);
    watch.moves(&["roomgate_snapshots_total"], drawn).await;
    let admin = &world.primaries().await[0];
    let forget = format!("UPDATE room SET retention_ms = 1 WHERE id = {room}");
    watch.moves(&["roomgate_events_expired_total"], admin.batch_execute(&forget)).await.unwrap();
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let epoch = client.rooms[&room].epoch;
    let late = View { epoch, seq: 1, live: true, ..View::default() };
    let told = [
        "roomgate_resyncs_total{reason=\"below_retention\"}",
        "roomgate_resumes_total{outcome=\"snapshot\"}",
    ];
    watch.moves(&told, client.resume(room, late)).await;
    let api = world.api(&alice);
    let path = format!("/v1/rooms/{room}/events?after=0");
    watch.moves(&["roomgate_rejects_total{code=\"below_retention\"}"], api.get(&path)).await.unwrap();
    watch.all(UPKEEP);
}

async fn many(world: &World, alice: &Person, room: u64) {
    let item = |n: usize| json!({"op": format!("op-{n}"), "kind": "message", "data": n});
    let items: Vec<Value> = (0..250).map(item).collect();
    let path = format!("/v1/rooms/{room}/events");
    let answer = world.api(alice).post(&path, &json!({"items": items})).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
}
