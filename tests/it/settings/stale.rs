//! Tables change while nodes run: by a later release's migration, or by a person.

use roomgate::dev::Options;
use serde_json::{Value, json};

use crate::world::{Person, World};

/// Everything that a person does with a room; each answer must be a success.
async fn everything_works(world: &World, person: &Person, round: &str) {
    for node in 0..world.cluster().nodes().len() {
        let api = world.api_of(node, person);
        let slug = format!("stale-{round}-{node}");
        let made = api.post("/v1/rooms", &json!({"slug": slug, "schema": "open"})).await.unwrap();
        assert_eq!(made.status, 201, "{round}: {}", made.text);
        let room = made.json()["room"].as_u64().unwrap();
        let items: Vec<Value> = (0..3)
            .map(|n| json!({"op": format!("{round}-{n}"), "kind": "shape.put", "shape": {"id": format!("s{n}")}}))
            .collect();
        let path = format!("/v1/rooms/{room}");
        let acks = api.post(&format!("{path}/events"), &json!({"items": items})).await.unwrap();
        assert_eq!(acks.json()["items"][2]["type"], "ack", "{round}: {}", acks.text);
        let altered = api.send("PATCH".parse().unwrap(), &path, Some(json!({"name": round}).to_string()));
        let altered = altered.await.unwrap();
        assert!(altered.status.is_success(), "{round}: {}", altered.text);
        let member = json!({"role": "viewer"}).to_string();
        let added =
            api.send("PUT".parse().unwrap(), &format!("{path}/members/bob"), Some(member)).await.unwrap();
        assert!(added.status.is_success(), "{round}: {}", added.text);
        let lines = format!("{}\n", json!({"id": format!("i-{round}")}));
        let import = api.with("content-type", "application/x-ndjson");
        let imported = import
            .send("POST".parse().unwrap(), &format!("{path}/import?op=i-{round}"), Some(lines))
            .await
            .unwrap();
        assert_eq!(imported.json()["imported"], 1, "{round}: {}", imported.text);
        let api = world.api_of(node, person);
        for read in ["", "/shapes", "/events", "/members", "/presence", "/stats?days=1"] {
            for freshness in ["freshness=primary", "max_stale_ms=60000"] {
                let sign = if read.contains('?') { '&' } else { '?' };
                let answer = api.get(&format!("{path}{read}{sign}{freshness}")).await.unwrap();
                assert_eq!(answer.status, 200, "{round}: {read}?{freshness}: {}", answer.text);
            }
        }
        let mine = api.get("/v1/rooms?limit=1000&freshness=primary").await.unwrap();
        assert_eq!(mine.status, 200, "{round}: {}", mine.text);
    }
}

/// Every column that holds a text, of every table of ours, gets another type, as a
/// migration of a later release might give it.
#[tokio::test]
async fn column_that_changes_its_type_is_not_felt() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, replicas: 1, ..options }).await;
    let alice = world.person("alice");
    everything_works(&world, &alice, "before").await;
    let admin = &world.primaries().await[0];
    let ask = "SELECT format('ALTER TABLE %I.%I ALTER COLUMN %I TYPE varchar(100000)', table_schema, table_name, column_name)
                 FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
                WHERE table_schema IN ('public', 'directory') AND table_type = 'BASE TABLE'
                  AND table_name <> 'schema_migration' AND data_type IN ('text', 'character varying')
                ORDER BY table_schema, table_name, column_name";
    let statements: Vec<String> = admin.query(ask, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(statements.len() > 20, "{statements:?}");
    let mut changed = 0;
    for statement in &statements {
        // A column that an index expression or a trigger names stays.
        changed += usize::from(admin.batch_execute(statement).await.is_ok());
        if changed % 5 == 0 {
            everything_works(&world, &alice, &format!("after-{changed}")).await;
        }
    }
    assert!(changed > 20, "{changed} of {statements:?}");
    everything_works(&world, &alice, "at-the-end").await;
}

#[tokio::test]
async fn room_name_that_grows_is_not_felt() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, replicas: 1, ..options }).await;
    let alice = world.person("alice");
    everything_works(&world, &alice, "before").await;
    let admin = &world.primaries().await[0];
    admin.batch_execute("ALTER TABLE room ALTER COLUMN name TYPE varchar(300)").await.unwrap();
    everything_works(&world, &alice, "after").await;
}

#[tokio::test]
async fn column_that_is_added_is_not_felt() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, replicas: 1, ..options }).await;
    let alice = world.person("alice");
    everything_works(&world, &alice, "before").await;
    let admin = &world.primaries().await[0];
    let ask = "SELECT format('ALTER TABLE %I.%I ADD COLUMN later int DEFAULT 1', schemaname, tablename)
                 FROM pg_tables WHERE schemaname IN ('public', 'directory') AND tablename <> 'schema_migration'";
    for row in admin.query(ask, &[]).await.unwrap() {
        admin.batch_execute(row.get(0)).await.unwrap();
    }
    everything_works(&world, &alice, "after").await;
}
