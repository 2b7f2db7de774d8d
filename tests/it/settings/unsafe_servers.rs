//! A server with a setting that no session can choose, and that breaks the promise:
//! nothing is written to it, and operators see which setting it is.

use std::time::Duration;

use roomgate::db::CHECKED;
use roomgate::dev::{Admin, Api, Options};
use serde_json::json;

use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

async fn wait_until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let seen = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("not seen: {what}"));
}

async fn reload(admin: &Admin, statement: &str) {
    admin.batch_execute(statement).await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

/// Those that a reload changes; the others need a restart of the server.
fn changeable() -> impl Iterator<Item = (&'static str, &'static str)> {
    let others =
        CHECKED.iter().filter(|setting| !["data_sync_retry", "ignore_invalid_pages"].contains(&setting.name));
    others.map(|setting| match setting.value {
        "on" => (setting.name, "off"),
        "off" => (setting.name, "on"),
        _ => (setting.name, "replica"),
    })
}

#[tokio::test]
async fn unsafe_setting_stops_writes_and_is_named() {
    let world = World::start(|options| {
        Options { nodes: 1, shards: 1, replicas: 0, ..options }.set("writes.failover_wait_ms", 1_000)
    })
    .await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let admin = &world.primaries().await[0];
    let node = &world.cluster().nodes()[0];
    let health = Api::new(&node.admin_url());
    let submit = async |op: &str| {
        let body = json!({"items": [{"op": op, "kind": "message", "data": 1}]});
        let answer = world.api_of(0, &alice).post(&format!("/v1/rooms/{room}/events"), &body).await.unwrap();
        answer.json()["items"][0]["type"] == "ack"
    };
    for (name, value) in changeable() {
        assert!(submit(&format!("before-{name}")).await);
        reload(admin, &format!("ALTER SYSTEM SET {name} = {value}")).await;
        wait_until(name, async || {
            let detail = health.get("/health/detailed").await.unwrap().json();
            let endpoint = &detail["shards"][0]["endpoints"][0];
            // A new connection of the pool may be refused, and named, before the monitor
            // looks again and takes the server out of use.
            let is_named = endpoint["why"].to_string().contains(&format!("{name} = {value}"));
            detail["status"] == "critical" && is_named && endpoint["role"] != "primary"
        })
        .await;
        assert!(!submit(&format!("meanwhile-{name}")).await, "{name} = {value}");
        let checked = world.roomgate(&["check-config"]);
        let text = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(!checked.status.success() && text.contains(&format!("{name} = {value}")), "{text}");
        reload(admin, &format!("ALTER SYSTEM RESET {name}")).await;
        wait_until(&format!("{name} is right again"), async || submit(&format!("after-{name}")).await).await;
    }
}

#[tokio::test]
async fn node_refuses_to_start_on_an_unsafe_setting() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 0, ..options }).await;
    let node = &world.cluster().nodes()[0];
    node.service().stop().await;
    let admin = &world.primaries().await[0];
    admin.batch_execute("ALTER ROLE roomgate SET session_replication_role = replica").await.unwrap();
    let ended = world.roomgate(&["serve"]);
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{text}");
    for part in ["session_replication_role = replica", "triggers and foreign keys work", "pg_db_role_setting"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn migration_ignores_the_settings_of_its_role() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 0, ..options }).await;
    let admin = &world.primaries().await[0];
    for setting in [
        "search_path = pg_catalog",
        "default_transaction_read_only = on",
        "default_transaction_isolation = serializable",
        "statement_timeout = 1",
    ] {
        admin.batch_execute(&format!("ALTER ROLE roomgate_owner SET {setting}")).await.unwrap();
    }
    for verb in [["migrate", "up"], ["migrate", "status"]] {
        let ended = world.roomgate(&verb);
        assert!(ended.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}
