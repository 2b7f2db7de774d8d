//! Whoever moves a slot dies, at any step: one owner always, and whoever comes next
//! finishes.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use roomgate::config::Config;
use roomgate::dev::Options;
use roomgate::ids::Slot;
use roomgate::moves::{Bounds, MoveError, Moved, Mover, Observer, Step, Survey};
use roomgate::placement::{Move, ShardIndex};
use roomgate::tasks::Tasks;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::{command, slot, told};
use crate::client::rect;
use crate::convergence::{FROM_PRIMARY, whole_log};
use crate::world::{Person, World, seed};

const BOUNDS: Bounds =
    Bounds { parallel: 1, bytes_per_second: None, max_lag: u64::MAX, patience: Duration::from_secs(20) };

/// Stands still for good at a step, and says that it does.
struct Deadly {
    at: Step,
    dead: Notify,
}

impl Observer for Deadly {
    fn reached(&self, _: Slot, step: Step) -> BoxFuture<'_, ()> {
        if step != self.at {
            return Box::pin(ready(()));
        }
        Box::pin(async {
            self.dead.notify_one();
            std::future::pending().await
        })
    }

    fn ended(&self, _: Slot, _: &Result<Moved, MoveError>) {}
}

/// Takes note of how it ended.
#[derive(Default)]
pub struct Noted(pub Mutex<Vec<String>>);

impl Observer for Noted {
    fn reached(&self, _: Slot, _: Step) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    fn ended(&self, _: Slot, result: &Result<Moved, MoveError>) {
        if let Err(error) = result {
            self.0.lock().unwrap().push(error.to_string());
        }
    }
}

pub async fn mover(world: &World, tasks: &Tasks) -> Mover {
    let file = world.cluster().report().jwt.key_file.with_file_name("nodes/node-1.toml");
    let config = Config::parse(&std::fs::read_to_string(file).unwrap()).unwrap();
    Mover::open(&config, BOUNDS, tasks).await.unwrap()
}

pub async fn survey(mover: &Mover) -> Survey {
    Survey::take(&mover.shards, Duration::ZERO).await.unwrap()
}

/// Who has it active: never two.
async fn owner(mover: &Mover, slot: Slot) -> Option<ShardIndex> {
    let survey = survey(mover).await;
    assert_eq!(survey.two_owners(), [], "two owners");
    survey.placed().iter().find(|placed| placed.slot == slot).map(|placed| placed.owner)
}

/// `ROOMGATE_SEEDS=100` for more of them; `ROOMGATE_SEED` runs one alone.
#[tokio::test]
async fn a_move_that_is_killed_at_any_step_is_finished_by_the_next_and_never_has_two_owners() {
    let world = World::start(|options| Options { shards: 2, replicas: 0, nodes: 2, ..options }).await;
    let alice = world.person("alice");
    let mut rooms = Vec::new();
    for _ in 0..3 {
        rooms.push(world.room(&alice, "drawing").await);
    }
    let (tell, done) = watch::channel(false);
    let drawing = futures_util::future::join_all(
        rooms.iter().enumerate().map(|(node, room)| draws(&world, &alice, node % 2, *room, done.clone())),
    );
    let seeds = seeds();
    let killing = async {
        let tasks = Tasks::new();
        let mover = mover(&world, &tasks).await;
        for seed in seeds {
            let mut rng = StdRng::seed_from_u64(seed);
            let room = rooms[rng.random_range(0..rooms.len())];
            let at = Step::ALL[rng.random_range(0..Step::ALL.len())];
            println!("seed {seed}: slot {} is killed at {at:?}", slot(room).0);
            killed_and_finished(&world, &mover, slot(room), at).await;
        }
        tell.send_replace(true);
        tasks.stop();
    };
    let (acked, ()) = tokio::join!(drawing, killing);
    for (room, acked) in rooms.iter().zip(acked) {
        let log = whole_log(&world, &alice, *room, FROM_PRIMARY).await;
        let ops: Vec<&str> = log.iter().map(|event| event["op"].as_str().unwrap()).collect();
        assert_eq!(ops, (0..acked).map(|n| format!("op-{n}")).collect::<Vec<_>>());
    }
}

