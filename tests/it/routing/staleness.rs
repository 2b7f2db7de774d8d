//! Replicas are read while they are fresh, and only then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use roomgate::config;
use roomgate::ids::RoomId;
use roomgate::routing::{Freshness, Reason, ServedBy, Standing};

use super::world::{Node, PATIENCE, World, eventually, patient_reads, reads};
use crate::stopwatch::Stopwatch;

async fn served(node: &Node, room: RoomId, bound: Duration) -> (ServedBy, Option<Reason>) {
    let read = node.history.head(room, Freshness::MaxStale(bound)).await.unwrap();
    (read.served_by, read.fallback)
}

async fn falls_back(node: &Node, room: RoomId, why: Reason) {
    eventually("the primary takes over", async || {
        served(node, room, reads().max_stale).await == (ServedBy::Primary, Some(why))
    })
    .await;
}

async fn is_back(node: &Node, room: RoomId) {
    eventually("the replica is read again", async || {
        served(node, room, reads().max_stale).await == (ServedBy::Replica("a-2".into()), None)
    })
    .await;
}

#[tokio::test]
async fn an_idle_replica_is_not_called_late() {
    let world = World::start(1).await;
    let room = world.room().await;
    world.replicated().await;
    let watch = Stopwatch::start();
    let bound = || reads().max_stale + watch.stood_still();
    let node = world.node_with(patient_reads()).await;
    let admin = world.replicas[0].admin().await.unwrap();
    let by_clock = "SELECT extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8";
    let mut known = node.shard().watch_known();
    loop {
        known.changed().await.unwrap();
        let facts = known.borrow_and_update().facts[1].clone();
        assert_eq!(facts.standing, Standing::Replica);
        let staleness = facts.staleness(Instant::now()).unwrap();
        assert!(staleness < bound(), "{staleness:?}");
        let clock: f64 = admin.query_one(by_clock, &[]).await.unwrap().get(0);
        if clock > 1.5 {
            break;
        }
    }
    assert_eq!(served(&node, room, bound()).await, (ServedBy::Replica("a-2".into()), None));
}

#[tokio::test]
async fn a_replica_whose_replay_is_paused_is_left_with_a_reason_and_taken_back() {
    let world = World::start(1).await;
    let room = world.room().await;
    world.replicated().await;
    let node = world.node().await;
    is_back(&node, room).await;
    world.replicas[0].set_replay_paused(true).await.unwrap();
    world.append(room, 1).await;
    falls_back(&node, room, Reason::Stale).await;
    let lag = node.shard().known().facts[1].lag_bytes.unwrap();
    assert!(lag > 0, "the lag is told in bytes as well");
    world.replicas[0].set_replay_paused(false).await.unwrap();
    is_back(&node, room).await;
}

#[tokio::test]
async fn a_replica_whose_receiver_is_gone_is_not_called_fresh() {
    let world = World::start(1).await;
    let room = world.room().await;
    world.replicated().await;
    let node = world.node().await;
    is_back(&node, room).await;
    // One after the other: the receiver comes back at once, and must find the door shut.
    world.sql("ALTER ROLE replicator NOLOGIN").await;
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
    let replica = world.replicas[0].admin().await.unwrap();
    eventually("the receiver is gone", async || {
        replica.query("SELECT FROM pg_stat_wal_receiver", &[]).await.unwrap().is_empty()
    })
    .await;
    world.append(room, 1).await;
    falls_back(&node, room, Reason::Stale).await;
    world.sql("ALTER ROLE replicator LOGIN").await;
    is_back(&node, room).await;
}

/// Commits all the time while replay stops and goes on; whatever a read with a
/// bound returns contains everything that was committed before that.
#[tokio::test]
async fn no_answer_is_older_than_its_bound() {
    let world = World::start(1).await;
    let room = world.room().await;
    world.replicated().await;
    let node = world.node().await;
    let bound = Duration::from_millis(300);
    let mut commits: Vec<(Instant, u64)> = Vec::new();
    let (mut from_replica, mut from_primary) = (0, 0);
    for round in 0..400 {
        if round % 100 == 20 {
            world.replicas[0].set_replay_paused(true).await.unwrap();
        } else if round % 100 == 90 {
            world.replicas[0].set_replay_paused(false).await.unwrap();
        }
        let head = world.append(room, 1).await;
        commits.push((Instant::now(), head.seq.0));
        let asked = Instant::now();
        let read = node.history.head(room, Freshness::MaxStale(bound)).await.unwrap();
        let must_have = commits.iter().rev().find(|(at, _)| *at + bound < asked).map_or(0, |(_, seq)| *seq);
        assert!(read.head.seq.0 >= must_have, "{} of {must_have} by {}", read.head, read.served_by);
        match read.served_by {
            ServedBy::Replica(_) => from_replica += 1,
            _ => from_primary += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(from_replica > 50 && from_primary > 5, "{from_replica} {from_primary}: both were tried");
}

/// As writers do.
#[tokio::test]
async fn who_reads_where_there_is_no_primary_waits_for_one_until_the_deadline() {
    let world = World::start(0).await;
    let node = world.node().await;
    let shard = node.shard();
    let read = async |patience: Duration| {
        let target = shard.read(Freshness::Primary, Instant::now() + patience).target().await;
        target.map(|target| target.is_primary())
    };
    world.primary.service().kill().await;
    eventually("it is seen to be gone", async || shard.primary_now().is_none()).await;
    let (asked, patience) = (Instant::now(), Duration::from_secs(2));
    read(patience).await.unwrap_err();
    assert!(asked.elapsed() >= patience, "refused after {:?}", asked.elapsed());

    let restarted = async { world.primary.service().restart().await.unwrap() };
    let (read, ()) = join(read(PATIENCE), restarted).await;
    assert!(read.unwrap());
}

#[tokio::test]
async fn of_those_who_wait_for_a_primary_more_than_so_many_are_told_at_once() {
    let world = World::start(0).await;
    let node = world.node_with(config::Reads { primary_cap: 1, ..reads() }).await;
    let shard = node.shard();
    world.primary.service().kill().await;
    eventually("it is seen to be gone", async || shard.primary_now().is_none()).await;
    let told = AtomicUsize::new(0);
    let read = async |_: usize| {
        let target = shard.read(Freshness::Primary, Instant::now() + PATIENCE).target().await;
        if target.is_err() {
            told.fetch_add(1, Ordering::Relaxed);
        }
        target.is_ok()
    };
    let reads = join_all((0..40).map(read));
    let restarted = async {
        eventually("eight are told", async || told.load(Ordering::Relaxed) == 8).await;
        world.primary.service().restart().await.unwrap();
    };
    let (served, ()) = join(reads, restarted).await;
    assert_eq!(served.iter().filter(|served| **served).count(), 32);
}

#[tokio::test]
async fn reads_survive_the_death_of_every_replica() {
    let world = World::start(1).await;
    let room = world.room().await;
    let node = world.node().await;
    world.replicas[0].service().kill().await;
    for _ in 0..50 {
        node.history.head(room, Freshness::MaxStale(reads().max_stale)).await.unwrap();
    }
    falls_back(&node, room, Reason::Down).await;
}
