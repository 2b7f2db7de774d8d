//! The process, its disk, its start and its end.

use std::process::Command;

use serde_json::{Value, json};

use super::scrape::Scrape;
use super::watch::Watch;
use crate::session::{raw_session, small_world};
use crate::world::{Person, World};

pub const NODE: &[&str] = &[
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
    "process_threads",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
    "db_disk_used_ratio",
    "db_synchronous_standbys_required",
    "roomgate_disconnects_total{code=\"1012\"}",
];

#[tokio::test]
async fn a_process_its_disk_its_settings_and_its_end_are_seen() {
    let world = small_world(|options| options).await;
    let node = &world.cluster().nodes()[0];
    let watch = Watch::of(node);
    let alice = world.person("alice");
    let says_what_it_is = |sample: &&super::scrape::Sample| {
        sample.name == "roomgate_build_info"
            && (sample.value, sample.labels["version"].as_str()) == (1.0, env!("CARGO_PKG_VERSION"))
    };
    assert_eq!(Scrape::of(node).await.samples.iter().filter(says_what_it_is).count(), 1);

    let busy = [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_threads",
        "process_open_fds",
    ];
    watch.moves(&busy, hashes(&world, &alice)).await;
    let limits = ["process_max_fds", "process_virtual_memory_max_bytes"];
    watch.moves(&limits, async { limit(node.service().pid()) }).await;

    // One that answers no close is waited for a moment.
    let _silent = raw_session(&world, &alice).await;
    let again = async {
        writes(&world, &alice).await;
        wants_standbys(&world);
        node.service().restart().await.unwrap();
    };
    let other_process = [
        "roomgate_disconnects_total{code=\"1012\"}",
        "process_start_time_seconds",
        "db_synchronous_standbys_required",
        "db_disk_used_ratio",
    ];
    watch.moves(&other_process, again).await;
    watch.all(NODE);
}

/// A password takes memory and a thread.
async fn hashes(world: &World, alice: &Person) {
    let wish = json!({"email": "ann@example.test", "password": "correct horse", "name": "Ann"});
    assert_eq!(world.api(alice).post("/v1/signup", &wish).await.unwrap().status, 201);
}

/// Some megabytes.
async fn writes(world: &World, alice: &Person) {
    let path = format!("/v1/rooms/{}/events", world.room(alice, "open").await);
    for batch in 0..4 {
        let item = |n| json!({"op": format!("{batch}-{n}"), "kind": "message", "data": "x".repeat(8000)});
        let items: Vec<Value> = (0..200).map(item).collect();
        world.api(alice).post(&path, &json!({"items": items})).await.unwrap();
    }
}

/// As an operator may who has forgotten to.
fn limit(pid: i32) {
    let limits = ["--nofile=4000:4000", "--as=64000000000:64000000000"];
    let status = Command::new("prlimit").args(["--pid", &pid.to_string()]).args(limits).status().unwrap();
    assert!(status.success());
}

/// In the node's file, for its next start.
fn wants_standbys(world: &World) {
    let file = world.cluster().report().jwt.key_file.with_file_name("nodes/node-1.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text.replace("durability = \"async\"", "durability = \"sync\"");
    assert_ne!(text, changed);
    std::fs::write(&file, changed).unwrap();
}