/// As [`a_move_that_is_killed_at_any_step_is_finished_by_the_next_and_never_has_two_owners`]
/// does for one slot and every step, for many slots and a process.
#[tokio::test]
async fn a_process_that_moves_many_slots_and_is_killed_is_followed_by_one_that_finishes() {
    let world = World::start(|options| Options { shards: 2, replicas: 0, nodes: 2, ..options }).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let (tell, done) = watch::channel(false);
    let drawing = draws(&world, &alice, 0, room, done);
    let slots = format!("0-99,{}", slot(room).0);
    let killing = async {
        let seed = seed();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for to in ["b", "a", "b", "a"] {
            let verb = ["move", "--slots", &slots, "--to", to];
            let mut process = command(&world, &verb).spawn().unwrap();
            let lives = Duration::from_millis(rng.random_range(200..3000));
            let ended = tokio::time::timeout(lives, process.wait()).await;
            if ended.is_err() {
                process.kill().await.unwrap();
            }
            let finished = told(&world, &verb).await;
            println!("killed after {lives:?} ({ended:?}); then {} slots arrived", finished["arrived"]);
            let verified = told(&world, &["verify", "--slots", &slots]).await;
            for slot in verified["slots"].as_array().unwrap() {
                let on = slot["on"].as_array().unwrap();
                let owners: Vec<&Value> =
                    on.iter().filter(|on| on["state"] == "active").map(|on| &on["shard"]).collect();
                assert_eq!(owners, [to], "{slot}");
            }
        }
        tell.send_replace(true);
    };
    let (acked, ()) = tokio::join!(drawing, killing);
    assert_eq!(whole_log(&world, &alice, room, FROM_PRIMARY).await.len(), acked);
}

#[expect(clippy::disallowed_methods, reason = "what a test is asked for is no configuration")]
fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    match number("ROOMGATE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("ROOMGATE_SEEDS").unwrap_or(20)).collect(),
    }
}

async fn killed_and_finished(world: &World, second: &Mover, slot: Slot, at: Step) {
    let from = owner(second, slot).await.expect("somebody owns it");
    let to = ShardIndex(1 - from.0);
    let step = Move { slot, from, to, size: 0 };
    let tasks = Tasks::new();
    let first = mover(world, &tasks).await;
    let deadly = Deadly { at, dead: Notify::new() };
    let stop = tasks.stop_signal();
    tokio::select! {
        moved = first.carry_out(vec![step], &deadly, &stop) => panic!("it was not killed: {moved:?}"),
        () = deadly.dead.notified() => {}
    }
    drop(first);
    tasks.stop();
    let now = owner(second, slot).await;
    let is_gone = matches!(at, Step::SourceMoved | Step::Recorded | Step::Active);
    assert!(now.is_none_or(|now| is_gone || now == from), "{at:?}: {now:?}");

    let surveyed = survey(second).await;
    let mut left = surveyed.unfinished();
    left.extend(surveyed.begun());
    let noted = Noted::default();
    let [arrived, failed] = second.carry_out(left.clone(), &noted, &Tasks::new().stop_signal()).await;
    assert_eq!((arrived, failed), (left.len(), 0), "{at:?}: {:?}", noted.0.lock().unwrap());
    assert_eq!(owner(second, slot).await, Some(to), "{at:?}");
}

/// Submits on one node until told; how many.
async fn draws(world: &World, person: &Person, node: usize, room: u64, done: watch::Receiver<bool>) -> usize {
    let mut client = world.client(node, person).await;
    client.join(room).await;
    let mut count = 0;
    while !*done.borrow() {
        let body = json!({"kind": "shape.put", "shape": rect(&format!("r{}", count % 20), count as i32)});
        let answer = client.submit(room, &format!("op-{count}"), &body).await;
        assert_eq!(answer["type"], "ack", "{answer}");
        count += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(client.untaken().iter().all(|m| m["type"] == "presence"), "{:?}", client.untaken());
    count
}
