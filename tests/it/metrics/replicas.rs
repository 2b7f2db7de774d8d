//! A shard's replica: how late it is, who reads it, and what is done when it
//! won't do.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roomgate::dev::{Admin, Options, Postgres, connect};
use serde_json::json;

use super::scrape::{Scrape, Series};
use super::watch::Watch;
use crate::client::Client;
use crate::world::{Person, World};

pub const READS: &[&str] = &[
    "db_reads_total{served_by=\"replica\"}",
    "db_reads_total{served_by=\"primary\"}",
    "db_query_duration_seconds{role=\"replica\"}",
    "db_replica_fallbacks_total{reason=\"asked\"}",
    "db_replica_fallbacks_total{reason=\"behind\"}",
    "db_replica_fallbacks_total{reason=\"stale\"}",
    "db_replica_fallbacks_total{reason=\"epoch\"}",
    "db_replica_fallbacks_total{reason=\"saturated\"}",
    "db_replica_fallbacks_total{reason=\"down\"}",
    "db_replication_lag_seconds",
    "db_replication_lag_bytes",
    "db_breaker_state",
    "db_connection_errors_total",
    "db_pool_size{role=\"replica\"}",
    "db_pool_available{role=\"replica\"}",
    "db_pool_waiting{role=\"replica\"}",
    "db_pool_max{role=\"replica\"}",
    "db_pool_size{role=\"unknown\"}",
    "db_pool_available{role=\"unknown\"}",
    "db_pool_max{role=\"unknown\"}",
    "db_endpoint_up",
    "db_connections_allowed",
];

#[tokio::test]
async fn who_answers_reads_and_why_no_replica_does_is_counted() {
    let world = world(|options| options.set("reads.max_stale_ms", 3000)).await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let (alice, shard) = (world.person("alice"), world.cluster().shards()[0]);
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let at = says(&mut client, room, "1").await;
    world.replicas_have_caught_up().await;
    let (api, replica) = (world.api(&alice), shard.replicas().next().unwrap());
    let read = async |query: &str| {
        let answer = api.get(&format!("/v1/rooms/{room}/events?{query}")).await.unwrap();
        answer.headers.get("Roomgate-Fallback").map(|reason| reason.to_str().unwrap().to_owned())
    };

    let by_replica = ["db_reads_total{served_by=\"replica\"}", "db_query_duration_seconds{role=\"replica\"}"];
    watch.moves(&by_replica, read("max_stale_ms=5000")).await;
    let asked = ["db_reads_total{served_by=\"primary\"}", "db_replica_fallbacks_total{reason=\"asked\"}"];
    watch.moves(&asked, read("freshness=primary")).await;
    let elsewhere = format!("min_seq={}.1", at.0 + 1);
    watch.moves(&["db_replica_fallbacks_total{reason=\"epoch\"}"], read(&elsewhere)).await;

    replica.set_replay_paused(true).await.unwrap();
    let at = says(&mut client, room, "2").await;
    let late = [
        "db_replication_lag_seconds",
        "db_replication_lag_bytes",
        "db_replica_fallbacks_total{reason=\"behind\"}",
    ];
    watch.moves(&late, read(&format!("min_seq={}.{}", at.0, at.1))).await;
    let stale = async {
        // Until it is too late for its bound.
        while read("max_stale_ms=800").await.as_deref() != Some("stale") {}
    };
    watch.moves(&["db_replica_fallbacks_total{reason=\"stale\"}"], stale).await;
    replica.set_replay_paused(false).await.unwrap();
    while read("max_stale_ms=800").await.is_some() {}

    let full = [
        "db_replica_fallbacks_total{reason=\"saturated\"}",
        "db_breaker_state",
        "db_connection_errors_total",
        "db_pool_size{role=\"replica\"}",
        "db_pool_available{role=\"replica\"}",
        "db_pool_waiting{role=\"replica\"}",
    ];
    let admin = &world.primaries().await[0];
    let nobody_in = async {
        shut(admin, replica).await;
        for _ in 0..6 {
            read("max_stale_ms=5000").await;
        }
    };
    watch.moves(&full, nobody_in).await;
    admin.batch_execute("ALTER ROLE roomgate CONNECTION LIMIT -1").await.unwrap();
    world.replicas_have_caught_up().await;
    while read("max_stale_ms=5000").await.is_some() {}

    let down = [
        "db_replica_fallbacks_total{reason=\"down\"}",
        "db_endpoint_up",
        "db_connections_allowed",
        "db_pool_max{role=\"replica\"}",
        "db_pool_size{role=\"unknown\"}",
        "db_pool_available{role=\"unknown\"}",
        "db_pool_max{role=\"unknown\"}",
    ];
    let frozen = async {
        replica.service().pause();
        while read("").await.as_deref() != Some("down") {}
    };
    watch.moves(&down, frozen).await;
    replica.service().resume();
    watch.all(READS);
}

