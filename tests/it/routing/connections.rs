//! Which connections are used again, and how long one is waited for.

use std::time::Duration;

use futures_util::poll;
use roomgate::config;
use roomgate::db::{Class, Lease, Pool, SessionSettings, Sql};
use roomgate::metrics::EndpointMetrics;
use roomgate::routing::Standing;
use roomgate::tasks::Tasks;
use serde_json::json;
use tokio::net::TcpListener;

use super::world::{PATIENCE, World, eventually};

static PID: Sql = Sql { name: "pid", text: "SELECT pg_backend_pid()" };
static SLOW: Sql = Sql { name: "slow", text: "SELECT pg_sleep(20)::text" };

async fn pid(lease: &Lease) -> i32 {
    lease.query_one(&PID, &[]).await.unwrap().get(0)
}

/// Of every connection that the pool hands out now.
async fn pids(pool: &Pool) -> Vec<i32> {
    let mut leases = Vec::new();
    for _ in 0..config::Pool::default().max_connections {
        leases.push(pool.get().await.unwrap());
    }
    futures_util::future::join_all(leases.iter().map(pid)).await
}

/// A frozen server keeps its connections, and ends no statement at its time.
#[tokio::test]
async fn a_statement_on_a_frozen_server_is_given_up_with_its_connection() {
    let world = World::start(0).await;
    let node = world.node().await;
    let lease = node.shard().endpoints()[0].pool().get().await.unwrap();
    world.primary.service().pause();
    let begun = tokio::time::timeout(PATIENCE, lease.begin()).await.expect("it is given up");
    world.primary.service().resume();
    assert_eq!(begun.unwrap_err().class(), Class::Connection);
    assert!(lease.is_broken());
}

#[tokio::test]
async fn a_connection_whose_statement_or_transaction_was_abandoned_is_not_used_again() {
    let world = World::start(0).await;
    let node = world.node().await;
    let pool = node.shard().endpoints()[0].pool().clone();

    let lease = pool.get().await.unwrap();
    let cancelled = pid(&lease).await;
    {
        let mut running = Box::pin(lease.query(&SLOW, &[]));
        let active =
            format!("SELECT FROM pg_stat_activity WHERE pid = {cancelled} AND query = '{}'", SLOW.text);
        eventually("it runs", async || {
            poll!(&mut running).is_pending() && !world.admin.query(&active, &[]).await.unwrap().is_empty()
        })
        .await;
    }
    assert!(lease.is_broken());
    drop(lease);

    let lease = pool.get().await.unwrap();
    let left_open = pid(&lease).await;
    lease.begin().await.unwrap();
    drop(lease);

    let lease = pool.get().await.unwrap();
    let ended_well = pid(&lease).await;
    lease.begin().await.unwrap();
    lease.rollback().await.unwrap();
    drop(lease);

    let used = pids(&pool).await;
    assert!(!used.contains(&cancelled) && !used.contains(&left_open), "{used:?}");
    assert!(used.contains(&ended_well), "it was put back in order");
}

#[tokio::test]
async fn connections_from_before_a_change_of_role_are_not_used_again() {
    let world = World::start(1).await;
    let node = world.node().await;
    let replica = &node.shard().endpoints()[1];
    let before = pids(replica.pool()).await;
    world.primary.service().kill_for_good().await;
    world.replicas[0].promote().await.unwrap();
    eventually("its new role is seen", async || {
        matches!(node.shard().known().facts[1].standing, Standing::Unclaimed | Standing::Primary)
    })
    .await;
    let after = pids(replica.pool()).await;
    assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?}, {after:?}");
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up_in_time_and_named() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let endpoint = json!({"name": "a-1", "host": "127.0.0.1", "port": port, "database": "d", "user": "u"});
    let endpoint: config::Endpoint = serde_json::from_value(endpoint).unwrap();
    let settings = SessionSettings {
        application_name: "test".to_owned(),
        connect_timeout: Duration::from_millis(200),
        statement_timeout: Duration::from_secs(5),
        lock_timeout: Duration::from_secs(1),
        search_path: "public",
    };
    let limits = config::Pool { acquire_timeout: Duration::from_secs(1), min_idle: 0, ..Default::default() };
    let metrics = EndpointMetrics::new("a", "a-1");
    let pool = Pool::new(&endpoint, &limits, settings, &[], metrics, &Tasks::new());
    let error = tokio::time::timeout(PATIENCE, pool.get()).await.unwrap().map(drop).unwrap_err();
    assert_eq!(error.class(), Class::Connection, "{error}");
    assert!(error.to_string().contains("no connection to a-1 in 200ms"), "{error}");
}
