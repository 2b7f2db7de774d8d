//! What is accepted, rejected and known again.

use std::time::Duration;

use roomgate::config::Writes;
use roomgate::log::Authority;
use roomgate::protocol::{Code, Version};

use super::world::{World, add, clear, delete, message, poison, put, update, user, writes};

#[tokio::test]
async fn ack_is_sent_only_after_commit() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    // Whoever hears the ack finds the event, from any connection.
    for n in 1..=50 {
        let ack = node.submit(message(room, &format!("op{n}"), "hello")).ack().await;
        assert_eq!((ack.position.seq.0, ack.position.epoch.0), (n, 7));
        assert_eq!(world.log(room).await.len() as u64, n);
    }
    // Each was announced before it was answered.
    assert_eq!(node.heard.log_of(room).len(), 50);
}

#[tokio::test]
async fn same_op_returns_the_original_seq() {
    let world = World::start().await;
    let (first, second, room) = (world.node().await, world.node().await, world.room().await);
    let original = first.submit(put(room, "a", "s", 1)).ack().await;
    first.submit(put(room, "b", "s", 2)).ack().await;
    for node in [&first, &second] {
        let again = node.submit(put(room, "a", "s", 1)).ack().await;
        assert!(again.duplicate);
        assert_eq!((again.position, again.version), (original.position, original.version));
    }
    // The same op by another user is another op.
    let other = roomgate::log::Submit { user: user("bob"), ..put(room, "a", "s", 3) };
    assert_eq!(first.submit(other).ack().await.position.seq.0, 3);
    assert_eq!(world.log(room).await.len(), 3);
    assert!(second.heard.log_of(room).is_empty(), "a duplicate is not announced again");
}

#[tokio::test]
async fn same_op_in_one_batch_has_one_effect() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    let pending: Vec<_> = (0..50).map(|_| node.submit(put(room, "same", "s", 1))).collect();
    let mut originals = 0;
    for pending in pending {
        let ack = pending.ack().await;
        assert_eq!(ack.position.seq.0, 1);
        originals += usize::from(!ack.duplicate);
    }
    assert_eq!(originals, 1);
    assert_eq!(world.log(room).await.len(), 1);
}

#[tokio::test]
async fn same_op_with_another_body_is_op_reused() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    node.submit(put(room, "a", "s", 1)).ack().await;
    let rejection = node.submit(put(room, "a", "s", 2)).rejection().await;
    assert_eq!(rejection.refusal.code, Code::OpReused);
    assert_eq!(world.log(room).await.len(), 1);
}

#[tokio::test]
async fn shapes_keep_their_versions_between_transactions() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    assert_eq!(node.submit(add(room, "1", "s")).ack().await.version, Some(Version(1)));
    assert_eq!(node.submit(update(room, "2", "s", Some(1), 5)).ack().await.version, Some(Version(2)));
    let stale = node.submit(update(room, "3", "s", Some(1), 6)).rejection().await;
    assert_eq!(stale.refusal.code, Code::VersionConflict);
    let current = stale.current.unwrap();
    assert_eq!(current.version, Version(2));
    assert_eq!(&*current.shape.unwrap(), r#"{"id":"s","type":"rect","x":5}"#);
    assert_eq!(node.submit(delete(room, "4", "s")).ack().await.version, Some(Version(3)));
    assert_eq!(
        node.submit(update(room, "5", "s", None, 1)).rejection().await.refusal.code,
        Code::ShapeDeleted
    );
    assert_eq!(
        node.submit(update(room, "6", "t", None, 1)).rejection().await.refusal.code,
        Code::ShapeUnknown
    );
    node.submit(put(room, "7", "a", 1)).ack().await;
    node.submit(put(room, "8", "b", 1)).ack().await;
    assert_eq!(node.submit(clear(room, "9")).ack().await.cleared, Some(2));
    assert_eq!(node.submit(put(room, "10", "a", 2)).rejection().await.refusal.code, Code::ShapeDeleted);
    let live: i64 = world.admin.query_one("SELECT live_shapes FROM room_head", &[]).await.unwrap().get(0);
    assert_eq!(live, 0);
}

#[tokio::test]
async fn roles_decide_who_may_write() {
    let world = World::start().await;
    let node = world.node().await;
    let as_user =
        |room, name: &str, op: &str| roomgate::log::Submit { user: user(name), ..message(room, op, "x") };
    let invite = world.room_with("invite", "editor").await;
    let member = "INSERT INTO room_member (room_id, user_id, role) VALUES ($1, $2, $3)";
    for (name, role) in [("ed", "editor"), ("vi", "viewer"), ("gone", "removed")] {
        world.admin.execute(member, &[&invite.as_i64(), &name, &role]).await.unwrap();
    }
    for name in ["olga", "ed"] {
        node.submit(as_user(invite, name, name)).ack().await;
    }
    for name in ["vi", "gone", "stranger"] {
        let rejection = node.submit(as_user(invite, name, name)).rejection().await;
        assert_eq!(rejection.refusal.code, Code::Forbidden, "{name}");
    }
    let public = world.room_with("public", "editor").await;
    node.submit(as_user(public, "stranger", "s1")).ack().await;
    world.admin.execute(member, &[&public.as_i64(), &"stranger", &"removed"]).await.unwrap();
    assert_eq!(
        node.submit(as_user(public, "stranger", "s2")).rejection().await.refusal.code,
        Code::Forbidden
    );
    let by_server = roomgate::log::Submit { authority: Authority::Server, ..as_user(invite, "bot", "b") };
    node.submit(by_server).ack().await;
}

