//! Who may be written to, and who is handed which slots.

use std::time::Instant;

use futures_util::future::join_all;
use roomgate::dev::Postgres;
use roomgate::ids::RoomId;
use roomgate::routing::{Fence, Freshness, Standing};
use roomgate::store::topology;

use super::world::{Node, PATIENCE, World, at, eventually, patient_reads, reads};
use crate::world::waits_again;

async fn owned(world: &World) -> Vec<(i32, i64)> {
    let rows =
        world.admin.query("SELECT slot, epoch FROM slot_owner WHERE state = 'active' ORDER BY slot", &[]);
    rows.await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn open(node: &Node) -> Result<(), String> {
    node.topology().open(Instant::now() + PATIENCE).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn slots_are_handed_out_once_however_many_nodes_begin() {
    let (a, b) = (World::bare(0).await, World::bare(0).await);
    let shards = [("a", a.endpoints()), ("b", b.endpoints())];
    let nodes = join_all((0..3).map(|_| Node::start(&shards, patient_reads()))).await;
    for result in join_all(nodes.iter().map(open)).await {
        result.unwrap();
    }
    let (of_a, of_b) = (owned(&a).await, owned(&b).await);
    assert_eq!(of_a.len() + of_b.len(), 16384);
    assert!(
        of_a.iter().all(|(slot, _)| of_b.iter().all(|(other, _)| other != slot)),
        "no slot has two owners"
    );
    assert!(of_a.len() > 7000 && of_b.len() > 7000);
    for node in &nodes {
        assert!((0..100).all(|_| node.slots.owner(RoomId::random()).is_some()));
    }
    // What exists is left alone from then on, even if it looks unowned.
    b.sql("DELETE FROM slot_owner").await;
    open(&nodes[0]).await.unwrap();
    assert_eq!((owned(&a).await, owned(&b).await), (of_a, vec![]));
}

#[tokio::test]
async fn a_beginning_that_was_cut_short_is_finished() {
    let world = World::bare(0).await;
    let begun = "INSERT INTO slot_owner SELECT slot, 3, 'active', null FROM generate_series(0, 99) AS slot;
                 INSERT INTO shard_claim (shard, timeline, system_id)
                   SELECT 'a', 1, system_identifier FROM pg_control_system()";
    world.sql(begun).await;
    let node = Node::start(&[("a", world.endpoints())], reads()).await;
    open(&node).await.unwrap();
    let owned = owned(&world).await;
    assert_eq!(owned.len(), 16384);
    assert!(owned[..100].iter().all(|(_, epoch)| *epoch == 3), "what was handed out stays");
}

#[tokio::test]
async fn a_primary_of_a_lower_timeline_than_the_claim_is_never_offered() {
    let world = World::bare(0).await;
    let node = Node::start(&[("a", world.endpoints())], reads()).await;
    open(&node).await.unwrap();
    world.sql("UPDATE directory.shard SET timeline = 5").await;
    let restarted = Node::start(&[("a", world.endpoints())], reads()).await;
    open(&restarted).await.unwrap();
    eventually("it is fenced off", async || {
        restarted.standing("a-1") == Standing::Fenced(Fence::OldTimeline)
    })
    .await;
    assert!(restarted.shard().primary_now().is_none());
    let claim: i32 = world.admin.query_one("SELECT timeline FROM shard_claim", &[]).await.unwrap().get(0);
    assert_eq!(claim, 1, "nothing was written to it");
}

#[tokio::test]
async fn another_shards_database_is_refused() {
    let world = World::bare(0).await;
    open(&Node::start(&[("a", world.endpoints())], reads()).await).await.unwrap();
    world.sql("DELETE FROM directory.shard").await;
    let wrong = open(&Node::start(&[("b", world.endpoints())], reads()).await).await.unwrap_err();
    assert!(wrong.contains("belongs to shard a"), "{wrong}");
}

/// The whole way: kill, promote, claim with new epochs, and the old primary
/// comes back.
#[tokio::test]
async fn a_promoted_replica_is_claimed_and_the_old_primary_fenced_off() {
    let (directory, world) = (World::bare(0).await, World::bare(1).await);
    let shards = [("a", world.endpoints())];
    let mut node = Node::start(&shards, reads()).await;
    // A directory of its own, which outlives the shard's primary.
    let elsewhere = Node::start(&[("d", directory.endpoints())], reads()).await;
    node.directory = elsewhere.directory.clone();
    open(&node).await.unwrap();
    node.sees_all(1).await;
    node.topology().keep_claims(&node.tasks);
    let room = world.room().await;
    let before = owned(&world).await[0].1;
    let head = world.append(room, 2).await;
    world.replicated().await;

    world.primary.service().kill().await;
    let old = node.shard().endpoints()[0].clone();
    node.shard().suspect(&old);
    assert!(node.shard().primary_now().is_none(), "doubted at once");
    let read = node.history.head(room, Freshness::AtLeast(head)).await.unwrap();
    assert_eq!(read.head, head, "a read that proves itself needs no primary");

    let promoted = world.replicas[0].admin().await.unwrap();
    promoted.batch_execute("SELECT pg_promote()").await.unwrap();
    let primary = node.shard().primary(Instant::now() + PATIENCE).await.unwrap();
    assert_eq!(primary.name(), "a-2");
    eventually("its claim is on it, with new epochs", async || {
        let row = "SELECT (SELECT timeline FROM shard_claim), min(epoch) FROM slot_owner";
        let row = promoted.query_one(row, &[]).await.unwrap();
        row.get::<_, i32>(0) == 2 && row.get::<_, i64>(1) > before
    })
    .await;

    // The dead one comes back as if nothing had happened.
    world.primary.service().restart().await.unwrap();
    eventually("it is fenced off", async || node.standing("a-1") == Standing::Fenced(Fence::OldTimeline))
        .await;
    assert_eq!(node.shard().primary_now().unwrap().name(), "a-2");
    let fresh = Node::start(&shards, reads()).await;
    eventually("a node that knows nothing sees it too", async || {
        fresh.standing("a-1") == Standing::Fenced(Fence::OldTimeline)
    })
    .await;
    let read = node.history.page(room, at(0), Freshness::Primary).await.unwrap();
    assert_eq!(read.head, head, "older events keep their epoch, and their positions");
}

/// As nodes do that claim it in the same moment, and whose commits are slow.
#[tokio::test]
async fn who_promotes_by_hand_waits_for_whoever_claims_it_at_the_same_time() {
    let (directory, world) = (World::bare(0).await, World::bare(1).await);
    let mut node = Node::start(&[("a", world.endpoints())], reads()).await;
    let elsewhere = Node::start(&[("d", directory.endpoints())], reads()).await;
    node.directory = elsewhere.directory.clone();
    open(&node).await.unwrap();
    node.sees_all(1).await;
    world.replicated().await;
    world.primary.service().kill().await;
    let promoted = world.replicas[0].admin().await.unwrap();
    promoted.batch_execute("SELECT pg_promote()").await.unwrap();

    promoted.batch_execute("BEGIN; LOCK TABLE shard_claim IN EXCLUSIVE MODE").await.unwrap();
    let looks = world.replicas[0].admin().await.unwrap();
    let candidate = node.shard().endpoints()[1].clone();
    let claimed =
        topology::claim_promoted(&node.directory, node.shard(), &candidate, Instant::now() + PATIENCE);
    let commits_late = async {
        waits_again(&looks, "relation = 'shard_claim'::regclass").await;
        promoted.batch_execute("COMMIT").await.unwrap();
    };
    let (claimed, ()) = tokio::join!(claimed, commits_late);
    claimed.unwrap();
    let claim = looks.query_one("SELECT timeline FROM shard_claim", &[]).await.unwrap();
    assert_eq!(claim.get::<_, i32>(0), 2);
}

/// Two standbys promoted side by side get the same timeline. Whoever was seen
/// alone for a moment is claimed, else nobody; nodes agree on it.
#[tokio::test]
async fn of_two_promoted_replicas_at_most_one_is_claimed_and_every_node_knows_which() {
    let Rivals { nodes, .. } = &promoted_twice(2).await;
    nodes.iter().for_each(|node| node.topology().keep_claims(&node.tasks));
    let first = nodes[0].shard().primary(Instant::now() + PATIENCE).await;
    match first {
        Ok(primary) => {
            let other = nodes[1].shard().primary(Instant::now() + PATIENCE).await.unwrap();
            assert_eq!(primary.name(), other.name());
        }
        Err(_) => {
            for name in ["a-2", "a-3"] {
                assert_eq!(nodes[0].standing(name), Standing::Fenced(Fence::SameTimeline));
            }
        }
    }
}

/// A node that saw both at once learns from the directory what another decided
/// that had seen one of them first.
#[tokio::test]
async fn a_claim_decides_between_two_promoted_replicas_also_for_a_node_that_saw_both() {
    let Rivals { directory, world, nodes, .. } = &promoted_twice(1).await;
    let node = &nodes[0];
    eventually("both are fenced off", async || {
        ["a-2", "a-3"].iter().all(|name| node.standing(name) == Standing::Fenced(Fence::SameTimeline))
    })
    .await;
    node.topology().keep_claims(&node.tasks);
    directory.sql("UPDATE directory.shard SET timeline = 2, endpoint = 'a-3' WHERE name = 'a'").await;
    let primary = node.shard().primary(Instant::now() + PATIENCE).await.unwrap();
    assert_eq!(primary.name(), "a-3");
    assert_eq!(node.standing("a-2"), Standing::Fenced(Fence::SameTimeline));
    let claimed = world.replicas[1].admin().await.unwrap();
    eventually("the claim is on it", async || {
        let row = claimed.query_one("SELECT timeline FROM shard_claim", &[]).await.unwrap();
        row.get::<_, i32>(0) == 2
    })
    .await;
}

/// A shard whose primary died and whose two replicas were both promoted, nodes
/// that knew it before, and a directory that outlives it.
struct Rivals {
    directory: World,
    _elsewhere: Node,
    world: World,
    nodes: Vec<Node>,
}

async fn promoted_twice(count: usize) -> Rivals {
    let (directory, world) = (World::bare(0).await, World::bare(2).await);
    let shards = [("a", world.endpoints())];
    let elsewhere = Node::start(&[("d", directory.endpoints())], reads()).await;
    let mut nodes = join_all((0..count).map(|_| Node::start(&shards, reads()))).await;
    for node in &mut nodes {
        node.directory = elsewhere.directory.clone();
        open(node).await.unwrap();
        node.sees_all(2).await;
    }
    world.primary.service().kill().await;
    join_all(world.replicas.iter().map(|replica: &Postgres| async {
        replica.admin().await.unwrap().batch_execute("SELECT pg_promote()").await.unwrap();
    }))
    .await;
    Rivals { directory, _elsewhere: elsewhere, world, nodes }
}
