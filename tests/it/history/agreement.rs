//! The state table, a replay of the log, a client's fold and every old state are
//! equal, whatever is done to a room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use roomgate::config::Writes;
use roomgate::ids::{OpId, RoomId, ShapeId, UserId};
use roomgate::log::{Authority, Fold, Outcome, RoomBounds, ShapeData, ShapeState, Submit};
use roomgate::position::Seq;
use roomgate::protocol::{Exact, Operation, Shape, Version};
use roomgate::routing::Freshness;
use roomgate::store::append::{Announce, Appender, Committed};
use roomgate::traces::{Trace, Traces};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::world::State;
use crate::routing::world::{Node, World, memory};
use crate::view::View;
use crate::world::seed;

const ROOMS: u64 = 8;
const BATCHES: usize = 40;
const FRESH: Freshness = Freshness::Primary;

#[tokio::test]
async fn the_state_table_a_replay_and_a_clients_fold_are_equal() {
    let seed = seed();
    println!("to replay: ROOMGATE_SEED={seed} cargo test --test it history::agreement");
    let world = World::start(0).await;
    let writers = [Writer::start(&world).await, Writer::start(&world).await];
    let mut met = BTreeMap::new();
    for number in 0..ROOMS {
        let room = world.room().await;
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(number));
        let mut view = View { live: true, ..View::default() };
        // The state after each event, as a client has it.
        let mut states = vec![State::new()];
        for batch in 0..BATCHES {
            let writer = &writers[rng.random_range(0..2)];
            let submits = (0..rng.random_range(1..12))
                .map(|n| submit(&mut rng, room, batch / 4, &format!("{batch}-{n}")));
            for outcome in writer.append(submits.collect()).await {
                *met.entry(outcome).or_insert(0) += 1;
            }
            for event in writer.heard(room) {
                if revives(&view, &event) {
                    *met.entry("revived".to_owned()).or_insert(0) += 1;
                }
                view.event(&event);
                states.push(view.shapes.clone());
            }
            if rng.random_bool(0.1) {
                let fold = replay(&writers[0].node, room, view.seq).await;
                let kept = writers[0].node.history.keep_snapshot(room, &fold).await.unwrap();
                *met.entry(if kept { "snapshot" } else { "kept already" }.to_owned()).or_insert(0) += 1;
            }
        }
        check(&world, &writers[1].node, room, &view, &states, &mut rng).await;
    }
    println!("{met:?}");
    for outcome in
        ["accepted", "duplicate", "shape_deleted", "version_conflict", "snapshot", "revived", "cleared"]
    {
        assert!(met.contains_key(outcome), "no {outcome}: {met:?}");
    }
}

async fn check(world: &World, node: &Node, room: RoomId, view: &View, states: &[State], rng: &mut StdRng) {
    let fold = replay(node, room, view.seq).await;
    let (rows, cleared, live) = table(world, room).await;
    assert_eq!(fold.shapes, rows, "a replay and the state table");
    assert_eq!((fold.cleared, fold.live().count() as i64), (cleared, live));
    let state = |shapes: Vec<(String, u64, String)>| -> State {
        let shape = |(id, version, json): (String, u64, String)| {
            (id, (version, serde_json::from_str(&json).unwrap()))
        };
        shapes.into_iter().map(shape).collect()
    };
    let replayed = fold.live().map(|(id, version, data)| (id.to_string(), version.0, data.json.to_string()));
    assert_eq!(state(replayed.collect()), view.shapes, "a replay and a client's fold");
    for seq in (0..8).map(|_| rng.random_range(0..=view.seq)).chain([0, view.seq]) {
        let position = node.history.position_of(room, Seq(seq), FRESH).await.unwrap().value;
        let then = node.history.state_at(room, position, 10_000, FRESH, &mut memory().await).await.unwrap();
        let items = then.shapes.iter().map(|shape| {
            let item: Value = serde_json::from_str(&shape.json).unwrap();
            (shape.id.clone(), (item["version"].as_u64().unwrap(), item["shape"].clone()))
        });
        assert_eq!(items.collect::<State>(), states[seq as usize], "the state at {seq}");
    }
}

/// A put of what was there once and is not.
fn revives(view: &View, event: &Value) -> bool {
    let is_gone = |id: &str| !view.shapes.contains_key(id);
    event["shape"]["id"].as_str().is_some_and(is_gone) && event["version"].as_u64() > Some(1)
}

/// From the first event to the last, whatever snapshots there are.
async fn replay(node: &Node, room: RoomId, to: u64) -> Fold {
    let (mut fold, mut held) = (Fold::default(), memory().await);
    while fold.head.seq.0 < to {
        node.history.replay(room, &mut fold, Seq(to), FRESH, &mut held).await.unwrap();
    }
    fold
}

