//! The submits of one user in a minute, over all nodes.

use futures_util::future::join_all;
use roomgate::dev::Options;
use serde_json::{Value, json};

use crate::world::{Person, World};

const A_MINUTE: usize = 100;
/// One may pass while other nodes use up the rest.
const OVER: usize = 1;

async fn world() -> World {
    World::start(|options| {
        let options = options.set("limits.user_submits_per_minute", A_MINUTE);
        Options { nodes: 3, shards: 1, replicas: 0, ..options }
    })
    .await
}

/// How many submits of one client are accepted.
async fn drawn(world: &World, node: usize, person: &Person, room: u64, count: usize) -> usize {
    let mut client = world.client(node, person).await;
    client.join(room).await;
    let submit = |n: usize| {
        let (op, data) = (format!("ws-{node}-{n}"), json!({"kind": "message", "data": n}));
        let mut message = json!({"type": "submit", "room": room, "op": op});
        message.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        message
    };
    client.send(&Value::Array((0..count).map(submit).collect())).await;
    let mut accepted = 0;
    for n in 0..count {
        let answer = client.answer(room, &format!("ws-{node}-{n}")).await;
        match answer["type"].as_str().unwrap() {
            "ack" => accepted += 1,
            _ => assert_eq!(answer["code"], "rate_limited", "{answer}"),
        }
    }
    accepted
}

/// How many requests with one submit each are accepted.
async fn posted(world: &World, node: usize, person: &Person, room: u64, count: usize) -> usize {
    let api = world.api_of(node, person);
    let mut accepted = 0;
    for n in 0..count {
        let item = json!({"op": format!("http-{node}-{n}"), "kind": "message", "data": n});
        let answer = api.post(&format!("/v1/rooms/{room}/events"), &json!({"items": [item]})).await.unwrap();
        match answer.status.as_u16() {
            200 => accepted += 1,
            _ => assert_eq!(answer.json()["error"]["code"], "rate_limited", "{}", answer.text),
        }
    }
    accepted
}

#[tokio::test]
async fn a_user_has_one_budget_of_submits_over_all_nodes() {
    let world = world().await;
    let owner = world.person("owner");
    let room = world.room(&owner, "open").await;

    let fast = world.person("fast");
    let sockets = (0..3).map(|node| drawn(&world, node, &fast, room, 133));
    let total: usize = join_all(sockets).await.into_iter().sum();
    assert!((A_MINUTE..=A_MINUTE + OVER).contains(&total), "{total} over WebSockets");

    let busy = world.person("busy");
    let requests = (0..3).map(|node| posted(&world, node, &busy, room, 60));
    let total: usize = join_all(requests).await.into_iter().sum();
    assert!((A_MINUTE..=A_MINUTE + OVER).contains(&total), "{total} over HTTP");

    // One node after the other, and both kinds together.
    let slow = world.person("slow");
    let mut total = 0;
    for node in 0..3 {
        total += posted(&world, node, &slow, room, 34).await;
    }
    total += drawn(&world, 0, &slow, room, 5).await;
    assert!((A_MINUTE..=A_MINUTE + OVER).contains(&total), "{total}, one node after the other");
}

#[tokio::test]
async fn without_redis_each_node_allows_the_budget_alone() {
    let world = world().await;
    let owner = world.person("owner");
    let room = world.room(&owner, "open").await;
    world.cluster().redis().service().kill_for_good().await;
    let ann = world.person("ann");
    for node in 0..2 {
        let accepted = drawn(&world, node, &ann, room, 133).await;
        // The node's own budget refills all the while.
        assert!((A_MINUTE..=A_MINUTE + 20).contains(&accepted), "{accepted} on node {node}");
    }
}
