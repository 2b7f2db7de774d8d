//! A node whose clock is wrong, by libfaketime.

use std::path::{Path, PathBuf};
use std::time::Duration;

use roomgate::dev::{Api, Options};
use serde_json::Value;

use crate::client::Client;
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_node_with_a_wrong_clock_is_not_ready_until_it_is_right() {
    let folder = roomgate::dev::Scratch::new("it-clock").unwrap();
    let offset = folder.path().join("offset");
    set(&offset, 0);
    let world = World::start(|mut options| {
        // Only the wall clock is another one, as when somebody sets it.
        for (name, value) in [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", offset.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ] {
            options.env.push((name.to_owned(), value));
        }
        Options { nodes: 1, shards: 2, replicas: 0, ..options }
    })
    .await;
    let node = &world.cluster().nodes()[0];
    let (operators, public) = (Api::new(&node.admin_url()), Api::new(&node.url()));
    let alice = world.person("alice");
    for (seconds, ready, status) in [
        (0, 200, "ok"),
        (2, 200, "warn"),
        (3_600, 503, "critical"),
        (0, 200, "ok"),
        (-3_600, 503, "critical"),
        (-2, 200, "warn"),
        (8, 503, "critical"),
        (0, 200, "ok"),
    ] {
        set(&offset, seconds);
        let seen = async {
            loop {
                let detail = operators.get("/health/detailed").await.unwrap().json();
                let clock = &detail["clock"];
                let endpoints = ["/directory", "/shards/0", "/shards/1"]
                    .map(|server| &detail.pointer(server).unwrap()["endpoints"][0]["clock_ahead_ms"]);
                let all = [&clock["ahead_ms"]].into_iter().chain(endpoints);
                let is_near = |ahead: &Value| ahead.as_i64().unwrap().abs_diff(seconds * 1000) < 900;
                if all.into_iter().all(is_near) && clock["status"] == status {
                    return detail;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let detail = tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{seconds} s"));
        for health in [operators.get("/health/ready").await.unwrap(), public.get("/health").await.unwrap()] {
            assert_eq!(health.status, ready, "{seconds} s: {}", health.text);
        }
        let why = detail["clock"]["why"].to_string();
        let side = if seconds > 0 { "behind" } else { "ahead of" };
        assert!(status == "ok" || why.contains(side), "{seconds} s: {why}");
        measured(&world, seconds).await;
        if status == "ok" {
            Client::connect(&node.url(), &alice).await;
        }
    }
    let words = world.roomgate(&["health"]);
    assert!(String::from_utf8_lossy(&words.stdout).contains("clock             ok"), "{words:?}");
}

/// Until the node's figure, and that of its servers, are this one.
async fn measured(world: &World, seconds: i64) {
    let measured = async {
        loop {
            let node = world.measured(0, "roomgate_clock_offset_seconds").await;
            let servers = world.counted_on(0, "db_clock_offset_seconds", "shard").await;
            let is_near = |value: f64| (value - seconds as f64).abs() < 0.9;
            if is_near(node) && servers.len() == 3 && servers.values().all(|value| is_near(*value)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, measured).await.unwrap_or_else(|_| panic!("{seconds} s is not measured"));
}

fn set(offset: &Path, seconds: i64) {
    std::fs::write(offset, format!("{seconds:+}\n")).unwrap();
}

fn library() -> PathBuf {
    let libraries = std::fs::read_dir("/usr/lib").unwrap();
    let library = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
    let mut found = libraries.map(|folder| library(folder.unwrap().path())).filter(|file| file.exists());
    found.next().expect("scripts/install.sh test installs libfaketime")
}
