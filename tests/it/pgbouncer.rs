//! Pools that reach their servers through PgBouncer, in transaction mode.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use roomgate::config::Endpoint;
use roomgate::db::{Connector, SessionSettings, Sql};
use roomgate::dev::{Options, PgBouncer, Postgres, Scratch, connect};
use roomgate::tasks::Tasks;
use serde_json::{Value, json};
use tokio_postgres::SimpleQueryMessage;

use crate::client::rect;
use crate::convergence::{FROM_PRIMARY, whole_log};
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

static LOCKED: Sql = Sql {
    name: "locked",
    text: "SELECT pg_advisory_xact_lock($1), current_setting('lock_timeout'), txid_current()::text",
};
static COMMITS: Sql = Sql { name: "commits", text: "SELECT current_setting('synchronous_commit')" };
static TRANSACTION: Sql = Sql { name: "transaction", text: "SELECT txid_current()::text" };

#[tokio::test]
async fn what_a_transaction_relies_on_holds_through_pgbouncer() {
    let scratch = Scratch::new("pgbouncer").unwrap();
    let server = Postgres::primary(&scratch.path().join("a-1"), "a-1").await.unwrap();
    let pgbouncer = PgBouncer::start(&scratch.path().join("pgbouncer"), &server).await.unwrap();
    let endpoint = Endpoint { pgbouncer: Some(pgbouncer.address()), ..server.endpoint() };
    let settings = SessionSettings {
        application_name: "roomgate/pooled".to_owned(),
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(10),
        lock_timeout: Duration::from_millis(250),
        search_path: "public",
    };
    let connector = Connector::pooled(&endpoint, settings, &Tasks::new());
    let refused = connector.connect().await.err().expect("the role lacks settings").to_string();
    assert!(refused.contains("ALTER ROLE") && refused.contains("SET search_path = 'public'"), "{refused}");
    let missing = connector.missing_settings().await.unwrap();
    assert!(missing.iter().any(|statement| statement.ends_with("SET lock_timeout = '250'")), "{missing:?}");
    let own = connect(&server.dsn("roomgate")).await.unwrap();
    own.batch_execute(&missing.join(";")).await.unwrap();
    pgbouncer.service().restart().await.unwrap();
    let connections = [connector.connect().await.unwrap(), connector.connect().await.unwrap()];
    // One connection of the server serves many of ours, one transaction at a time.
    for round in 0..20 {
        let [one, other] = &connections;
        one.begin().await.unwrap();
        let first = one.query_one(&LOCKED, &[&1_i64]).await.unwrap().get::<_, String>(2);
        other.begin().await.unwrap();
        let second = other.query_one(&TRANSACTION, &[]).await.unwrap().get::<_, String>(0);
        let again = one.query_one(&TRANSACTION, &[]).await.unwrap().get::<_, String>(0);
        assert!(first == again && first != second, "round {round}: {first} {again} {second}");
        one.commit().await.unwrap();
        other.rollback().await.unwrap();
        // Freed with its transaction, whoever had it.
        other.begin().await.unwrap();
        other.query_one(&LOCKED, &[&1_i64]).await.unwrap();
        other.rollback().await.unwrap();
    }
    // PgBouncer opens a connection to the server whose role has other settings by now.
    own.batch_execute("ALTER ROLE roomgate SET synchronous_commit = off").await.unwrap();
    let admin = server.admin().await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE usename = 'roomgate' AND pid <> pg_backend_pid()";
    admin.batch_execute(end).await.unwrap();
    let [one, _] = &connections;
    one.begin().await.unwrap();
    assert_eq!(one.query_one(&COMMITS, &[]).await.unwrap().get::<_, String>(0), "on");
    one.rollback().await.unwrap();
    assert_eq!(one.query_one(&COMMITS, &[]).await.unwrap().get::<_, String>(0), "on", "alone, too");
    // Other settings are compared when a client connects.
    admin.batch_execute("ALTER ROLE roomgate SET gin_fuzzy_search_limit = 9").await.unwrap();
    admin.batch_execute(end).await.unwrap();
    let refused =
        connector.connect().await.err().expect("the role has a setting that hides rows").to_string();
    assert!(refused.contains("SET gin_fuzzy_search_limit = '0'"), "{refused}");
    // Not every warning says that a wait for a standby was cancelled.
    one.batch("DO $$BEGIN RAISE WARNING 'of a trigger'; END$$").await.unwrap();
    assert!(!one.is_broken());
}