/// The rows of the state table as they are, with the room's clear and count.
async fn table(world: &World, room: RoomId) -> (BTreeMap<ShapeId, ShapeState>, Seq, i64) {
    let rows = "SELECT shape_id, version, type, data::text, deleted, last_seq FROM shape WHERE room_id = $1";
    let rows = world.admin.query(rows, &[&room.as_i64()]).await.unwrap();
    let rows = rows.iter().map(|row| {
        let json: Option<String> = row.get(3);
        assert_eq!(row.get::<_, bool>(4), json.is_none());
        let data = json.map(|json| ShapeData {
            json: json.into(),
            shape_type: row.get::<_, Option<String>>(2).map(Into::into),
        });
        let (version, last_seq) = (Version::from_i64(row.get(1)), Seq::from_i64(row.get(5)));
        (ShapeId::new(row.get(0)).unwrap(), ShapeState { version, data, last_seq })
    });
    let head = "SELECT cleared_seq, live_shapes FROM room_head WHERE room_id = $1";
    let head = world.admin.query_one(head, &[&room.as_i64()]).await.unwrap();
    (rows.collect(), Seq::from_i64(head.get(0)), head.get(1))
}

/// Few shapes of an age and small versions, so that submits collide; now and then
/// an op that was used.
fn submit(rng: &mut StdRng, room: RoomId, age: usize, op: &str) -> Submit {
    let id = format!("s{}-{}", age, rng.random_range(0..7));
    let x = rng.random_range(-3..1000);
    let base = rng.random_bool(0.5).then(|| Version(rng.random_range(0..5)));
    let shape = || {
        let value = json!({"id": id, "type": "rect", "x": x, "o": {"k": x, "n": null}});
        Shape::new(Exact::encode(value.as_object().unwrap().clone())).unwrap()
    };
    let operation = match rng.random_range(0..100) {
        0..20 => Operation::ShapeAdd { shape: shape() },
        20..55 => Operation::ShapePut { shape: shape(), base },
        55..75 => {
            let patch = json!({"x": x, "o": {"k": null, "m": [x]}, "y": {"z": null}});
            let patch = Exact::encode(patch.as_object().unwrap().clone());
            Operation::ShapeUpdate { shape_id: ShapeId::new(&id).unwrap(), base, patch }
        }
        75..92 => Operation::ShapeDelete { shape_id: ShapeId::new(&id).unwrap(), base },
        92..95 => Operation::RoomClear,
        _ => Operation::Message { data: Exact::encode(json!(x)) },
    };
    let op = if rng.random_bool(0.05) { "again" } else { op };
    let operation = if op == "again" { Operation::RoomClear } else { operation };
    let op = OpId::new(op).unwrap();
    Submit::new(room, UserId::new("ann").unwrap(), Authority::Member, op, operation)
}

/// The writing half of a gateway node, and what it announced.
struct Writer {
    node: Node,
    appender: Appender,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard(Mutex<Vec<Committed>>);

impl Announce for Heard {
    fn announce(&self, committed: Committed) {
        self.0.lock().unwrap().push(committed);
    }
}

impl Writer {
    async fn start(world: &World) -> Self {
        let node = world.node().await;
        let heard = Arc::new(Heard::default());
        let appender = Appender::start(
            &Writes::default(),
            &node.shards,
            &node.slots,
            heard.clone(),
            RoomBounds::default(),
            &Traces::default(),
            &node.tasks,
        );
        Self { node, appender, heard }
    }

    /// In order; what became of each.
    async fn append(&self, submits: Vec<Submit>) -> Vec<String> {
        let sent = submits.into_iter().map(|submit| {
            let (tell, answer) = oneshot::channel();
            let deadline = Instant::now() + Duration::from_secs(60);
            // Of one payer, so that all of them keep their order.
            let payer = UserId::new("server").unwrap();
            let taken = self.appender.append(
                submit,
                payer,
                deadline,
                Trace::none(),
                Box::new(move |outcome| drop(tell.send(outcome))),
            );
            taken.expect("the queue takes it");
            async move { answer.await.unwrap().expect("its fate is known") }
        });
        let sent: Vec<_> = sent.collect();
        let named = |outcome| match outcome {
            Outcome::Accepted(ack) if ack.duplicate => "duplicate",
            Outcome::Accepted(ack) if ack.cleared.is_some() => "cleared",
            Outcome::Accepted(_) => "accepted",
            Outcome::Rejected(rejection) => rejection.refusal.code.as_str(),
        };
        join_all(sent).await.into_iter().map(|answer| named(answer).to_owned()).collect()
    }

    /// What was announced of a room since the last time, as clients get it.
    fn heard(&self, room: RoomId) -> Vec<Value> {
        let announced = std::mem::take(&mut *self.heard.0.lock().unwrap());
        let events = announced.iter().filter(|committed| committed.room() == room);
        let events = events.flat_map(|committed| committed.events());
        events.map(|event| serde_json::from_str(event.json().as_str()).unwrap()).collect()
    }
}
