//! A slot that goes to another shard while somebody writes to it.

use roomgate::dev::Options;
use serde_json::json;

use super::watch::Watch;
use crate::client::submit;
use crate::moves::{owner, slot, told};
use crate::world::World;

pub const SLOTS: &[&str] = &[
    "roomgate_slot_moves_total{outcome=\"waited\"}",
    "roomgate_slot_moves_total{outcome=\"followed\"}",
    "roomgate_slot_move_pause_seconds",
];

#[tokio::test]
async fn a_slot_that_moves_is_seen_by_the_nodes_that_write_to_it() {
    let world = World::start(|options| Options { nodes: 1, shards: 2, replicas: 0, ..options }).await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let slot = slot(room);

    // A mover that died between its two shards.
    let (from, to) = if owner(&world, slot).await == "a" { (0, 1) } else { (1, 0) };
    let admins = world.primaries().await;
    let take = format!("INSERT INTO slot_owner (slot, epoch, state) VALUES ({}, 1, 'importing')", slot.0);
    admins[to].batch_execute(&take).await.unwrap();
    let to = world.cluster().shards()[to].name();
    let give = format!("UPDATE slot_owner SET state = 'moved', moved_to = '{to}' WHERE slot = {}", slot.0);
    let waiting = async {
        admins[from].batch_execute(&give).await.unwrap();
        client.send(&submit(room, "1", &json!({"kind": "message", "data": 1}))).await;
    };
    watch.moves(&SLOTS[..1], waiting).await;
    let finished = async {
        told(&world, &["move", "--slots", &slot.0.to_string(), "--to", to]).await;
        assert_eq!(client.answer(room, "1").await["type"], "ack");
    };
    watch.moves(&SLOTS[1..], finished).await;
    watch.all(SLOTS);
}
