//! On a real Redis that answers and refuses.

use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::{CustomCommand, Value};

use super::command::{Command, acl_rules};
use super::tests::{
    Node, World, config, eventually, members_become, node, node_of, room, say_until_heard, session,
};
use super::*;
use crate::dev::{Port, Scratch};

/// A connection that keeps every permission when the user `default` loses some.
pub(super) struct Admin {
    client: Client,
}

impl Admin {
    pub async fn of(world: &World) -> Self {
        let admin = Self::connect(&config(&world.redis.url(), None)).await;
        admin.ask(&["ACL", "SETUSER", "admin", "on", "nopass", "~*", "&*", "+@all"]).await;
        Self::connect(&config(&world.redis.url(), Some("admin"))).await
    }

    async fn connect(config: &config::Redis) -> Self {
        let client = client::build(config).unwrap();
        drop(client.connect());
        client.wait_for_connect().await.unwrap();
        Self { client }
    }

    pub async fn ask(&self, words: &[&str]) -> Value {
        let args = words[1..].iter().map(|word| Value::from(*word)).collect();
        let command = CustomCommand::new(words[0].to_owned(), None::<u16>, false);
        self.client.custom::<Value, Value>(command, args).await.unwrap_or_else(|error| {
            panic!("{words:?}: {error}");
        })
    }

    async fn connections(&self) -> u64 {
        let stats = self.ask(&["INFO", "stats"]).await.as_string().unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().trim().parse().unwrap()
    }
}

