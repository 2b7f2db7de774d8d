//! A standby is promoted by hand: `roomgate shards promote`.

use std::process::Output;
use std::time::Duration;

use roomgate::dev::{Api, Postgres};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::client::{Client, rect};
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

/// In `sync`, with one standby cut off, and the directory on the shard that
/// loses its primary.
#[tokio::test]
async fn what_was_acked_in_sync_survives_a_promotion_by_hand_and_the_old_primary_is_fenced_off() {
    let world = World::start(|mut options| {
        (options.shards, options.replicas, options.nodes, options.sync) = (1, 2, 1, true);
        options
    })
    .await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    draw(&mut client, room, 0..10).await;
    let [first, second, third] = ["a-1", "a-2", "a-3"].map(|name| server(&world, name));
    cut_off(second).await;
    draw(&mut client, room, 10..20).await;
    client.vanish();

    refused(&world, &[], "a-1 answers, out of recovery, on timeline 1").await;
    first.service().kill_for_good().await;
    third.service().kill_for_good().await;
    refused(&world, &[], "1 of the shard's 2 standbys tell how far they are, 2 must").await;
    third.service().restart().await.unwrap();
    refused(&world, &["--to", "a-2"], "a-2 has the log up to 0/").await;
    let (status, told) = promote(&world, "a", &["--dry-run"]).await;
    assert_eq!((status, &told["decision"]["endpoint"]), (Some(0), &json!("a-3")), "{told}");
    let output = verb(&world, &["a", "--dry-run"]).await;
    let told = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert!(output.status.success() && lines.len() == 6, "{told}");
    assert_eq!(lines[0], "claimed: a-1, timeline 1");
    assert!(lines[1].starts_with("a-1 ") && lines[1].contains("no answer: "), "{told}");
    assert!(lines[2].starts_with("a-2 ") && lines[2].contains("standby, timeline 1, log up to 0/"), "{told}");
    assert!(lines[3].starts_with("a-3 ") && lines[3].contains("standby, timeline 1, log up to 0/"), "{told}");
    assert!(lines[4].starts_with("a-3 is to be promoted, with its log up to 0/"), "{told}");
    assert_eq!(lines[5], "nothing was done (--dry-run)");
    assert!(in_recovery(third).await, "nothing was done");
    let (status, told) = promote(&world, "a", &[]).await;
    assert_eq!(
        (status, &told["claimed"], &told["promoted_timeline"]),
        (Some(0), &json!(true), &json!(2)),
        "{told}"
    );
    let left = told["left_to_do"].to_string();
    assert!(left.contains("a-2: have it stream from a-3") && left.contains("waits for no standby"), "{left}");

    third.set_synchronous(&["a-2"]).await.unwrap();
    let behind = second.admin().await.unwrap();
    behind.batch_execute("ALTER SYSTEM RESET primary_conninfo").await.unwrap();
    second.follow(third).await.unwrap();
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    client.catches_up(room, 20).await;
    assert_eq!(client.rooms[&room].shapes.len(), 20, "nothing that was acked is missing");
    draw(&mut client, room, 20..21).await;

    // As if nothing had happened.
    first.service().restart().await.unwrap();
    is_fenced(&world, "a-1").await;
    draw(&mut client, room, 21..25).await;
    assert_eq!((events(first).await, events(third).await), (20, 25));
}

