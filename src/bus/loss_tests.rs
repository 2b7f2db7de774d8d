//! On a real Redis that loses keys.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::refusal_tests::Admin;
use super::tests::{Node, World, members_become, room, session};
use super::*;
use crate::ids::UserId;
use crate::limits::Limits;

const MOST: u32 = 30;
const ONE: NonZeroU32 = NonZeroU32::MIN;
/// A lost key is there again in this time.
const HEALED: Duration = Duration::from_secs(6);

fn limits(world: &World, node: &Node) -> Limits {
    let configured = config::Limits { user_submits_per_minute: MOST, ..config::Limits::default() };
    Limits::new(&configured).tallied_by(Arc::new(node.bus.clone()), &world.tasks)
}

fn user() -> UserId {
    UserId::new("ann").unwrap()
}

/// How many of `count` submits pass, in turns on all nodes.
async fn accepted(limits: &[Limits], count: usize) -> usize {
    let mut accepted = 0;
    for number in 0..count {
        if limits[number % limits.len()].user_submits(&user(), ONE).await.is_ok() {
            accepted += 1;
        }
    }
    accepted
}

async fn keys(admin: &Admin) -> Vec<String> {
    admin.ask(&["KEYS", "*"]).await.convert().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_the_gateway_expires() {
    let world = World::new("bus-ttl").await;
    let admin = Admin::of(&world).await;
    let (a, b) = (world.ready(1).await, world.ready(2).await);
    for (number, node) in [&a, &b].into_iter().enumerate() {
        for id in 1..=20 {
            node.bus.presence_enter(room(id), &session(&format!("s{number}")), "x".to_owned());
        }
        accepted(&[limits(&world, node)], 5).await;
        node.bus.tell_revoked().await;
    }
    members_become(&a, room(20), &["x", "x"]).await;
    let ended = Instant::now() + Duration::from_secs(5);
    let mut seen = BTreeSet::new();
    while Instant::now() < ended {
        for key in keys(&admin).await {
            let ttl: i64 = admin.ask(&["TTL", &key]).await.convert().unwrap();
            // It may be gone since it was listed.
            assert!((0..=60).contains(&ttl) || ttl == -2, "{key} expires in {ttl} s");
            seen.insert(key);
        }
    }
    for kind in ["roomgate:nodes", "roomgate:members:20", "roomgate:limit:"] {
        assert!(seen.iter().any(|key| key.starts_with(kind)), "{kind}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_heals_whatever_key_or_field_is_lost() {
    let world = World::new("bus-loss").await;
    let admin = Admin::of(&world).await;
    let (a, b) = (world.ready(1).await, world.ready(2).await);
    a.bus.presence_enter(room(1), &session("anna"), "anna".to_owned());
    a.bus.presence_enter(room(1), &session("bert"), "bert".to_owned());
    b.bus.presence_enter(room(1), &session("cora"), "cora".to_owned());
    let all = ["anna", "bert", "cora"];
    members_become(&b, room(1), &all).await;
    let losses: [&[&str]; 5] = [
        &["DEL", "roomgate:members:1"],
        &["HDEL", "roomgate:members:1", "bert"],
        &["DEL", "roomgate:nodes"],
        &["ZREM", "roomgate:nodes", "0000000000000001"],
        &["FLUSHALL"],
    ];
    for loss in losses {
        admin.ask(loss).await;
        let started = Instant::now();
        let stored = || async { admin.ask(&["HLEN", "roomgate:members:1"]).await.convert::<i64>().unwrap() };
        members_become(&b, room(1), &all).await;
        assert!(started.elapsed() < HEALED, "{loss:?}: {:?}", started.elapsed());
        assert_eq!(stored().await, 3, "{loss:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_entry_is_announced_to_the_other_nodes() {
    let world = World::new("bus-loss-told").await;
    let admin = Admin::of(&world).await;
    let (a, mut b) = (world.ready(1).await, world.ready(2).await);
    b.bus.subscribe(room(1)).await;
    a.bus.presence_enter(room(1), &session("anna"), "anna".to_owned());
    // A new node announces its entries twice. Then only the loss makes a message.
    let two_heartbeats = life::HEARTBEAT * 2;
    while timeout(two_heartbeats, b.message()).await.is_ok() {}
    admin.ask(&["DEL", "roomgate:members:1"]).await;
    assert_eq!(b.message().await, "present");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_over_nodes_and_heal_when_the_count_is_lost() {
    let world = World::new("bus-limits").await;
    let admin = Admin::of(&world).await;
    let nodes = [world.ready(1).await, world.ready(2).await, world.ready(3).await];
    let limits = nodes.each_ref().map(|node| limits(&world, node));
    let half = MOST as usize / 2;
    assert_eq!(accepted(&limits, half).await, half);
    // Past the time in which a count is taken for the same window.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for key in keys(&admin).await {
        admin.ask(&["DEL", &key]).await;
    }
    assert_eq!(half + accepted(&limits, 2 * MOST as usize).await, MOST as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_one_over_all_nodes_however_fast_it_is_used() {
    let world = World::new("bus-limit").await;
    let nodes = [world.ready(1).await, world.ready(2).await, world.ready(3).await];
    let limits = nodes.each_ref().map(|node| limits(&world, node));
    let floods = limits.iter().map(|limits| accepted(std::slice::from_ref(limits), 133));
    let total: usize = futures_util::future::join_all(floods).await.into_iter().sum();
    let most = MOST as usize;
    assert!((most..=most + 1).contains(&total), "{total} of at most {most}");
    let refusal = limits[0].user_submits(&user(), ONE).await.unwrap_err();
    let wait = refusal.retry_after_ms.unwrap();
    assert!((1..=60_001).contains(&wait), "{wait} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_does_not_fit_leaves_the_rest_to_smaller_ones() {
    let world = World::new("bus-batch").await;
    let nodes = [world.ready(1).await, world.ready(2).await];
    let limits = nodes.each_ref().map(|node| limits(&world, node));
    let batch = |count| NonZeroU32::new(count).unwrap();
    limits[0].user_submits(&user(), batch(MOST - 10)).await.unwrap();
    limits[1].user_submits(&user(), batch(11)).await.unwrap_err();
    limits[1].user_submits(&user(), batch(10)).await.unwrap();
    limits[0].user_submits(&user(), ONE).await.unwrap_err();
}