/// One node, one shard of two servers, small pools.
async fn world(change: impl FnOnce(Options) -> Options) -> World {
    World::start(|options| {
        let options = Options { nodes: 1, shards: 1, replicas: 1, ..options };
        let pool = [("pool.max_connections", 4), ("pool.min_idle", 1), ("pool.acquire_timeout_ms", 1000)];
        change(pool.into_iter().fold(options, |options, (key, value)| options.set(key, value)))
    })
    .await
}

/// Epoch and seq.
async fn says(client: &mut Client, room: u64, op: &str) -> (u64, u64) {
    let ack = client.submit(room, op, &json!({"kind": "message", "data": 1})).await;
    assert_eq!(ack["type"], "ack", "{ack}");
    (ack["epoch"].as_u64().unwrap(), ack["seq"].as_u64().unwrap())
}

/// The pools' connections to `server` end, and it takes no new ones; the
/// monitors' stay.
async fn shut(primary: &Admin, server: &Postgres) {
    primary.batch_execute("ALTER ROLE roomgate CONNECTION LIMIT 0").await.unwrap();
    let there = server.admin().await.unwrap();
    let limit = "SELECT rolconnlimit = 0 FROM pg_roles WHERE rolname = 'roomgate'";
    while !there.query_one(limit, &[]).await.unwrap().get::<_, bool>(0) {}
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'roomgate/node-1'";
    there.batch_execute(end).await.unwrap();
}

pub const PRIMARY: &[&str] = &[
    "db_pool_size{role=\"primary\"}",
    "db_pool_available{role=\"primary\"}",
    "db_pool_waiting{role=\"primary\"}",
    "db_pool_waiting{role=\"unknown\"}",
    "db_pool_max{role=\"primary\"}",
    "db_errors_total{class=\"pool_timeout\"}",
    "db_errors_total{class=\"not_replicated\"}",
    "db_transaction_retries_total{class=\"not_replicated\"}",
    "db_transaction_retries_total{class=\"no_standby\"}",
    "db_transaction_retries_total{class=\"timed_out\"}",
    "db_active_connections",
    "db_synchronous_standbys",
];