#[tokio::test]
async fn nothing_is_lost_or_out_of_order_through_pgbouncer_even_when_it_dies() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, replicas: 1, ..options }).await;
    let pgbouncers = behind_pgbouncer(&world).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let mut listeners = [world.client(0, &alice).await, world.client(1, &bob).await];
    for client in &mut listeners {
        client.join(room).await;
    }
    // Two writers a node; each sends one after the other.
    let write = async |writer: usize| {
        let api = world.api_of(writer % 2, &alice);
        let mut acked = BTreeMap::new();
        for n in 0..60 {
            let op = format!("w{writer}-{n:02}");
            let body = json!({"items": [{"op": op, "kind": "message", "data": n}]});
            let answer = api.post(&format!("/v1/rooms/{room}/events"), &body).await.unwrap();
            let seq = answer.json()["items"][0]["seq"].as_u64();
            acked.insert(seq.unwrap_or_else(|| panic!("{op}: {}", answer.text)), op);
        }
        acked
    };
    let kill = async {
        let primary = pgbouncers[0].service();
        for at in [40, 120] {
            let so_far = async || head(&world, room).await;
            while so_far().await < at {
                tokio::task::yield_now().await;
            }
            primary.kill().await;
            primary.restart().await.unwrap();
        }
    };
    let all = async { tokio::join!(write(0), write(1), write(2), write(3), kill) };
    let (one, two, three, four, ()) = tokio::time::timeout(PATIENCE, all).await.expect("all are answered");

    let mut acked = BTreeMap::new();
    for each in [one, two, three, four] {
        let ops: Vec<&String> = each.values().collect();
        assert!(ops.is_sorted(), "the order of a writer is kept: {ops:?}");
        acked.extend(each);
    }
    assert_eq!(acked.len(), 240);
    assert!(acked.keys().copied().eq(1..=240), "no gap, nothing twice");
    for client in &mut listeners {
        client.catches_up(room, 240).await;
    }
    world.replicas_have_caught_up().await;
    for fresh in [FROM_PRIMARY, "max_stale_ms=60000"] {
        let log = whole_log(&world, &alice, room, fresh).await;
        let told = log.iter().map(|event| (event["seq"].as_u64().unwrap(), event["op"].as_str().unwrap()));
        assert!(told.eq(acked.iter().map(|(seq, op)| (*seq, op.as_str()))), "{fresh}");
    }
    // An import stages by COPY, which goes the same way.
    let lines = format!("{}\n{}\n", rect("r1", 1), rect("r2", 2));
    let api = world.api(&alice).with("content-type", "application/x-ndjson");
    let path = format!("/v1/rooms/{room}/import?op=import-1");
    let imported = api.send("POST".parse().unwrap(), &path, Some(lines)).await.unwrap();
    assert_eq!(imported.json()["imported"], 2, "{}", imported.text);

    for pgbouncer in &pgbouncers {
        let passed = transactions(pgbouncer).await;
        println!("{passed} transactions since the last start of {}", pgbouncer.address());
        assert!(passed > 0);
    }
}

/// That went through it.
async fn transactions(pgbouncer: &PgBouncer) -> u64 {
    let console = connect(&format!("postgres://roomgate@{}/pgbouncer", pgbouncer.address())).await.unwrap();
    let rows = console.simple_query("SHOW STATS").await.unwrap();
    let count = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) if row.get("database") == Some("roomgate") => {
            row.get("total_xact_count").and_then(|text| text.parse().ok())
        }
        _ => None,
    };
    rows.iter().find_map(count).unwrap()
}

async fn head(world: &World, room: u64) -> i64 {
    let admin = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    let ask = "SELECT head_seq FROM room_head WHERE room_id = $1";
    admin.query_one(ask, &[&room.cast_signed()]).await.unwrap().get(0)
}

/// Puts one before every server of the shard, gives the role its settings as
/// `check-config` asks for them, and starts the nodes again.
async fn behind_pgbouncer(world: &World) -> Vec<PgBouncer> {
    let nodes = world.cluster().nodes();
    let folder = world.cluster().report().jwt.key_file.with_file_name("nodes");
    let file = |name: &str| folder.join(format!("{name}.toml"));
    let mut pgbouncers = Vec::new();
    for server in world.cluster().shards()[0].servers() {
        let pgbouncer = PgBouncer::start(&folder.join(server.name()), server).await.unwrap();
        for node in nodes {
            insert(&file(node.name()), server.name(), &pgbouncer.address());
        }
        pgbouncers.push(pgbouncer);
    }
    let answer = world.roomgate(&["check-config", "--json"]);
    assert_eq!(answer.status.code(), Some(1), "the settings are missing");
    let told: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let own = connect(&world.cluster().shards()[0].primary().dsn("roomgate")).await.unwrap();
    for finding in told["findings"].as_array().unwrap() {
        if let Some(statement) = finding["text"].as_str().unwrap().strip_prefix("PgBouncer: ") {
            own.batch_execute(statement).await.unwrap();
        }
    }
    world.replicas_have_caught_up().await;
    for pgbouncer in &pgbouncers {
        // Its connections to the server are older than the settings.
        pgbouncer.service().restart().await.unwrap();
    }
    let answer = world.roomgate(&["check-config"]);
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stdout));
    for node in nodes {
        node.service().restart().await.unwrap();
    }
    world.balanced().await;
    pgbouncers
}

/// Only for the shard: the directory's tables need a search path of their own,
/// which the same role can't have in the same database.
fn insert(file: &Path, endpoint: &str, address: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    let (before, shards) = text.split_once("[[shards]]").unwrap();
    let name = format!("name = {endpoint:?}\n");
    let shards = shards.replace(&name, &format!("{name}pgbouncer = {address:?}\n"));
    std::fs::write(file, format!("{before}[[shards]]{shards}")).unwrap();
}
