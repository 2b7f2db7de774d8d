//! A node that starts while something is wrong.

use std::time::Duration;

use roomgate::dev::{Api, Options, connect};

use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_node_that_learns_of_no_slot_at_its_start_asks_again() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 0, ..options }).await;
    let node = &world.cluster().nodes()[0];
    node.service().stop().await;
    let admin = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    admin.batch_execute("UPDATE slot_owner SET state = 'importing'").await.unwrap();
    let health = Api::new(&node.admin_url());
    let status = async |path: &str| health.get(path).await.map(|answer| answer.status.as_u16());
    let heal = async {
        while status("/health/live").await.ok() != Some(200) {
            tokio::task::yield_now().await;
        }
        assert_eq!(status("/health/ready").await.unwrap(), 503, "it knows no slot");
        admin.batch_execute("UPDATE slot_owner SET state = 'active'").await.unwrap();
    };
    let started = async { tokio::join!(node.service().restart(), heal) };
    tokio::time::timeout(PATIENCE, started).await.expect("the node becomes ready").0.unwrap();
}
