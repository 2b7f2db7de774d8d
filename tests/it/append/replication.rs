//! Durability `sync`: what an ack waits for.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roomgate::config::Writes;
use roomgate::dev::Postgres;
use roomgate::log::Outcome;
use roomgate::protocol::Code;

use super::world::{World, message, sync_writes};

#[tokio::test]
async fn sync_without_standby_is_not_acked() {
    let world = World::start().await;
    let writes = Writes { failover_wait: Duration::from_secs(3), ..sync_writes() };
    let (node, room) = (world.node_with(writes).await, world.room().await);
    // `synchronous_commit = on` with nobody to wait for commits like async.
    let rejection = node.submit(message(room, "a", "x")).rejection().await;
    assert_eq!(rejection.refusal.code, Code::ReadOnly);
    assert!(world.log(room).await.is_empty());
}

#[tokio::test]
async fn sync_acks_wait_for_the_standby() {
    let world = World::start().await;
    let room = world.room().await;
    let standby = Postgres::replica(&world.scratch.path().join("a-2"), "a-2", &world.server).await.unwrap();
    world.server.set_synchronous(&["a-2"]).await.unwrap();
    let node = world.node_with(sync_writes()).await;
    node.submit(message(room, "a", "x")).ack().await;
    receiver(&standby, Signal::SIGSTOP).await;
    let pending = node.submit_within(message(room, "b", "x"), Duration::from_secs(3));
    // It is in the primary's log for sure, but on no standby: nobody can tell.
    assert!(pending.answer().await.is_err());
    receiver(&standby, Signal::SIGCONT).await;
    let again = node.submit(message(room, "b", "x")).ack().await;
    assert_eq!(again.position.seq.0, 2);
    let on_standby = standby.admin().await.unwrap();
    // Flushed there; replay follows.
    let seen = async {
        while on_standby.query_one("SELECT count(*) FROM room_event", &[]).await.unwrap().get::<_, i64>(0) < 2
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
}

#[tokio::test]
async fn duplicate_in_sync_waits_for_replication() {
    let world = World::start().await;
    let room = world.room().await;
    let standby = Postgres::replica(&world.scratch.path().join("a-2"), "a-2", &world.server).await.unwrap();
    world.server.set_synchronous(&["a-2"]).await.unwrap();
    let node = world.node_with(sync_writes()).await;
    node.submit(message(room, "first", "x")).ack().await;
    receiver(&standby, Signal::SIGSTOP).await;
    let lost = node.submit_within(message(room, "a", "x"), Duration::from_secs(3));
    // Its wait is cancelled by an operator: PostgreSQL then reports success,
    // with a notice, and shows the row although no standby has it.
    cancel_replication_waits(&world).await;
    assert!(lost.answer().await.is_err(), "the notice is no ack, and the way to know is cut");
    assert_eq!(world.count("room_event").await, 2, "visible on the primary");
    let again = node.submit_within(message(room, "a", "x"), Duration::from_secs(2));
    let again = again.answer().await;
    assert!(!matches!(again, Ok(Outcome::Accepted(_))), "acked off a row that no standby has: {again:?}");
    receiver(&standby, Signal::SIGCONT).await;
    let ack = node.submit(message(room, "a", "x")).ack().await;
    assert_eq!((ack.position.seq.0, ack.duplicate), (2, true));
}

pub async fn cancel_replication_waits(world: &World) {
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while world.admin.query_one(cancel, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Freezes what streams to the standby, or lets it go on.
pub async fn receiver(standby: &Postgres, signal: Signal) {
    let admin = standby.admin().await.unwrap();
    let pid: i32 = admin.query_one("SELECT pid FROM pg_stat_wal_receiver", &[]).await.unwrap().get(0);
    kill(Pid::from_raw(pid), signal).unwrap();
}
