//! A node that is told to stop: its clients go elsewhere evenly, and nothing is
//! lost on the way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::{Stream, future};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::{Client, submit};
use crate::session::{until_closed, with_bearer};
use crate::world::{Person, World};

const SESSIONS: usize = 600;
/// Sessions of the same node that write until their goodbye.
const WRITERS: usize = 4;
/// How long the goodbyes take: half of `drain_timeout_ms`.
const WINDOW: Duration = Duration::from_millis(2500);
/// Those who are due so soon are asked together.
const PACE: Duration = Duration::from_millis(20);
/// Over how long the ways back are spread.
const DELAYS_MS: u64 = 2000;

#[tokio::test]
async fn the_sessions_of_a_stopped_node_are_sent_away_evenly_and_its_submits_are_answered() {
    // Here six hundred clients share one thread: a hello may take long.
    let world = World::start(|options| options.set("sessions.hello_timeout_ms", 30_000)).await;
    let alice = world.person("alice");
    let mut idle = Vec::new();
    for _ in 0..SESSIONS {
        idle.push(with_bearer(&world, &alice.token).await);
    }
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let room = world.room(&alice, "open").await;
        let mut client = world.client(0, &alice).await;
        client.join(room).await;
        writers.push((room, client));
    }

    let mut stopped = Instant::now();
    let moving = future::join_all(idle.into_iter().map(|socket| moves(&world, &alice, socket)));
    let writing = future::join_all(writers.into_iter().map(|(room, client)| writes(&world, client, room)));
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stopped = Instant::now();
        world.cluster().nodes()[0].service().signal(Signal::SIGTERM);
    };
    let (mut moved, written, ()) = future::join3(moving, writing, stopping).await;

    moved.sort_by_key(|m| m.goodbye);
    println!(
        "{SESSIONS} sessions: first goodbye after {:?}, last after {:?}; (acked, never read) of each writer: {written:?}",
        moved[0].goodbye - stopped,
        moved[SESSIONS - 1].goodbye - stopped
    );
    // No session leaves before its turn. A machine that stutters delays goodbyes and
    // makes none early. The writers have turns too: an idle session's turn is at least
    // its place among the idle ones.
    for (turn, m) in moved.iter().enumerate() {
        let due = WINDOW.mul_f64(turn as f64 / (SESSIONS + WRITERS) as f64);
        assert!(m.goodbye - stopped + PACE >= due, "{turn} of {SESSIONS} after {:?}", m.goodbye - stopped);
    }
    let mut quarters = [0; 4];
    moved.iter().for_each(|m| quarters[(m.delay_ms * 4 / DELAYS_MS) as usize] += 1);
    assert!(quarters.iter().all(|count| (100..200).contains(count)), "delays by quarter: {quarters:?}");
    assert!(moved.iter().all(|m| m.back.node != "node-1"));
}

/// The way of one idle session.
struct Moved {
    goodbye: Instant,
    delay_ms: u64,
    back: Client,
}

async fn moves(
    world: &World,
    person: &Person,
    mut socket: impl Stream<Item = Result<Message, Error>> + Unpin,
) -> Moved {
    let (heard, code) = until_closed(&mut socket).await;
    let goodbye = Instant::now();
    let last = heard.last().unwrap();
    assert_eq!((code, &last["reason"]), (Some(1012), &json!("restart")));
    let delay_ms = last["reconnect_after_ms"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    Moved { goodbye, delay_ms, back: world.balanced_client(person).await }
}

/// Always has submits in flight, until the goodbye. Those that are not answered
/// then were never read: they have no effect. How many of each. It may write
/// into a connection that has ended, before it has read the goodbye.
async fn writes(world: &World, mut client: Client, room: u64) -> (usize, usize) {
    let (mut sent, mut acked) = (0, BTreeSet::new());
    loop {
        while sent < acked.len() + 20 {
            let body = json!({"kind": "message", "data": sent});
            client.try_send(&submit(room, &format!("op-{sent}"), &body)).await;
            sent += 1;
        }
        let message = client.hears().await.expect("a goodbye before the end");
        match message["type"].as_str().unwrap() {
            "ack" => assert!(acked.insert(message["op"].as_str().unwrap().to_owned())),
            "goodbye" => break,
            other => assert_eq!(other, "presence", "{message}"),
        }
    }
    assert_eq!(client.ends().await, Some(1012));
    let rows = "SELECT op_id FROM room_event WHERE room_id = $1";
    let id = i64::try_from(room).unwrap();
    let shard = world.shard_of(room).await;
    let rows = world.primaries().await[shard].query(rows, &[&id]).await.unwrap();
    let logged: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(logged, acked, "what was read was answered");
    (acked.len(), sent - acked.len())
}
