//! A user who fills a lane: the time that another user of the lane waits for acks.

use futures_util::future;
use serde_json::{Value, json};

use super::messages::{acks, told, world};
use crate::world::{Person, World};

/// Batches of 1 000 submits to each of the rooms in turn, without a pause.
async fn batches(world: &World, person: &Person, rooms: &[u64], text: &str) {
    let api = world.api_of(0, person);
    let item = || {
        let op = format!("op-{:032x}", rand::random::<u128>());
        json!({"op": op, "kind": "message", "data": text})
    };
    for room in rooms.iter().cycle() {
        let count = (4_000_000 / (text.len() + 100)).min(1000);
        let items: Vec<Value> = (0..count).map(|_| item()).collect();
        api.post(&format!("/v1/rooms/{room}/events"), &json!({"items": items})).await.ok();
    }
}

#[tokio::test]
#[ignore = "an attack, with figures: `make attacks`"]
async fn a_flood_of_submits_beside_another_user() {
    let world = world(|options| options.set("writes.lanes", 1)).await;
    let [owner, eve] = ["owner", "eve"].map(|name| world.person(name));
    let room = world.room(&owner, "open").await;
    let mut rooms = Vec::new();
    for _ in 0..20 {
        rooms.push(world.room(&eve, "open").await);
    }
    let large = "x".repeat(60_000);
    let control = acks(&world, &owner, room, future::pending()).await;
    for (what, rooms, text) in [
        ("small submits to one room", &rooms[..1], "x"),
        ("small submits to 20 rooms", &rooms[..], "x"),
        ("submits of 60 KB to 20 rooms", &rooms[..], large.as_str()),
        ("small submits to the same room", &[room][..], "x"),
    ] {
        let floods = (0..4).map(|_| batches(&world, &eve, rooms, text));
        let attacked = acks(&world, &owner, room, async { drop(future::join_all(floods).await) }).await;
        told(&format!("four requests at a time with {what}"), control, attacked);
    }
}
