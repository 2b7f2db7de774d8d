//! How many statements a request makes, whatever it finds.

use std::collections::BTreeMap;

use roomgate::dev::Options;
use serde_json::{Value, json};

use crate::world::{Person, World};

/// Statements that a node runs without a request: its monitors (`monitor`, `disk`,
/// `server_facts`), checks and jobs, and the frame of connections and transactions. Each entry
/// is the beginning of a name.
const BACKGROUND: [&str; 26] = [
    "active_slots",
    "audit_trim",
    "begin",
    "commit",
    "count_",
    "disk",
    "erasure_",
    "guard_",
    "idempotency_sweep",
    "import_sweep",
    "invite_sweep",
    "monitor",
    "prepare",
    "read_behind",
    "read_expired",
    "read_heads",
    "read_uncounted",
    "refresh_token_sweep",
    "revocation_sweep",
    "revocations_since",
    "server_",
    "shard_",
    "slug_unfinished",
    "snapshot_",
    "ticket_sweep",
    "visits_",
];

async fn made(world: &World) -> BTreeMap<String, f64> {
    let mut counts = world.counted_on(0, "db_query_duration_seconds_count", "statement").await;
    counts.retain(|statement, _| !BACKGROUND.iter().any(|own| statement.starts_with(own)));
    counts
}

/// What each of some requests makes, by what it is called.
async fn costs(
    world: &World,
    person: &Person,
    room: u64,
    round: &str,
) -> BTreeMap<String, BTreeMap<String, f64>> {
    let api = world.api_of(0, person);
    let mut costs = BTreeMap::new();
    let metadata = "%7B%22kind%22%3A%22board%22%7D";
    let reads = [
        "/v1/rooms?limit=1000&freshness=primary".to_owned(),
        format!("/v1/rooms?limit=1000&metadata={metadata}&freshness=primary"),
        format!("/v1/rooms/{room}?freshness=primary"),
        format!("/v1/rooms/{room}/members?limit=1000&freshness=primary"),
        format!("/v1/rooms/{room}/invites?limit=1000"),
        format!("/v1/rooms/{room}/shapes?limit=1000&freshness=primary"),
        format!("/v1/rooms/{room}/events?limit=1000&freshness=primary"),
        format!("/v1/rooms/{room}/presence"),
    ];
    for path in reads {
        let before = made(world).await;
        let answer = api.get(&path).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        costs.insert(path, difference(before, made(world).await));
    }
    let items: Vec<Value> = (0..5)
        .map(|n| json!({"op": format!("{round}-{n}"), "kind": "shape.put", "shape": {"id": format!("{round}{n}")}}))
        .collect();
    let before = made(world).await;
    let answer = api.post(&format!("/v1/rooms/{room}/events"), &json!({"items": items})).await.unwrap();
    assert_eq!(answer.json()["items"][4]["type"], "ack", "{}", answer.text);
    costs.insert("a batch of five".to_owned(), difference(before, made(world).await));
    costs
}

fn difference(before: BTreeMap<String, f64>, mut after: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    for (statement, count) in before {
        *after.entry(statement).or_default() -= count;
    }
    after.retain(|_, count| *count > 0.0);
    after
}

/// Rows of all kinds, up to `most` each, as other people would have made them.
async fn fill(world: &World, room: u64, alice: &str, most: i64) {
    let statements = format!(
        "INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema, metadata)
           SELECT 1000000 + n, room.slot, 'other-' || n, 'r', '{alice}', 'public', 'editor', 'open', '{{\"kind\":\"board\"}}'
             FROM room, generate_series(1, {most}) AS n WHERE room.id = {room} ON CONFLICT DO NOTHING;
         INSERT INTO room_head (room_id)
           SELECT 1000000 + n FROM room, generate_series(1, {most}) AS n WHERE room.id = {room} ON CONFLICT DO NOTHING;
         INSERT INTO room_member (room_id, user_id, role)
           SELECT {room}, 'member-' || n, 'viewer' FROM room, generate_series(1, {most}) AS n
            WHERE room.id = {room} ON CONFLICT DO NOTHING;"
    );
    for primary in world.primaries().await {
        primary.batch_execute(&statements).await.unwrap();
    }
    let person = world.person("filler");
    for from in (0..most).step_by(500) {
        let items: Vec<Value> = (from..(from + 500).min(most))
            .map(|n| json!({"op": format!("fill-{most}-{n}"), "kind": "shape.put", "shape": {"id": format!("f{n}")}}))
            .collect();
        let path = format!("/v1/rooms/{room}/events");
        let answer = world.api_of(0, &person).post(&path, &json!({"items": items})).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_request_makes_as_many_statements_when_rows_grow_a_hundredfold() {
    let world = World::start(|options| {
        // So many events make no snapshot, which is nobody's request.
        Options { nodes: 1, shards: 2, replicas: 0, ..options }.set("history.snapshot_events", 8000)
    })
    .await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    fill(&world, room, &alice.user, 9).await;
    // What is asked once and then remembered.
    costs(&world, &alice, room, "before").await;
    let few = costs(&world, &alice, room, "few").await;
    fill(&world, room, &alice.user, 900).await;
    let many = costs(&world, &alice, room, "many").await;
    for (request, statements) in &many {
        let total: f64 = statements.values().sum();
        assert!((1.0..=12.0).contains(&total), "{request}: {statements:?}");
        assert_eq!(Some(statements), few.get(request), "{request}: more than with few rows");
    }
}
