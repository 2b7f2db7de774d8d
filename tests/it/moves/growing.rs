//! A shard is added, filled, emptied, and what is left behind is deleted.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roomgate::dev::Options;
use serde_json::{Value, json};

use super::{command, shards, told};
use crate::client::rect;
use crate::convergence::{FROM_PRIMARY, whole_log};
use crate::world::World;

fn slots_of(list: &Value, name: &str) -> u64 {
    let shards = list["shards"].as_array().unwrap();
    shards.iter().find(|shard| shard["name"] == name).unwrap()["slots"].as_u64().unwrap()
}

#[tokio::test]
async fn a_shard_that_joins_a_running_cluster_takes_rooms_and_gives_them_back() {
    let world = World::start(|options| Options { shards: 1, replicas: 0, nodes: 2, ..options }).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    client.submit(room, "op-0", &json!({"kind": "shape.put", "shape": rect("r", 0)})).await;

    let slots = super::slot(room).0.to_string();
    let joining = async {
        let unknown = shards(&world, &["add", "b"]).await;
        assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
        assert!(String::from_utf8_lossy(&unknown.stderr).contains("[[shards]]"), "{unknown:?}");

        assert_eq!(world.cluster().add_shard().await.unwrap(), "b");
        let added = shards(&world, &["add", "b"]).await;
        assert!(added.status.success(), "{added:?}");
        // The nodes heard of it before it had a schema, and waited for that.
        assert!(String::from_utf8_lossy(&added.stdout).contains("all nodes know it"), "{added:?}");
        told(&world, &["move", "--slots", &slots, "--to", "b"]).await;
        assert_eq!(slots_of(&told(&world, &["list"]).await, "b"), 1);
    };
    // Who answers no pings for as long as this takes is closed.
    client.listens_until(joining).await;
    let answer = client.submit(room, "op-1", &json!({"kind": "shape.put", "shape": rect("r", 1)})).await;
    assert_eq!(answer["type"], "ack");

    let leaving = async {
        let young = shards(&world, &["cleanup"]).await;
        assert!(String::from_utf8_lossy(&young.stdout).contains("0 slots"), "{young:?}");
        let old = shards(&world, &["cleanup", "--older-than", "0"]).await;
        assert!(String::from_utf8_lossy(&old.stdout).contains("1 slots with 1 rooms deleted"), "{old:?}");
        told(&world, &["move", "--slots", &slots, "--to", "a"]).await;
        let log = whole_log(&world, &alice, room, FROM_PRIMARY).await;
        assert_eq!(log.len(), 2);
    };
    client.listens_until(leaving).await;
    client.catches_up(room, 2).await;

    // Ctrl-C half way, and again.
    let many = ["move", "--slots", "0-999", "--to", "b"];
    let moving = command(&world, &many).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while slots_of(&told(&world, &["list"]).await, "b") == 0 {}
    kill(Pid::from_raw(moving.id().unwrap() as i32), Signal::SIGINT).unwrap();
    let stopped = moving.wait_with_output().await.unwrap();
    assert_eq!(stopped.status.code(), Some(1), "{stopped:?}");
    assert!(String::from_utf8_lossy(&stopped.stderr).contains("of 1000 slots have arrived"), "{stopped:?}");
    let arrived = slots_of(&told(&world, &["list"]).await, "b");
    assert!((1..1000).contains(&arrived), "{arrived}");
    assert_eq!(told(&world, &many).await["arrived"], 1000 - arrived);
    assert_eq!(slots_of(&told(&world, &["list"]).await, "b"), 1000);

    let plan = told(&world, &["plan"]).await;
    assert!(
        plan["moves"].as_array().unwrap().iter().all(|step| step["from"] == "a" && step["to"] == "b"),
        "{plan}"
    );
    assert!((6700..7400).contains(&plan["moves"][0]["count"].as_u64().unwrap()), "{plan}");

    let lose = "DELETE FROM slot_owner WHERE slot = 16383";
    world.primaries().await[0].batch_execute(lose).await.unwrap();
    let lost = shards(&world, &["move", "--slots", "16382-16383", "--to", "b"]).await;
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    assert!(String::from_utf8_lossy(&lost.stderr).contains("nobody owns slots 16383"), "{lost:?}");
}
