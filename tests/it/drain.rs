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
const BUCKET: Duration = Duration::from_millis(100);
/// How long the goodbyes take (half of `drain_timeout_ms`), and over how long the
/// ways back are spread.
const WINDOW: Duration = Duration::from_millis(2500);
const DELAYS_MS: u64 = 2000;

#[tokio::test]
async fn the_sessions_of_a_stopped_node_are_sent_away_evenly_and_its_submits_are_answered() {
    let world = World::start(|options| options).await;
    let alice = world.person("alice");
    let mut idle = Vec::new();
    for _ in 0..SESSIONS {
        idle.push(with_bearer(&world, &alice.token).await);
    }
    let mut writers = Vec::new();
    for _ in 0..4 {
        let room = world.room(&alice, "open").await;
        let mut client = world.client(0, &alice).await;
        client.join(room).await;
        writers.push((room, client));
    }

    let start = Instant::now();
    let moving = future::join_all(idle.into_iter().map(|socket| moves(&world, &alice, socket, start)));
    let writing = future::join_all(writers.into_iter().map(|(room, client)| writes(&world, client, room)));
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.cluster().nodes()[0].service().signal(Signal::SIGTERM);
    };
    let (moved, written, ()) = future::join3(moving, writing, stopping).await;

    let peaks = [|m: &Moved| m.goodbye, |m: &Moved| m.arrival, |m: &Moved| m.welcome]
        .map(|at| peak(moved.iter().map(at)));
    println!(
        "{SESSIONS} sessions: in any {BUCKET:?} at most {} goodbyes, {} arrivals, {} welcomes; \
         (acked, never read) of each writer: {written:?}",
        peaks[0], peaks[1], peaks[2]
    );
    // Evenly: 24. A machine that stutters hands out what has gathered.
    let evenly = SESSIONS as f64 * BUCKET.div_duration_f64(WINDOW);
    assert!((peaks[0] as f64) < 4.0 * evenly, "{evenly} would be even");
    // Evenly over goodbyes and delays: 13, and 24 where all of them overlap.
    let evenly = SESSIONS as f64 * BUCKET.div_duration_f64(WINDOW + Duration::from_millis(DELAYS_MS));
    assert!((peaks[1] as f64) < 4.0 * evenly, "{evenly} would be even");
    let mut quarters = [0; 4];
    moved.iter().for_each(|m| quarters[(m.delay_ms * 4 / DELAYS_MS) as usize] += 1);
    assert!(quarters.iter().all(|count| (100..200).contains(count)), "delays by quarter: {quarters:?}");
    assert!(moved.iter().all(|m| m.back.node != "node-1"));
}

/// The way of one idle session, in times since the start.
struct Moved {
    goodbye: Duration,
    delay_ms: u64,
    arrival: Duration,
    welcome: Duration,
    back: Client,
}

async fn moves(
    world: &World,
    person: &Person,
    mut socket: impl Stream<Item = Result<Message, Error>> + Unpin,
    start: Instant,
) -> Moved {
    let (heard, code) = until_closed(&mut socket).await;
    let goodbye = start.elapsed();
    let last = heard.last().unwrap();
    assert_eq!((code, &last["reason"]), (Some(1012), &json!("restart")));
    let delay_ms = last["reconnect_after_ms"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    let arrival = start.elapsed();
    let back = world.balanced_client(person).await;
    Moved { goodbye, delay_ms, arrival, welcome: start.elapsed(), back }
}

/// How many there are at most in a bucket.
fn peak(times: impl Iterator<Item = Duration>) -> usize {
    let mut buckets = std::collections::BTreeMap::new();
    for time in times {
        *buckets.entry(time.div_duration_f64(BUCKET) as usize).or_default() += 1;
    }
    buckets.into_values().max().unwrap_or_default()
}

/// Always has submits in flight, until the goodbye. Those that are not answered
/// then were never read: they have no effect. How many of each.
async fn writes(world: &World, mut client: Client, room: u64) -> (usize, usize) {
    let (mut sent, mut acked) = (0, BTreeSet::new());
    loop {
        while sent < acked.len() + 20 {
            let body = json!({"kind": "message", "data": sent});
            client.send(&submit(room, &format!("op-{sent}"), &body)).await;
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