async fn refuses(node: &Node, part: &str) {
    eventually(part, || node.bus.problems().iter().any(|problem| problem.contains(part))).await;
    assert!(!node.bus.is_up());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_missing_acl_rule_is_named_and_its_grant_heals() {
    let world = World::new("bus-acl").await;
    let admin = Admin::of(&world).await;
    let rules = acl_rules();
    let rules: Vec<&str> = rules.split(' ').collect();
    // Redis takes these of every user, or the client goes on without.
    let untried = ["+hello", "+info", "+client|id"];
    let mut nodes = Vec::new();
    for (number, missing) in rules.iter().filter(|rule| !untried.contains(rule)).enumerate() {
        let user = format!("user{number}");
        let mut words = vec!["ACL", "SETUSER", &user, "on", "nopass", "resetchannels"];
        words.extend(rules.iter().filter(|rule| *rule != missing));
        admin.ask(&words).await;
        let node = node_of(&config(&world.redis.url(), Some(&user)), number as u64, &world.tasks);
        nodes.push((user, *missing, node));
    }
    for (user, missing, node) in &nodes {
        refuses(node, &format!("ACL SETUSER {user} {missing}")).await;
        let problems = node.bus.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].ends_with(&format!(" {missing}")), "nothing else is missing: {problems:?}");
    }
    for (user, missing, _) in &nodes {
        admin.ask(&["ACL", "SETUSER", user, missing]).await;
    }
    for (_, missing, node) in &nodes {
        eventually(missing, || node.bus.is_up()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_patterns_are_named_in_the_table_only() {
    let interfaces = ["KeysInterface", "HashesInterface", "SortedSetsInterface", "CustomCommand"];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bus");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "command.rs" || name.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for word in interfaces.iter().chain(&["PubsubInterface", "\"roomgate:"]) {
            assert!(!text.contains(word), "{name} names {word}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_names_the_acl_rules_of_the_table() {
    let text = include_str!("../../config/roomgate.toml");
    let words: Vec<&str> = text.split_whitespace().filter(|word| *word != "#").collect();
    assert!(words.join(" ").contains(&acl_rules()), "ACL SETUSER roomgate … {}", acl_rules());
}

/// How to make Redis refuse, the beginning of its words, and how to lift it.
struct Case {
    refuse: &'static [&'static [&'static str]],
    words: &'static str,
    lift: &'static [&'static str],
}

const CASES: [Case; 8] = [
    Case {
        refuse: &[&["ACL", "SETUSER", "default", "resetchannels"]],
        words: "ACL SETUSER default &roomgate:revoked &roomgate:room:*",
        lift: &["ACL", "SETUSER", "default", "allchannels"],
    },
    Case {
        refuse: &[&["ACL", "SETUSER", "default", "resetkeys"]],
        words: "ACL SETUSER default ~roomgate:limit:* ~roomgate:members:* ~roomgate:nodes",
        lift: &["ACL", "SETUSER", "default", "allkeys"],
    },
    Case {
        refuse: &[&["ACL", "SETUSER", "default", "-@all"]],
        words: "+spublish +ssubscribe",
        lift: &["ACL", "SETUSER", "default", "+@all"],
    },
    Case {
        refuse: &[&["CONFIG", "SET", "maxmemory", "1"]],
        words: "(OOM ",
        lift: &["CONFIG", "SET", "maxmemory", "0"],
    },
    Case {
        refuse: &[&["REPLICAOF", "127.0.0.1", "1"]],
        words: "(READONLY ",
        lift: &["REPLICAOF", "NO", "ONE"],
    },
    Case {
        refuse: &[&["CONFIG", "SET", "replica-serve-stale-data", "no"], &["REPLICAOF", "127.0.0.1", "1"]],
        words: "(MASTERDOWN ",
        lift: &["REPLICAOF", "NO", "ONE"],
    },
    Case {
        refuse: &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
        words: "(NOREPLICAS ",
        lift: &["CONFIG", "SET", "min-replicas-to-write", "0"],
    },
    // New connections only: an open connection stays signed in.
    Case {
        refuse: &[&["CONFIG", "SET", "requirepass", "other"], &["CLIENT", "KILL", "USER", "default"]],
        words: "(NOAUTH ",
        lift: &["CONFIG", "SET", "requirepass", ""],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_named_without_reconnects_and_heals() {
    let world = World::new("bus-refused").await;
    let admin = Admin::of(&world).await;
    let (a, mut b) = (world.ready(1).await, world.ready(2).await);
    a.bus.presence_enter(room(1), &session("anna"), "anna".to_owned());
    b.bus.subscribe(room(1)).await;
    members_become(&b, room(1), &["anna"]).await;
    for (number, case) in CASES.iter().enumerate() {
        for words in case.refuse {
            admin.ask(words).await;
        }
        for node in [&a, &b] {
            refuses(node, case.words).await;
        }
        assert!(client::probe(&config(&world.redis.url(), None)).await.unwrap()[0].contains(case.words));
        let late = session(&format!("late{number}"));
        a.bus.presence_enter(room(1), &late, "late".to_owned());
        b.bus.subscribe(room(2)).await;
        let before = admin.connections().await;
        let watched = Duration::from_secs(3);
        tokio::time::sleep(watched).await;
        let made = admin.connections().await - before;
        // Four connections. Attempts to connect begin after 50 ms and double.
        let most = if case.words == "(NOAUTH " { 4 * 7 } else { 4 };
        assert!(made <= most, "{}: {made} connections", case.words);
        admin.ask(case.lift).await;
        let lifted = Instant::now();
        members_become(&b, room(1), &["anna", "late"]).await;
        say_until_heard(&a, &mut b, room(2), "again").await;
        for node in [&a, &b] {
            eventually("up", || node.bus.is_up()).await;
        }
        assert!(lifted.elapsed() < Duration::from_secs(10), "{}: {:?}", case.words, lifted.elapsed());
        a.bus.presence_leave(room(1), &late);
        members_become(&b, room(1), &["anna"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_save_is_named_and_heals() {
    let world = World::new("bus-misconf").await;
    let admin = Admin::of(&world).await;
    let node = world.ready(1).await;
    std::fs::remove_dir_all(world.folder()).unwrap();
    admin.ask(&["CONFIG", "SET", "save", "3600 1"]).await;
    admin.ask(&["BGSAVE"]).await;
    refuses(&node, "(MISCONF ").await;
    admin.ask(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await;
    eventually("up", || node.bus.is_up()).await;
}

/// Ends the process when dropped.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_slots_is_named_without_a_storm() {
    let scratch = Scratch::new("bus-cluster").unwrap();
    let port = Port::free().unwrap();
    let number = port.number().to_string();
    let child = std::process::Command::new("redis-server")
        .args(["--port", &number, "--bind", "127.0.0.1", "--save", "", "--cluster-enabled", "yes"])
        .current_dir(scratch.path())
        .stdout(std::process::Stdio::null())
        .spawn();
    let _process = Process(child.unwrap());
    let (tasks, url) = (Tasks::new(), format!("redis://127.0.0.1:{number}"));
    let node = node(&url, 1, &tasks);
    node.bus.presence_enter(room(1), &session("s"), "anna".to_owned());
    node.bus.subscribe(room(1)).await;
    refuses(&node, "(CLUSTERDOWN ").await;
    let admin = Admin::connect(&config(&url, None)).await;
    let before = admin.connections().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let made = admin.connections().await - before;
    // Two connections that Redis drops at each trial, every 1 to 2 s: six trials fit
    // into 5 s when the first one comes at once.
    assert!(made <= 12, "{made} connections in 5 s");
    admin.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    eventually("up", || node.bus.is_up()).await;
    members_become(&node, room(1), &["anna"]).await;
}

#[test]
fn a_trial_belongs_to_every_command_but_the_proven_ones() {
    let untried: Vec<_> = Command::ALL
        .iter()
        .filter(|command| !Command::tried().any(|(tried, _)| tried == **command))
        .collect();
    let proven = [Command::Connect, Command::ClientId, Command::Info, Command::RevokedSend];
    assert_eq!(untried, proven.iter().collect::<Vec<_>>());
}
