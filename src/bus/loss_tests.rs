//! On a real Redis that loses keys.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::refusal_tests::Admin;
use super::tests::{World, members_become, room, session};
use crate::limits::Tally;

/// A lost key is there again in this time.
const HEALED: Duration = Duration::from_secs(6);

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
        node.bus.count("ann", 1, Duration::from_secs(60)).await.unwrap();
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
    assert_eq!(b.message().await, "present");
    admin.ask(&["DEL", "roomgate:members:1"]).await;
    // Of another room, so that only the loss makes the next message.
    assert_eq!(b.message().await, "present");
}
