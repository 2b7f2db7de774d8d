//! A shard that gets another primary, and one that gets two.

use roomgate::dev::{Admin, Options, Postgres};
use serde_json::json;

use super::watch::Watch;
use crate::client::submit;
use crate::world::World;

pub const FAILOVER: &[&str] = &[
    "db_endpoint_is_primary",
    "db_endpoint_fenced",
    "db_timeline",
    "db_shard_contested",
    "roomgate_epoch_changes_total",
    "db_transaction_retries_total{class=\"superseded\"}",
    "db_query_duration_seconds{role=\"unknown\"}",
];

#[tokio::test]
async fn new_primaries_old_ones_and_two_at_a_time_are_seen() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 2, ..options }).await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let says = |op: &str| submit(room, op, &json!({"kind": "message", "data": 1}));
    client.send(&says("1")).await;
    client.answer(room, "1").await;
    world.replicas_have_caught_up().await;

    let old = server(&world, "a-1");
    let promoted = async {
        old.service().pause();
        // It is sent to the frozen one, and then elsewhere.
        client.send(&says("2")).await;
        while world.counted("db_endpoint_up", "endpoint").await["a-1"] > 0.0 {}
        let fork = world.cluster().promote(0).await.unwrap();
        let answer = client.answer(room, "2").await;
        assert_eq!(answer["type"], "ack", "{answer}");
        fork
    };
    let followed = [
        "db_endpoint_is_primary",
        "db_timeline",
        "roomgate_epoch_changes_total",
        "db_transaction_retries_total{class=\"superseded\"}",
        "db_query_duration_seconds{role=\"unknown\"}",
    ];
    let fork = watch.moves(&followed, promoted).await;
    watch.moves(&["db_endpoint_fenced"], async { old.service().resume() }).await;
    let gathered = async { world.cluster().gather(0, fork).await.unwrap() };
    watch.moves(&["db_endpoint_fenced"], gathered).await;

    // Nobody can be claimed, so both stay what they are.
    let new = world.cluster().shards()[0].primary();
    let admin = new.admin().await.unwrap();
    admin.batch_execute("REVOKE INSERT, UPDATE ON directory.shard FROM roomgate").await.unwrap();
    world.replicas_have_caught_up().await;
    let rivals: Vec<&Postgres> = world.cluster().shards()[0].replicas().collect();
    let both = async {
        new.service().kill_for_good().await;
        futures_util::future::join_all(rivals.iter().map(|rival| rival.promote())).await;
    };
    watch.moves(&["db_shard_contested", "db_endpoint_fenced", "db_timeline"], both).await;
    let one = async {
        rivals[1].service().kill_for_good().await;
        let left: Admin = rivals[0].admin().await.unwrap();
        left.batch_execute("GRANT INSERT, UPDATE ON directory.shard TO roomgate").await.unwrap();
    };
    watch.moves(&["db_shard_contested", "db_endpoint_is_primary", "roomgate_epoch_changes_total"], one).await;
    watch.all(FAILOVER);
}

fn server<'a>(world: &'a World, name: &str) -> &'a Postgres {
    world.cluster().shards()[0].servers().iter().find(|server| server.name() == name).unwrap()
}
