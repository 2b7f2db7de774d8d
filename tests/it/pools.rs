//! Connections to the databases that died while nobody used them.

use serde_json::json;

use crate::session::small_world;

#[tokio::test]
async fn connections_that_died_while_idle_fail_nobody() {
    let world = small_world(|options| options).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let admin = &world.primaries().await[0];
    let node = "application_name = 'roomgate/node-1' AND state = 'idle'";
    let mut killed = 0;
    for round in 0..5 {
        let kill =
            format!("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE {node}");
        killed += admin.query_one(&kill, &[]).await.unwrap().get::<_, i64>(0);
        let api = world.api(&alice);
        let read = api.get(&format!("/v1/rooms/{room}?freshness=primary")).await.unwrap();
        assert_eq!(read.status, 200, "round {round}: {}", read.text);
        let item = json!({"op": format!("op-{round}"), "kind": "message", "data": 1});
        let written = api.post(&format!("/v1/rooms/{room}/events"), &json!({"items": [item]})).await.unwrap();
        assert_eq!(written.json()["items"][0]["seq"], round + 1, "{}", written.text);
        // Its name goes into the directory.
        world.room(&alice, "open").await;
    }
    println!("{killed} idle connections were killed");
    assert!(killed >= 25, "{killed}");
}
