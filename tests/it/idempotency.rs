//! One effect per op, whichever node is asked, however often.

use std::collections::BTreeMap;

use roomgate::dev::Options;
use serde_json::{Value, json};

use crate::client::{Client, rect, submit};
use crate::convergence::FROM_PRIMARY;
use crate::world::{Person, World};

#[tokio::test]
async fn a_resubmitted_op_gets_its_first_seq_from_any_node() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let body = json!({"kind": "shape.add", "shape": rect("r1", 1)});

    let mut first = world.client(0, &alice).await;
    first.join(room).await;
    let ack = first.submit(room, "op-1", &body).await;
    assert_eq!((&ack["type"], &ack["seq"], &ack["version"]), (&json!("ack"), &json!(1), &json!(1)));

    for node in [1, 2, 0] {
        let mut again = world.client(node, &alice).await;
        again.join(room).await;
        let ack = again.submit(room, "op-1", &body).await;
        assert_eq!((&ack["type"], &ack["seq"], &ack["duplicate"]), (&json!("ack"), &json!(1), &json!(true)));
    }
    let log = world.api(&alice).get(&format!("/v1/rooms/{room}/events?{FROM_PRIMARY}")).await.unwrap().json();
    assert_eq!(log["head"], 1, "{log}");
}

#[tokio::test]
async fn an_op_with_another_body_is_refused_and_the_first_stands() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut here = world.client(0, &alice).await;
    here.join(room).await;
    here.submit(room, "op-1", &json!({"kind": "shape.add", "shape": rect("r1", 1)})).await;

    let mut there = world.client(1, &alice).await;
    there.join(room).await;
    for other in [
        json!({"kind": "shape.add", "shape": rect("r1", 2)}),
        json!({"kind": "shape.put", "shape": rect("r1", 1)}),
        json!({"kind": "room.clear"}),
    ] {
        let reject = there.submit(room, "op-1", &other).await;
        assert_eq!((&reject["type"], &reject["code"]), (&json!("reject"), &json!("op_reused")), "{reject}");
    }
    there.catches_up(room, 1).await;
    assert_eq!(there.rooms[&room].shapes["r1"], (1, rect("r1", 1)));
    // It is another user's op only by name.
    let bob = world.person("bob");
    let mut bob = world.client(2, &bob).await;
    bob.join(room).await;
    let ack = bob.submit(room, "op-1", &json!({"kind": "room.clear"})).await;
    assert_eq!((&ack["type"], &ack["seq"], &ack["cleared"]), (&json!("ack"), &json!(2), &json!(1)), "{ack}");
}

/// Submits that were on their way when something died.
const IN_FLIGHT: usize = 200;

#[tokio::test]
async fn an_op_keeps_its_seq_when_its_node_is_killed_and_started_again() {
    let world = small_world(|options| options).await;
    let (alice, room) = alice_and_a_room(&world).await;
    let (first, acked) = in_flight(&world, &alice, room).await;
    world.cluster().nodes()[0].service().kill().await;
    let acked = answers(first, acked).await;
    has_one_effect_each(&world, &alice, room, &acked, 1).await;
    world.cluster().nodes()[0].service().restart().await.unwrap();
    has_one_effect_each(&world, &alice, room, &acked, 0).await;
}

#[tokio::test]
async fn an_op_keeps_its_seq_when_its_shard_fails_over_in_sync() {
    let world = small_world(|options| Options { replicas: 1, sync: true, ..options }).await;
    let (alice, room) = alice_and_a_room(&world).await;
    let (first, acked) = in_flight(&world, &alice, room).await;
    world.cluster().fail_over(0).await.unwrap();
    let acked = answers(first, acked).await;
    has_one_effect_each(&world, &alice, room, &acked, 1).await;
}

#[tokio::test]
async fn ops_whose_fate_the_database_took_with_it_have_one_effect_each() {
    let world = small_world(|options| options).await;
    let (alice, mut room) = alice_and_a_room(&world).await;
    let server = world.cluster().shards()[0].primary().service();
    // Until it died with a COMMIT on its way.
    for kills in 1..=20 {
        let (first, acked) = in_flight(&world, &alice, room).await;
        server.kill().await;
        server.restart().await.unwrap();
        let acked = answers(first, acked).await;
        has_one_effect_each(&world, &alice, room, &acked, 1).await;
        let outcomes = world.counted_on(0, "db_transactions_total", "outcome").await;
        if outcomes.contains_key("unknown") {
            return println!("killed {kills} times; transactions {outcomes:?}");
        }
        room = world.room(&alice, "open").await;
    }
    panic!("no COMMIT was lost: the test is void");
}

async fn small_world(change: impl FnOnce(Options) -> Options) -> World {
    World::start(|options| {
        let options = change(Options { nodes: 2, shards: 1, replicas: 0, ..options });
        // Many transactions, and patience while a standby is copied.
        options.set("writes.batch_max", 4).set("writes.failover_wait_ms", 60_000)
    })
    .await
}

async fn alice_and_a_room(world: &World) -> (Person, u64) {
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    (alice, room)
}

/// Submits many ops on the first node and waits for the first acks only.
async fn in_flight(world: &World, person: &Person, room: u64) -> (Client, BTreeMap<String, u64>) {
    let mut client = world.client(0, person).await;
    client.joins_in_time(room).await;
    for n in 0..IN_FLIGHT {
        client.send(&submit(room, &op(n), &body(n))).await;
    }
    let mut acked = BTreeMap::new();
    while acked.len() < 3 {
        note(&mut acked, &client.hears().await.unwrap());
    }
    (client, acked)
}

/// The acks that came, until all ops are answered or the connection has ended.
async fn answers(mut client: Client, mut acked: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    while acked.len() < IN_FLIGHT
        && let Some(message) = client.hears().await
    {
        note(&mut acked, &message);
    }
    acked
}

fn note(acked: &mut BTreeMap<String, u64>, message: &Value) {
    assert_ne!(message["type"], "reject", "{message}");
    if message["type"] == "ack" {
        acked.insert(message["op"].as_str().unwrap().to_owned(), message["seq"].as_u64().unwrap());
    }
}

/// All are submitted again: those that were acked get the same seq, and the log
/// has each of them once.
async fn has_one_effect_each(
    world: &World,
    person: &Person,
    room: u64,
    acked: &BTreeMap<String, u64>,
    node: usize,
) {
    let mut again = world.client(node, person).await;
    again.joins_in_time(room).await;
    let (mut seqs, mut duplicates) = (BTreeMap::new(), 0);
    for n in 0..IN_FLIGHT {
        let ack = again.submit(room, &op(n), &body(n)).await;
        note(&mut seqs, &ack);
        duplicates += usize::from(ack["duplicate"] == true);
    }
    println!(
        "of {IN_FLIGHT} ops {} were acked at first; resubmitted on node {node}, {duplicates} were known",
        acked.len()
    );
    assert!(acked.iter().all(|(op, seq)| seqs[op] == *seq), "{acked:?} became {seqs:?}");
    assert!(duplicates >= acked.len());
    let rows = "SELECT op_id, seq FROM room_event WHERE room_id = $1";
    let id = i64::try_from(room).unwrap();
    let logged = world.primaries().await[0].query(rows, &[&id]).await.unwrap();
    let logged: Vec<(String, u64)> =
        logged.iter().map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs())).collect();
    assert_eq!((logged.len(), BTreeMap::from_iter(logged)), (IN_FLIGHT, seqs), "one effect each");
}

fn op(n: usize) -> String {
    format!("op-{n}")
}

fn body(n: usize) -> Value {
    json!({"kind": "message", "data": n})
}
