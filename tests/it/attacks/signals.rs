//! Signals in a large room: the time that a client of another room waits for its acks,
//! and the bytes that the node sends.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt, future};
use serde_json::json;
use tokio::time::interval;
use tokio_tungstenite::tungstenite::Message;

use super::messages::{acks, told, world};
use crate::session::with_bearer;
use crate::world::{Person, World};

const USERS: usize = 10;
const SESSIONS_OF_USER: usize = 10;

/// Sends 29 signals of 1 KiB a second, and counts the bytes that it receives.
async fn sends(world: &World, person: &Person, room: u64, received: &Cell<usize>) {
    let (mut send, mut receive) = with_bearer(world, &person.token).await.split();
    let text = |value: serde_json::Value| Message::text(value.to_string());
    send.send(text(json!({"type": "hello"}))).await.unwrap();
    send.send(text(json!({"type": "join", "room": room}))).await.unwrap();
    let signal = text(json!({"type": "signal", "room": room, "data": "x".repeat(1000)}));
    let sends = async {
        let mut ticks = interval(Duration::from_millis(34));
        loop {
            ticks.tick().await;
            send.send(signal.clone()).await.unwrap();
        }
    };
    let reads = async {
        while let Some(Ok(message)) = receive.next().await {
            received.set(received.get() + message.len());
        }
    };
    future::select(std::pin::pin!(sends), std::pin::pin!(reads)).await;
}

#[tokio::test]
#[ignore = "an attack, with figures: `make attacks`"]
async fn a_crowd_that_sends_signals_beside_another_room() {
    for budget in ["without budgets", "with the default budgets"] {
        let world = world(|options| match budget {
            "without budgets" => options
                .set("limits.room_signal_bytes_per_second", 0)
                .set("limits.user_signal_bytes_per_second", 0),
            _ => options,
        })
        .await;
        let owner = world.person("owner");
        let [room, crowded] = [world.room(&owner, "open").await, world.room(&owner, "open").await];
        let people: Vec<Person> = (0..USERS).map(|n| world.person(&format!("eve{n}"))).collect();
        let control = acks(&world, &owner, room, future::pending()).await;
        let received = Cell::new(0);
        let crowd =
            (0..USERS * SESSIONS_OF_USER).map(|n| sends(&world, &people[n % USERS], crowded, &received));
        let began = Instant::now();
        let attacked = acks(&world, &owner, room, async { drop(future::join_all(crowd).await) }).await;
        told(&format!("100 sessions send 2.9 MB/s of signals to each other, {budget}"), control, attacked);
        println!("they received {:.1} MB/s", received.get() as f64 / began.elapsed().as_secs_f64() / 1e6);
    }
}