#[tokio::test]
async fn who_waits_for_connections_and_for_standbys_is_counted() {
    let world = world(|options| Options { sync: true, ..options }.set("writes.lock_timeout_ms", 3000)).await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let (alice, shard) = (world.person("alice"), world.cluster().shards()[0]);
    let (primary, replica) = (shard.primary(), shard.replicas().next().unwrap());
    let admin = primary.admin().await.unwrap();
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    says(&mut client, room, "1").await;
    let message = json!({"kind": "message", "data": 1});

    others_at_work(&watch, &primary.admin_dsn()).await;
    let exhausted = [
        "db_pool_available{role=\"primary\"}",
        "db_pool_waiting{role=\"primary\"}",
        "db_errors_total{class=\"pool_timeout\"}",
    ];
    watch.moves(&exhausted, readers_of_a_locked_table(&world, &alice, room)).await;

    receiver(replica, Signal::SIGSTOP).await;
    let again = async {
        let sent = client.submit(room, "cancelled", &message);
        let cancelled = async {
            cancel_waits(&world, &admin).await;
            retried(&world, "timed_out").await;
            receiver(replica, Signal::SIGCONT).await;
        };
        assert_eq!(futures_util::future::join(sent, cancelled).await.0["type"], "ack");
    };
    let again_for = [
        "db_errors_total{class=\"not_replicated\"}",
        "db_transaction_retries_total{class=\"not_replicated\"}",
        "db_transaction_retries_total{class=\"timed_out\"}",
    ];
    watch.moves(&again_for, again).await;

    primary.set_synchronous(&[]).await.unwrap();
    let alone = ["db_transaction_retries_total{class=\"no_standby\"}", "db_synchronous_standbys"];
    let answered = async {
        let sent = client.submit(room, "alone", &message);
        let standby = async {
            retried(&world, "no_standby").await;
            while world.measured(0, "db_synchronous_standbys").await > 0.0 {}
            primary.set_synchronous(&["a-2"]).await.unwrap();
        };
        futures_util::future::join(sent, standby).await
    };
    watch.moves(&alone, answered).await;

    // Who waits when it becomes unknown what the server is.
    let frozen = async {
        end_connections(&admin).await;
        primary.service().pause();
        let api = world.api(&alice);
        let path = format!("/v1/rooms/{room}?freshness=primary");
        let reads = (0..8).map(|_| api.get(&path));
        drop(futures_util::future::join_all(reads).await);
    };
    let doubted = [
        "db_pool_waiting{role=\"unknown\"}",
        "db_pool_size{role=\"primary\"}",
        "db_pool_max{role=\"primary\"}",
    ];
    watch.moves(&doubted, frozen).await;
    primary.service().resume();
    watch.all(PRIMARY);
}

/// As many more as there are: other programs', too, and no idle ones.
async fn others_at_work(watch: &Watch<'_>, dsn: &str) {
    const COUNT: usize = 40;
    let series = Series::read("db_active_connections{shard=\"a\",endpoint=\"a-1\"}");
    let mut idle = Vec::new();
    for _ in 0..COUNT {
        idle.push(connect(dsn).await.unwrap());
    }
    assert!(Scrape::of(watch.node).await.sum(&series) < COUNT as f64, "idle ones count");
    let work = async {
        let asked = idle.iter().map(|admin| admin.batch_execute("SELECT pg_sleep(20)"));
        let working = futures_util::future::join_all(asked);
        let most = async { while Scrape::of(watch.node).await.sum(&series) < COUNT as f64 {} };
        tokio::select! {
            () = most => {}
            ended = working => panic!("never {COUNT} at once: {ended:?}"),
        }
    };
    watch.moves(&["db_active_connections"], work).await;
}

/// More of them than the pool has connections.
async fn readers_of_a_locked_table(world: &World, alice: &Person, room: u64) {
    let holder = world.cluster().shards()[0].primary().admin().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE room_event IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let api = world.api(alice);
    let path = format!("/v1/rooms/{room}/events?freshness=primary");
    let reads = (0..8).map(|_| api.get(&path));
    drop(futures_util::future::join_all(reads).await);
    holder.batch_execute("ROLLBACK").await.unwrap();
}

/// Until a transaction is run again because of that.
async fn retried(world: &World, class: &str) {
    while world.counted("db_transaction_retries_total", "class").await[class] < 1.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn end_connections(admin: &Admin) {
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'roomgate/node-1'";
    admin.batch_execute(end).await.unwrap();
}

/// What streams to the replica is frozen, or goes on.
async fn receiver(replica: &Postgres, signal: Signal) {
    let admin = replica.admin().await.unwrap();
    let pid: i32 = admin.query_one("SELECT pid FROM pg_stat_wal_receiver", &[]).await.unwrap().get(0);
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// PostgreSQL then says that it committed, and that perhaps no standby has it.
/// Until that is why a transaction is run again: others wait for standbys, too, and
/// a lane that has given its commit up hears of the next one.
async fn cancel_waits(world: &World, admin: &Admin) {
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                  WHERE wait_event = 'SyncRep' AND application_name = 'roomgate/node-1'";
    while world.counted("db_transaction_retries_total", "class").await["not_replicated"] < 1.0 {
        admin.query_one(cancel, &[]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
