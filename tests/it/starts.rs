//! A node that starts while something is wrong.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use roomgate::dev::{Api, Gateway, Options, Scratch, connect};

use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

fn log(node: &Gateway) -> String {
    std::fs::read_to_string(node.service().log()).unwrap()
}

#[tokio::test]
async fn a_node_that_learns_of_no_slot_at_its_start_asks_again() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 0, ..options }).await;
    let node = &world.cluster().nodes()[0];
    node.service().stop().await;
    let admin = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    admin.batch_execute("UPDATE slot_owner SET state = 'importing'").await.unwrap();
    let health = Api::new(&node.admin_url());
    let status = async |path: &str| health.get(path).await.map(|answer| answer.status.as_u16());
    let heal = async {
        while status("/health/live").await.ok() != Some(200) {
            tokio::task::yield_now().await;
        }
        assert_eq!(status("/health/ready").await.unwrap(), 503, "it knows no slot");
        admin.batch_execute("UPDATE slot_owner SET state = 'active'").await.unwrap();
    };
    let started = async { tokio::join!(node.service().restart(), heal) };
    tokio::time::timeout(PATIENCE, started).await.expect("the node becomes ready").0.unwrap();
}

#[tokio::test]
async fn a_node_refuses_servers_that_allow_fewer_connections_than_all_nodes_may_open() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 1, ..options }).await;
    let shard = world.cluster().shards()[0];
    let (primary, replica) = (shard.primary(), shard.replicas().next().unwrap());
    let limit = async |sql: &str| {
        primary.admin().await.unwrap().batch_execute(sql).await.unwrap();
        primary.service().restart().await.unwrap();
    };
    replica.service().kill_for_good().await;
    limit("ALTER SYSTEM SET max_connections = 40").await;

    // The node that runs tells it as soon as it sees the server again.
    let node = &world.cluster().nodes()[0];
    let health = Api::new(&node.admin_url());
    let told = async {
        loop {
            let detail = health.get("/health/detailed").await.unwrap().json();
            let why = detail["shards"][0]["endpoints"][0]["why"].to_string();
            if why.contains("may open 92; the server allows 37") && detail["status"] == "critical" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("/health/detailed tells of it");
    let log = log(node);
    assert!(log.contains("too few connections"), "{log}");

    // Another one doesn't start, and says what to do; so does the check.
    for verb in [&["serve"][..], &["check-config"]] {
        let answer = world.roomgate(verb);
        let text = [answer.stdout, answer.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(answer.status.code(), Some(1), "{verb:?}: {text}");
        for part in ["/a-1", "may open 92", "lower pool.max_connections to 6", "max_connections to 95"] {
            assert!(text.contains(part), "{verb:?}: {part}: {text}");
        }
    }

    // A server that is away is no reason to refuse.
    limit("ALTER SYSTEM RESET max_connections").await;
    node.service().restart().await.unwrap();
}

#[tokio::test]
async fn a_node_starts_once_a_database_that_was_slow_takes_it_in() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 0, ..options }).await;
    let node = &world.cluster().nodes()[0];
    node.service().stop().await;
    let admin = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    // No connection can prepare its statements.
    admin.batch_execute("BEGIN; LOCK TABLE room_head").await.unwrap();
    let slow = async {
        let mut starts = node.service().starts();
        starts.changed().await.unwrap();
        let first = node.service().pid();
        while !log(node).contains("a database can't be used yet") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        admin.batch_execute("ROLLBACK").await.unwrap();
        first
    };
    let started = async { tokio::join!(node.service().restart(), slow) };
    let Ok((restarted, first)) = tokio::time::timeout(PATIENCE, started).await else {
        panic!("the node doesn't become ready\n{}", log(node));
    };
    restarted.unwrap();
    assert_eq!(node.service().pid(), first, "it was not started again\n{}", log(node));
}

#[tokio::test]
async fn a_node_refuses_a_database_without_its_tables_and_says_what_to_do() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 0, ..options }).await;
    world.cluster().nodes()[0].service().stop().await;
    let admin = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    for (database, schema) in [("a", "public"), ("directory", "directory")] {
        admin.batch_execute(&format!("ALTER SCHEMA {schema} RENAME TO aside")).await.unwrap();
        let answer = world.roomgate(&["serve"]);
        let text = String::from_utf8_lossy(&answer.stderr);
        let last = text.lines().last().unwrap_or_default();
        assert_eq!(answer.status.code(), Some(1), "{text}");
        assert!(last.starts_with(&format!("roomgate: {database}: the schema lacks")), "{text}");
        assert!(last.ends_with("bring it up with `roomgate migrate up`"), "{text}");
        admin.batch_execute(&format!("ALTER SCHEMA aside RENAME TO {schema}")).await.unwrap();
    }
}

#[tokio::test]
async fn check_config_advises_against_what_is_open_to_others() {
    let world = World::shared();
    let folder = Scratch::new("advice").unwrap();
    let weak = folder.path().join("weak");
    std::fs::write(&weak, [b'x'; 40]).unwrap();
    std::fs::set_permissions(&weak, Permissions::from_mode(0o644)).unwrap();
    let check = |set: &[String]| {
        let flags = set.iter().flat_map(|set| ["--set", set]);
        let answer =
            world.roomgate(&["check-config", "--offline"].into_iter().chain(flags).collect::<Vec<_>>());
        let text = String::from_utf8(answer.stdout).unwrap();
        assert!(answer.status.success(), "{text}");
        text.lines().filter(|line| line.starts_with("warn")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(check(&[]), [""; 0]);
    let found = check(&[
        "listen.admin=0.0.0.0:9".to_owned(),
        "listen.public=0.0.0.0:8".to_owned(),
        "listen.behind_tls=true".to_owned(),
        "listen.trusted_proxies=".to_owned(),
        format!("auth.keys.0.file={}", weak.display()),
    ]);
    let subjects: Vec<&str> = found.iter().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(
        subjects,
        ["listen.admin:", "listen.trusted_proxies:", "auth.keys.dev-1:", "auth.keys.dev-1:"]
    );
}
