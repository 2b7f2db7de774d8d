//! Many readers, few readings.

use roomgate::routing::Freshness;

use super::world::{World, at, seqs};

#[tokio::test]
async fn a_crowd_that_resumes_costs_readings_per_room_not_per_client() {
    let world = World::start(1).await;
    let room = world.room().await;
    let head = world.append(room, 1700).await;
    world.replicated().await;
    let node = world.node().await;
    if world.admin.query("SELECT FROM pg_stat_statements LIMIT 1", &[]).await.is_err() {
        panic!("pg_stat_statements is needed to count readings");
    }
    let resume = |from: u64| {
        let history = node.history.clone();
        async move {
            let mut after = at(from);
            while after != head {
                let read = history.page(room, after, Freshness::AtLeast(after)).await.unwrap();
                let seqs = seqs(&read);
                assert_eq!(seqs.first(), Some(&(after.seq.0 + 1)));
                after = at(*seqs.last().unwrap());
            }
        }
    };
    futures_util::future::join_all((0..200).map(|client| resume(client * 8))).await;
    let count =
        "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query LIKE '%AS event ON %'";
    let mut readings = 0;
    for server in [&world.primary, &world.replicas[0]] {
        readings += server.admin().await.unwrap().query_one(count, &[]).await.unwrap().get::<_, i64>(0);
    }
    assert!((4..=12).contains(&readings), "{readings} readings for 200 clients and 4 pages");
}

#[tokio::test]
async fn a_shared_page_is_never_older_than_its_reader_asked_for() {
    let world = World::start(1).await;
    let room = world.room().await;
    world.append(room, 10).await;
    world.replicated().await;
    let node = world.node().await;
    for _ in 0..50 {
        let new = world.append(room, 20).await;
        let readers = (0..4).map(|back| {
            let after = at(new.seq.0 - 15 - back);
            node.history.page(room, after, Freshness::AtLeast(new))
        });
        for read in futures_util::future::join_all(readers).await {
            let read = read.unwrap();
            let seqs = seqs(&read);
            let page_end = seqs.last().is_some_and(|last| last % 500 == 0);
            assert!(page_end || seqs.last() == Some(&new.seq.0), "{seqs:?} for {new}");
        }
    }
}
