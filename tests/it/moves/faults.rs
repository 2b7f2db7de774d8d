//! Servers and nodes that fail while slots move.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join, ready};
use nix::sys::signal::Signal;
use roomgate::dev::Options;
use roomgate::ids::Slot;
use roomgate::moves::{MoveError, Moved, Observer, Step};
use roomgate::placement::{Move, ShardIndex};
use roomgate::tasks::Tasks;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::killed::{Noted, mover, survey};
use super::{command, owner, slot, told};
use crate::client::{Client, rect, submit};
use crate::convergence::{FROM_PRIMARY, whole_log};
use crate::world::World;

fn body(n: i32) -> serde_json::Value {
    json!({"kind": "shape.put", "shape": rect("r", n)})
}

/// None if the connection ends before.
async fn answered(client: &mut Client, op: &str) -> Option<Value> {
    loop {
        let heard = client.hears().await?;
        if heard["op"] == op {
            return Some(heard);
        }
    }
}

#[tokio::test]
async fn a_node_that_was_frozen_through_a_whole_move_writes_nothing_to_the_old_owner() {
    let world = World::start(|options| Options { shards: 2, replicas: 0, nodes: 2, ..options }).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let (here, there) = (owner(&world, slot(room)).await, world.shard_of(room).await);
    let mut frozen = world.client(0, &alice).await;
    frozen.join(room).await;
    frozen.submit(room, "before", &body(0)).await;

    let node = world.cluster().nodes()[0].service();
    node.signal(Signal::SIGSTOP);
    frozen.send(&submit(room, "through", &body(1))).await;
    let to = if here == "a" { "b" } else { "a" };
    let slots = slot(room).0.to_string();
    told(&world, &["move", "--slots", &slots, "--to", to]).await;
    let mut other = world.client(1, &alice).await;
    other.join(room).await;
    other.submit(room, "meanwhile", &body(2)).await;
    node.signal(Signal::SIGCONT);

    // Who is refused, or closed without an answer, because his node slept for so long
    // tries again.
    if answered(&mut frozen, "through").await.is_none_or(|answer| answer["type"] == "reject") {
        frozen = world.client(0, &alice).await;
        frozen.joins_in_time(room).await;
        frozen.submits_in_time(room, "through", &body(1)).await;
    }
    frozen.submits_in_time(room, "after", &body(3)).await;
    let log = whole_log(&world, &alice, room, FROM_PRIMARY).await;
    let ops: Vec<&str> = log.iter().map(|event| event["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["before", "meanwhile", "through", "after"]);
    let old = &world.primaries().await[there];
    let written: i64 = old
        .query_one("SELECT count(*) FROM room_event WHERE room_id = $1", &[&(room as i64)])
        .await
        .unwrap()
        .get(0);
    assert_eq!(written, 1, "only what was written before the move");
}

/// Says when a step is reached for the first time, and waits there for what is
/// done meanwhile.
struct Pausing {
    at: Step,
    reached: Notify,
    go_on: Notify,
    was_there: AtomicBool,
}

impl Observer for Pausing {
    fn reached(&self, _: Slot, step: Step) -> BoxFuture<'_, ()> {
        if step != self.at || self.was_there.swap(true, Ordering::SeqCst) {
            return Box::pin(ready(()));
        }
        Box::pin(async {
            self.reached.notify_one();
            self.go_on.notified().await;
        })
    }

    fn ended(&self, _: Slot, result: &Result<Moved, MoveError>) {
        println!("{result:?}");
    }
}

#[tokio::test]
async fn a_source_or_destination_that_fails_over_in_mid_move_has_no_second_owner_and_loses_nothing() {
    let world =
        World::start(|options| Options { shards: 2, replicas: 1, nodes: 2, sync: true, ..options }).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let tasks = Tasks::new();
    let mover = mover(&world, &tasks).await;
    let mut count = 0;
    for (at, is_source) in [
        (Step::Copied, true),
        (Step::Copied, false),
        (Step::Fenced, true),
        (Step::Fenced, false),
        (Step::DestinationFlushed, false),
        (Step::SourceMoved, true),
        (Step::SourceMoved, false),
        (Step::Recorded, true),
        (Step::Recorded, false),
    ] {
        println!("{at:?}, the {} fails over", if is_source { "source" } else { "destination" });
        let before = survey(&mover).await;
        let from = before.placed().iter().find(|placed| placed.slot == slot(room)).unwrap().owner;
        let to = ShardIndex(1 - from.0);
        let pausing = Pausing { at, reached: Notify::new(), go_on: Notify::new(), was_there: false.into() };
        let step = Move { slot: slot(room), from, to, size: 0 };
        let stop = tasks.stop_signal();
        let failing_over = async {
            let reached = timeout(Duration::from_secs(60), pausing.reached.notified()).await;
            reached.unwrap_or_else(|_| panic!("the move doesn't get to {at:?}"));
            let shard = if is_source { from.0 } else { to.0 };
            world.cluster().fail_over(usize::from(shard)).await.unwrap();
            pausing.go_on.notify_one();
        };
        let moving = join(mover.carry_out(vec![step], &pausing, &stop), failing_over);
        client.listens_until(moving).await;
        // Whatever became of it, the next one brings it to its end.
        let now = survey(&mover).await;
        assert_eq!(now.two_owners(), [], "{at:?}");
        let mut left = now.unfinished();
        left.extend(now.begun());
        let noted = Noted::default();
        let [_, failed] = mover.carry_out(left, &noted, &stop).await;
        assert_eq!(failed, 0, "{at:?}: {:?}", noted.0.lock().unwrap());
        client.submits_in_time(room, &format!("op-{count}"), &body(count)).await;
        count += 1;
        let placed = survey(&mover).await.placed();
        let owners: Vec<_> = placed.iter().filter(|placed| placed.slot == slot(room)).collect();
        assert_eq!(owners.len(), 1, "{at:?}: {owners:?}");
    }
    tasks.stop();
    let log = whole_log(&world, &alice, room, FROM_PRIMARY).await;
    let ops: Vec<&str> = log.iter().map(|event| event["op"].as_str().unwrap()).collect();
    assert_eq!(ops, (0..count).map(|n| format!("op-{n}")).collect::<Vec<_>>());
    timeout(Duration::from_secs(60), client.catches_up(room, log.len() as u64)).await.unwrap();
}

#[tokio::test]
async fn who_comes_while_nobody_owns_a_slot_waits_and_sees_no_error() {
    let world = World::start(|options| Options { shards: 2, replicas: 1, nodes: 2, ..options }).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room_called(&alice, "between", "drawing").await;
    let mut writer = world.client(0, &alice).await;
    writer.join(room).await;
    writer.submit(room, "before", &body(0)).await;
    let mut newcomer = world.client(1, &bob).await;
    let tasks = Tasks::new();
    let mover = mover(&world, &tasks).await;
    let from = survey(&mover).await.placed().iter().find(|placed| placed.slot == slot(room)).unwrap().owner;
    let step = Move { slot: slot(room), from, to: ShardIndex(1 - from.0), size: 0 };
    let pausing = Pausing {
        at: Step::SourceMoved,
        reached: Notify::new(),
        go_on: Notify::new(),
        was_there: false.into(),
    };
    let stop = tasks.stop_signal();
    let moving = mover.carry_out(vec![step], &pausing, &stop);
    let coming = async {
        pausing.reached.notified().await;
        let (of_alice, of_bob) = (world.api_of(0, &alice), world.api_of(1, &bob));
        let events = format!("/v1/rooms/{room}/events");
        let item = json!({"items": [{"op": "over-http", "kind": "message", "data": 1}]});
        let answers = async {
            let (facts, shapes, members, log, posted) = tokio::join!(
                of_bob.get("/v1/rooms/between"),
                of_bob.get("/v1/rooms/between/shapes"),
                of_alice.get("/v1/rooms/between/members"),
                of_bob.get(&events),
                of_alice.post(&events, &item),
            );
            [facts, shapes, members, log, posted].map(Result::unwrap)
        };
        let joined = newcomer.join(room);
        let put = body(1);
        let drawn = writer.submit(room, "between", &put);
        // Longer than a move takes, and than who asks again for but a moment.
        let going_on = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            pausing.go_on.notify_one();
        };
        let (answers, _, drawn, ()) = tokio::join!(answers, joined, drawn, going_on);
        for answer in answers {
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        assert_eq!(drawn["type"], "ack", "{drawn}");
    };
    let (moved, ()) = join(moving, coming).await;
    assert_eq!(moved, [1, 0]);
    tasks.stop();
    newcomer.catches_up(room, 3).await;
}

#[tokio::test]
async fn copying_waits_for_a_standby_that_is_too_far_behind() {
    let world = World::start(|options| Options { shards: 2, replicas: 1, nodes: 1, ..options }).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    client.submit(room, "op", &body(0)).await;
    let (to, name) = if owner(&world, slot(room)).await == "a" { (1, "b") } else { (0, "a") };
    let standby = world.cluster().shards()[to].replicas().next().unwrap();
    standby.set_replay_paused(true).await.unwrap();
    let ballast = "CREATE TABLE ballast AS SELECT generate_series(1, 100000)";
    world.primaries().await[to].batch_execute(ballast).await.unwrap();

    let slots = slot(room).0.to_string();
    let verb = ["move", "--slots", &slots, "--to", name, "--max-lag", "1000000"];
    let mut moving = command(&world, &verb).spawn().unwrap();
    let early = timeout(Duration::from_secs(3), moving.wait()).await;
    assert!(early.is_err(), "it ended while its standby had a megabyte to replay: {early:?}");
    assert_ne!(owner(&world, slot(room)).await, name);
    standby.set_replay_paused(false).await.unwrap();
    let ended = timeout(Duration::from_secs(60), moving.wait()).await.unwrap();
    assert!(ended.unwrap().success());
    assert_eq!(owner(&world, slot(room)).await, name);
}
