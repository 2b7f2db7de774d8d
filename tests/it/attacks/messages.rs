//! Floods of messages, and strangers at a room's door: the time that a client beside
//! them waits for its acks.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt, future};
use roomgate::dev::Options;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::session::with_bearer;
use crate::world::{Person, World};

const MEASURED: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(20);

/// A cluster with the limits of a default configuration.
pub(super) async fn world(change: impl FnOnce(Options) -> Options) -> World {
    World::start(|mut options| {
        options.env.retain(|(name, _)| !name.starts_with("ROOMGATE__LIMITS__"));
        change(Options { nodes: 1, shards: 1, replicas: 0, ..options })
    })
    .await
}

/// The acks of an innocent client, p50 and p95 in milliseconds, while `attack` runs.
pub(super) async fn acks(
    world: &World,
    owner: &Person,
    room: u64,
    attack: impl Future<Output = ()>,
) -> (f64, f64) {
    let mut client = world.client(0, owner).await;
    client.join(room).await;
    let mut waits = Vec::new();
    let measured = async {
        let until = Instant::now() + MEASURED;
        while Instant::now() < until {
            let op = format!("op-{:016x}", rand::random::<u64>());
            let asked = Instant::now();
            client.submit(room, &op, &json!({"kind": "message", "data": 1})).await;
            waits.push(asked.elapsed().as_secs_f64() * 1000.0);
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! { () = measured => {}, () = attack => unreachable!() }
    waits.sort_by(f64::total_cmp);
    (waits[waits.len() / 2], waits[waits.len() * 95 / 100])
}

/// Prints p50 and p95 without and with an attack.
pub(super) fn told(what: &str, control: (f64, f64), attacked: (f64, f64)) {
    println!(
        "{what}: p50 {:.1} -> {:.1} ms, p95 {:.1} -> {:.1} ms ({:.1} times)",
        control.0,
        attacked.0,
        control.1,
        attacked.1,
        attacked.1 / control.1
    );
}

/// Sends arrays of 256 pings as fast as the socket takes them, and comes back when
/// it is closed.
async fn pings(world: &World, person: &Person) {
    let frame = Message::text(Value::Array(vec![json!({"type": "ping"}); 256]).to_string());
    loop {
        let (mut send, mut receive) = with_bearer(world, &person.token).await.split();
        let sends = async { while send.send(frame.clone()).await.is_ok() {} };
        let reads = async { while receive.next().await.is_some_and(|message| message.is_ok()) {} };
        future::select(std::pin::pin!(sends), std::pin::pin!(reads)).await;
    }
}

async fn leaves(world: &World, person: &Person, room: u64) {
    let api = world.api_of(0, person);
    loop {
        let path = format!("/v1/rooms/{room}/members/me");
        api.send("DELETE".parse().unwrap(), &path, None).await.ok();
    }
}

#[tokio::test]
#[ignore = "an attack, with figures: `make attacks`"]
async fn a_flood_of_pings_and_strangers_at_the_door() {
    let world = world(|options| options).await;
    let [owner, eve] = ["owner", "eve"].map(|name| world.person(name));
    let room = world.room(&owner, "open").await;
    let control = acks(&world, &owner, room, future::pending()).await;
    for sessions in [4, 20] {
        let flood = async { future::join_all((0..sessions).map(|_| pings(&world, &eve))).await };
        let attacked = acks(&world, &owner, room, async { drop(flood.await) }).await;
        told(&format!("{sessions} sessions of one user send arrays of 256 pings"), control, attacked);
    }
    let strangers = async { future::join_all((0..24).map(|_| leaves(&world, &eve, room))).await };
    let attacked = acks(&world, &owner, room, async { drop(strangers.await) }).await;
    told("24 requests of a stranger at a time leave the room", control, attacked);
}
