//! Reads that must contain a position, checked in the snapshot of their rows.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::poll;
use roomgate::config;
use roomgate::ids::RoomId;
use roomgate::placement::ShardIndex;
use roomgate::position::{Epoch, Position, Seq};
use roomgate::protocol::server::ResyncReason;
use roomgate::routing::{Freshness, Reason, ServedBy};
use roomgate::store::history::{EventQuery, Head, PageOutcome, ReadError};

use super::world::{EPOCH, Node, PATIENCE, World, at, eventually, memory, patient_reads, reads, seqs};

/// Replicas qualify however late they are: only the answer can tell.
fn any_age() -> config::Reads {
    config::Reads { max_stale: Duration::from_secs(600), ..patient_reads() }
}

async fn lost(node: &Node, room: RoomId, after: Position) -> ResyncReason {
    match node.history.page(room, after, Freshness::AtLeast(after)).await.unwrap().value {
        PageOutcome::Lost(reason) => reason,
        PageOutcome::Events(page) => panic!("accepted: {page:?}"),
    }
}

#[tokio::test]
async fn a_position_ahead_of_the_replica_is_answered_by_the_primary() {
    let world = World::start(1).await;
    let room = world.room().await;
    let old = world.append(room, 3).await;
    world.replicated().await;
    let node = world.node_with(any_age()).await;
    world.replicas[0].set_replay_paused(true).await.unwrap();
    let new = world.append(room, 2).await;

    let read = node.history.page(room, old, Freshness::AtLeast(new)).await.unwrap();
    assert_eq!(
        (seqs(&read), read.served_by, read.fallback),
        (vec![4, 5], ServedBy::Primary, Some(Reason::Behind))
    );
    let read = node.history.head(room, Freshness::AtLeast(old)).await.unwrap();
    assert_eq!(
        (read.head, read.served_by),
        (old, ServedBy::Replica("a-2".into())),
        "what it has it may tell"
    );
    // One that came from ahead of this replica is not told that it is ahead of
    // the log.
    let read = node.history.page(room, new, Freshness::AtLeast(new)).await.unwrap();
    assert_eq!((seqs(&read), read.head), (vec![], new));
}

#[tokio::test]
async fn a_room_that_the_replica_does_not_have_yet_is_found() {
    let world = World::start(1).await;
    let node = world.node_with(any_age()).await;
    world.replicas[0].set_replay_paused(true).await.unwrap();
    let room = world.room().await;
    let read = node.history.head(room, Freshness::MaxStale(any_age().max_stale)).await.unwrap();
    let head = Head { position: Position::BEGINNING, slot_epoch: Epoch(EPOCH), access_rev: 1 };
    assert_eq!((read.value, read.served_by), (head, ServedBy::Primary));
    let nowhere = node.history.head(RoomId::random(), Freshness::MaxStale(any_age().max_stale)).await;
    assert!(matches!(nowhere, Err(ReadError::RoomUnknown(_))), "{nowhere:?}");
}