#[tokio::test]
async fn a_promotion_that_may_lose_what_was_acked_says_so_and_must_be_asked_for() {
    let world = World::start(|mut options| {
        (options.shards, options.replicas, options.nodes) = (1, 2, 1);
        options
    })
    .await;
    let [first, second, third] = ["a-1", "a-2", "a-3"].map(|name| server(&world, name));
    let (status, told) = promote(&world, "b", &[]).await;
    assert_eq!(status, Some(2), "there is no such shard: {told}");
    world.replicas_have_caught_up().await;
    cut_off(second).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    draw(&mut client, room, 0..5).await;
    first.service().kill_for_good().await;
    third.service().kill_for_good().await;

    let (status, told) = promote(&world, "a", &["--confirmed-by", "3"]).await;
    assert_eq!(status, Some(2), "there are only two standbys: {told}");
    refused(&world, &[], "a-3: ").await;
    let (status, told) = promote(&world, "a", &["--confirmed-by", "2", "--dry-run"]).await;
    let may_lose = &told["decision"]["may_lose"];
    assert_eq!((status, may_lose), (Some(0), &json!(false)), "where two confirm, each has it: {told}");
    let (status, told) = promote(&world, "a", &["--accept-loss"]).await;
    let decision = &told["decision"];
    assert_eq!((status, &decision["may_lose"]), (Some(0), &json!(true)), "{told}");
    assert_eq!((&decision["endpoint"], &told["claimed"]), (&json!("a-2"), &json!(true)), "{told}");
}

/// Runs the program with the node's own configuration: its status, and what it
/// printed.
async fn promote(world: &World, shard: &str, more: &[&str]) -> (Option<i32>, Value) {
    let output = verb(world, &[&[shard, "--json"], more].concat()).await;
    let told = serde_json::from_slice(&output.stdout);
    (output.status.code(), told.unwrap_or_else(|_| String::from_utf8_lossy(&output.stderr).into()))
}

async fn verb(world: &World, arguments: &[&str]) -> Output {
    let file = world.cluster().report().jwt.key_file.with_file_name("nodes").join("node-1.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomgate"));
    command.args(["shards", "promote", "--wait", "20", "--config"]).arg(file).args(arguments);
    command.output().await.unwrap()
}

async fn refused(world: &World, more: &[&str], why: &str) {
    let (status, told) = promote(world, "a", more).await;
    let error = told["error"].as_str().unwrap_or_default();
    assert!(status == Some(1) && error.contains(why), "{status:?}, not {why:?}: {told:#}");
    assert_eq!(told["promoted_timeline"], Value::Null);
}

async fn draw(client: &mut Client, room: u64, shapes: std::ops::Range<i32>) {
    for i in shapes {
        let body = json!({"kind": "shape.add", "shape": rect(&format!("r{i}"), i)});
        let ack = client.submit(room, &format!("op-{i}"), &body).await;
        assert_eq!((&ack["type"], &ack["seq"]), (&json!("ack"), &json!(i + 1)), "{ack}");
    }
}

fn server<'a>(world: &'a World, name: &str) -> &'a Postgres {
    world.cluster().shards()[0].servers().iter().find(|server| server.name() == name).unwrap()
}

/// It hears nothing more from its primary.
async fn cut_off(standby: &Postgres) {
    let admin = standby.admin().await.unwrap();
    admin.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let receives = "SELECT FROM pg_stat_wal_receiver";
    eventually("it receives nothing", async || admin.query_opt(receives, &[]).await.unwrap().is_none()).await;
}

async fn in_recovery(server: &Postgres) -> bool {
    let admin = server.admin().await.unwrap();
    admin.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get(0)
}

async fn events(server: &Postgres) -> i64 {
    let admin = server.admin().await.unwrap();
    admin.query_one("SELECT count(*) FROM room_event", &[]).await.unwrap().get(0)
}

async fn is_fenced(world: &World, name: &str) {
    let api = Api::new(&world.cluster().nodes()[0].admin_url());
    let is_it = async || {
        let detail = api.get("/health/detailed").await.unwrap().json();
        let endpoints = detail["shards"][0]["endpoints"].as_array().unwrap();
        endpoints.iter().any(|endpoint| endpoint["name"] == name && endpoint["role"] == "fenced")
    };
    eventually("it is fenced off", is_it).await;
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let held = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.unwrap_or_else(|_| panic!("not in {PATIENCE:?}: {what}"));
}