#[tokio::test]
async fn unknown_and_archived_rooms_are_named() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    let nowhere = roomgate::ids::RoomId::random();
    assert_eq!(node.submit(message(nowhere, "a", "x")).rejection().await.refusal.code, Code::RoomUnknown);
    world.sql("UPDATE room SET archived_at = now()").await;
    assert_eq!(node.submit(message(room, "a", "x")).rejection().await.refusal.code, Code::RoomArchived);
    assert_eq!(world.count("room_event").await, 0);
}

#[tokio::test]
async fn poison_item_is_refused_alone() {
    let world = World::start().await;
    // One lane, so that the poison shares its batch with everything else.
    let node = world.node_with(Writes { lanes: 1, ..writes() }).await;
    let rooms = world.rooms(5).await;
    let mut pending = Vec::new();
    for n in 0..100 {
        let room = rooms[n % rooms.len()];
        let op = format!("op{n}");
        let submit = if n == 41 || n == 42 { poison(room, &op) } else { put(room, &op, &format!("s{n}"), 1) };
        pending.push((n, node.submit(submit)));
    }
    for (n, pending) in pending {
        if n == 41 || n == 42 {
            assert_eq!(pending.rejection().await.refusal.code, Code::Internal);
        } else {
            pending.ack().await;
        }
    }
    for (r, room) in rooms.iter().enumerate() {
        let ops: Vec<String> = world.log(*room).await.into_iter().map(|(_, op)| op).collect();
        let sent: Vec<String> =
            (r..100).step_by(5).filter(|n| *n != 41 && *n != 42).map(|n| format!("op{n}")).collect();
        assert_eq!(ops, sent, "in the order of sending");
    }
}

#[tokio::test]
async fn nothing_is_acked_when_a_statement_fails() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    // Every statement but this one succeeds, COMMIT included.
    world
        .sql(
            "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '23514'; END $$;
             CREATE TRIGGER fails BEFORE UPDATE ON room_head FOR EACH ROW EXECUTE FUNCTION fails();",
        )
        .await;
    assert_eq!(node.submit(message(room, "a", "x")).rejection().await.refusal.code, Code::Internal);
    assert_eq!(world.count("room_event").await, 0);
    assert!(node.heard.announced.lock().unwrap().is_empty());
    world.sql("DROP TRIGGER fails ON room_head").await;
    assert_eq!(node.submit(message(room, "a", "x")).ack().await.position.seq.0, 1);
}

#[tokio::test]
async fn answers_keep_the_order_of_a_rooms_submits() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    let pending: Vec<_> = (0..1000).map(|n| node.submit(message(room, &format!("op{n}"), "x"))).collect();
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.ack().await.position.seq.0, n as u64 + 1);
    }
    let sent: Vec<String> = (0..1000).map(|n| format!("op{n}")).collect();
    assert_eq!(*node.heard.answers.lock().unwrap(), sent);
    let announced: Vec<u64> = node.heard.by_room()[&room].iter().map(|(seq, _)| *seq).collect();
    assert_eq!(announced, (1..=1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_lane_refuses_at_once() {
    let world = World::start().await;
    let writes = Writes { lane_queue: 10, batch_max: 5, ..writes() };
    let (node, room) = (world.node_with(writes).await, world.room().await);
    // One user fills half of the lane, the others the rest.
    let of = |name: &str, n: u32| roomgate::log::Submit {
        user: user(name),
        ..message(room, &format!("op{n}"), "x")
    };
    let mut pending: Vec<_> = (0..20).map(|n| node.submit(of("alice", n))).collect();
    let mut others: Vec<_> = (0..20).map(|n| node.submit(of(&format!("user{n}"), n))).collect();
    let (alone, refused_others) = (pending.split_off(6), others.split_off(4));
    for refused in alone.into_iter().chain(refused_others) {
        let refusal = refused.refusal();
        assert_eq!(refusal.code, Code::Overloaded);
        assert!(refusal.retry_after_ms.is_some());
    }
    for taken in pending.into_iter().chain(others) {
        taken.ack().await;
    }
    assert_eq!(world.log(room).await.len(), 10);
}

#[tokio::test]
async fn a_submit_that_waited_too_long_is_refused_without_effect() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    let rejection = node.submit_within(message(room, "late", "x"), Duration::ZERO).rejection().await;
    assert_eq!(rejection.refusal.code, Code::ShardUnavailable);
    assert!(world.log(room).await.is_empty());
}
