//! What operators are told of a node.

use std::process::Command;
use std::time::Duration;

use roomgate::dev::{Api, Options};
use serde_json::{Value, json};

use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn operators_see_every_server_how_it_is_and_why() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, ..options }).await;
    let node = &world.cluster().nodes()[0];
    let look = async || Api::new(&node.admin_url()).get("/health/detailed").await.unwrap().json();
    let replica = world.cluster().shards()[0].replicas().next().unwrap();
    // How fast statements are is the machine's affair: `work` and `traffic`.
    let servers = |now: &Value| {
        let shard = &now["shards"][0];
        let of = |part: &Value| part["status"].as_str().unwrap().to_owned();
        [of(&shard["endpoints"][0]), of(&shard["endpoints"][1]), of(&now["bus"])]
    };
    until("all is well", async || servers(&look().await) == ["ok", "ok", "ok"]).await;
    let well = look().await;
    let [first, second] = [&well["shards"][0]["endpoints"][0], &well["shards"][0]["endpoints"][1]];
    assert_eq!((&first["role"], &second["role"]), (&json!("primary"), &json!("replica")), "{well}");
    assert!(
        second["lag_ms"].as_u64().unwrap() < 1_000 && first["pool"]["max"].as_u64().unwrap() > 0,
        "{well}"
    );

    replica.service().kill_for_good().await;
    until("the dead replica is told", async || {
        let now = look().await;
        let why = now["shards"][0]["endpoints"][1]["why"].to_string();
        servers(&now)[1] == "warn" && now["status"] != "ok" && why.contains("down: ")
    })
    .await;
    world.cluster().redis().service().kill_for_good().await;
    until("the dead Redis is told", async || look().await["bus"]["status"] == "warn").await;
    world.cluster().shards()[0].primary().service().kill_for_good().await;
    until("without a primary it is critical", async || {
        let now = look().await;
        now["status"] == "critical" && now["shards"][0]["why"].to_string().contains("no primary")
    })
    .await;

    // The same in words.
    let told =
        Command::new(env!("CARGO_BIN_EXE_roomgate")).args(["health", "--url", &node.admin_url()]).output();
    let told = told.unwrap();
    let words = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(told.status.code(), Some(1), "it can't serve: {words}");
    for line in ["not ready", "bus               warn", "no primary", "a-2             warn"] {
        assert!(words.contains(line), "{line}: {words}");
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("{what}: not in {PATIENCE:?}"));
}