#[tokio::test]
async fn positions_that_are_not_in_the_log_are_told_apart() {
    let world = World::start(1).await;
    let room = world.room().await;
    world.append(room, 1200).await;
    world.replicated().await;
    let node = world.node().await;
    let other_epoch = |seq| Position::new(Epoch(EPOCH + 1), Seq(seq));
    for seq in [1, 499, 500, 501, 1000, 1200] {
        assert_eq!(lost(&node, room, other_epoch(seq)).await, ResyncReason::PositionLost, "seq {seq}");
    }
    assert_eq!(lost(&node, room, at(1201)).await, ResyncReason::AheadOfLog);
    assert_eq!(lost(&node, room, at(u64::MAX)).await, ResyncReason::AheadOfLog);
    let beginning = Position::new(Epoch(99), Seq::ZERO);
    let read = node.history.page(room, beginning, Freshness::AtLeast(beginning)).await.unwrap();
    assert_eq!(seqs(&read), (1..=500).collect::<Vec<_>>(), "0 is the beginning in every epoch");

    world.sql(&format!("DELETE FROM room_event WHERE room_id = {room} AND seq <= 700")).await;
    let node = world.node().await;
    assert_eq!(lost(&node, room, at(0)).await, ResyncReason::BelowRetention);
    assert_eq!(lost(&node, room, at(699)).await, ResyncReason::BelowRetention);
    let read = node.history.page(room, at(701), Freshness::AtLeast(at(701))).await.unwrap();
    assert_eq!(seqs(&read), (702..=1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn pages_follow_each_other_to_the_head_whoever_wrote_the_events() {
    let world = World::start(1).await;
    let room = world.room().await;
    world.append(room, 700).await;
    // A failover without loss: later events carry a new epoch, older ones keep theirs.
    world.sql(&format!("UPDATE room_event SET epoch = 5 WHERE room_id = {room} AND seq <= 600")).await;
    world.append(room, 600).await;
    world.replicated().await;
    let node = world.node().await;
    let (mut after, mut seen) = (Position::BEGINNING, Vec::new());
    loop {
        let read = node.history.page(room, after, Freshness::AtLeast(after)).await.unwrap();
        let PageOutcome::Events(page) = read.value else { panic!("lost at {after}") };
        seen.extend(page.events.iter().map(|event| event.position.seq.0));
        after = page.events.last().unwrap().position;
        if after.seq == page.head.seq {
            break;
        }
    }
    assert_eq!(seen, (1..=1300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_snapshot_shows_live_shapes_at_one_position() {
    let world = World::start(1).await;
    let room = world.room().await;
    let head = world.append(room, 9).await;
    let shapes = format!(
        "INSERT INTO shape (room_id, shape_id, version, type, data, deleted, last_seq) VALUES
           ({room}, 'cleared', 1, 'rect', '{{\"id\":\"cleared\"}}', false, 3),
           ({room}, 'deleted', 2, null, null, true, 8),
           ({room}, 'b', 4, 'rect', '{{\"id\":\"b\",\"x\":1e131071}}', false, 7),
           ({room}, 'a', 1, null, '{{\"id\":\"a\"}}', false, 9);
         UPDATE room_head SET cleared_seq = 5, access_rev = 3 WHERE room_id = {room}"
    );
    world.sql(&shapes).await;
    world.replicated().await;
    let node = world.node_with(any_age()).await;
    let read = node.history.snapshot(room, Freshness::AtLeast(head), &mut memory().await).await.unwrap();
    assert_eq!((read.value.position, read.served_by), (head, ServedBy::Replica("a-2".into())));
    let items: Vec<&str> = read.value.shapes.iter().map(AsRef::as_ref).collect();
    let expected =
        [r#"{"version":1,"shape":{"id":"a"}}"#, r#"{"version":4,"shape":{"id":"b","x":1e131071}}"#];
    assert_eq!(items, expected, "as they were sent, ordered by id");
    let asked = [(room, true), (RoomId::random(), true)];
    let (heads, not_owned) = node.history.heads(ShardIndex(0), &asked, any_age().max_stale).await.unwrap();
    assert_eq!((heads.len(), not_owned), (1, vec![]), "a room that is not here, in a slot that is");
    assert_eq!((heads[0].room, heads[0].position, heads[0].access_rev), (room, head, 3));
    let (heads, _) = node.history.heads(ShardIndex(0), &[(room, false)], any_age().max_stale).await.unwrap();
    assert_eq!(heads[0].event, None, "the event was not asked for");
}

#[tokio::test]
async fn filtered_events_come_in_order_and_say_where_to_go_on() {
    let world = World::start(1).await;
    let room = world.room().await;
    world.append(room, 30).await;
    world.replicated().await;
    let node = world.node().await;
    let user = Some(roomgate::ids::UserId::new("u1").unwrap());
    let (mut after, mut seen) = (Seq::ZERO, Vec::new());
    loop {
        let query = EventQuery { after, limit: 4, user: user.clone(), since_ms: Some(0) };
        let read = node.history.events(room, &query, Freshness::AtLeast(at(30))).await.unwrap();
        seen.extend(read.value.events.iter().map(|event| event.position.seq.0));
        match read.value.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(seen, (1..=30).filter(|seq| seq % 3 == 1).collect::<Vec<_>>());
    let read = node.history.log(room, Seq(28), Freshness::Primary).await.unwrap();
    assert_eq!(
        read.value.iter().map(|event| &*event.body).collect::<Vec<_>>(),
        [r#"{"data":29}"#, r#"{"data":30}"#]
    );
    assert_eq!((read.served_by, read.fallback), (ServedBy::Primary, Some(Reason::Asked)));
}

#[tokio::test]
async fn a_room_that_moved_is_read_where_it_went() {
    let (source, destination) = (World::start(1).await, World::bare(0).await);
    let room = source.room().await;
    let head = source.append(room, 5).await;
    source.replicated().await;
    let shards = [("a", source.endpoints()), ("b", destination.endpoints())];
    let node = Node::start(&shards, reads()).await;
    node.sees_all(1).await;
    node.slots.refresh().await;
    assert_eq!(node.history.head(room, Freshness::AtLeast(head)).await.unwrap().head, head);

    super::world::create_room(&destination.admin, room).await;
    destination.append(room, 6).await;
    destination
        .sql("INSERT INTO slot_owner SELECT slot, 9, 'active', null FROM generate_series(0, 16383) AS slot")
        .await;
    source.sql("UPDATE slot_owner SET state = 'moved', moved_to = 'b'").await;
    source.replicated().await;
    let read = node.history.head(room, Freshness::AtLeast(at(6))).await.unwrap();
    assert_eq!((read.head, read.value.slot_epoch), (at(6), Epoch(9)));
    eventually("the map has followed", async || node.slots.owner(room) == Some(ShardIndex(1))).await;
}

#[tokio::test]
async fn a_recovery_conflict_goes_to_the_primary_unseen() {
    use roomgate::db::{Class, Sql};
    static SLOW: Sql = Sql { name: "slow", text: "SELECT pg_sleep(20)::text FROM slot_owner LIMIT 1" };
    let world = World::start(1).await;
    world.replicated().await;
    let replica = world.replicas[0].admin().await.unwrap();
    replica.batch_execute("ALTER SYSTEM SET max_standby_streaming_delay = 0").await.unwrap();
    replica.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let node = world.node_with(any_age()).await;
    let deadline = Instant::now() + PATIENCE;
    let mut route = node.shard().read(Freshness::MaxStale(any_age().max_stale), deadline);
    let target = route.target().await.unwrap();
    assert!(!target.is_primary());
    let lease = target.endpoint().pool().get().await.unwrap();
    let conflict = async {
        let running = "SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(20)%' AND pid <> pg_backend_pid() \
                       AND state = 'active'";
        eventually("it runs", async || !replica.query(running, &[]).await.unwrap().is_empty()).await;
        world.sql("BEGIN; LOCK slot_owner IN ACCESS EXCLUSIVE MODE; SELECT txid_current(); COMMIT").await;
    };
    let (result, ()) = futures_util::future::join(lease.query(&SLOW, &[]), conflict).await;
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Serialization, "{error}");
    assert!(route.failed(target, &error));
    let next = route.target().await.unwrap();
    assert!(next.is_primary());
    assert_eq!(next.fallback, Some(Reason::Behind));
}

#[tokio::test]
async fn who_finds_the_replica_busy_is_served_in_turn_and_at_last_by_the_primary_within_its_cap() {
    let patient = config::Reads { replica_wait: Duration::from_secs(2), primary_cap: 2, ..any_age() };
    let world = World::start(1).await;
    world.replicated().await;
    let node = world.node_with(patient).await;
    let shard = node.shard();
    let target = async |patience: Duration| {
        let mut route = shard.read(Freshness::MaxStale(any_age().max_stale), Instant::now() + patience);
        route.target().await
    };
    let replica = target(PATIENCE).await.unwrap().endpoint().clone();
    let mut all = Vec::new();
    for _ in 0..replica.capacity() {
        all.push(target(PATIENCE).await.unwrap());
    }
    assert!(all.iter().all(|target| !target.is_primary()), "a connection each");

    let (mut first, mut second) = (pin!(target(PATIENCE)), pin!(target(PATIENCE)));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    all.pop();
    let mut late = pin!(target(PATIENCE));
    assert!(poll!(&mut late).is_pending(), "the free place is taken already");
    let served = first.await.unwrap();
    assert!(!served.is_primary() && poll!(&mut second).is_pending(), "one place, for who came first");
    drop(served);
    let served = second.await.unwrap();
    assert!(!served.is_primary());
    drop(served);
    all.push(late.await.unwrap());

    let (one, two) = futures_util::future::join(target(PATIENCE), target(PATIENCE)).await;
    let (one, two) = (one.unwrap(), two.unwrap());
    for target in [&one, &two] {
        assert_eq!((target.is_primary(), target.fallback), (true, Some(Reason::Saturated)));
    }
    let refused = target(Duration::from_secs(3)).await.map(|target| target.is_primary());
    assert_eq!(refused.unwrap_err().reason, Reason::Saturated, "two are as many as the primary takes");
    drop(one);
    assert!(target(PATIENCE).await.unwrap().is_primary());
}
