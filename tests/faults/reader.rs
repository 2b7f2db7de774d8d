//! Reads over HTTP, each with a wish of how new the answer is to be.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use roomgate::dev::Api;
use serde_json::Value;
use tokio::time::sleep;

use crate::fold::digest_of_items;
use crate::history::{Freshness, Position, Read};
use crate::load::{Phase, Shared};

const PAUSE: Duration = Duration::from_millis(60);

pub async fn run(api: Api, rooms: Vec<u64>, seed: u64, shared: Arc<Shared>) -> Vec<Read> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut reads = Vec::new();
    while !shared.is(Phase::Stop) {
        let room = rooms[rng.random_range(0..rooms.len())];
        let freshness = match (rng.random_range(0..10), shared.acked(room)) {
            (0..5, Some(acked)) => Freshness::AtLeast(acked),
            (0..9, _) => Freshness::MaxStale([200, 500, 1_000, 2_000][rng.random_range(0..4)] * 1_000),
            _ => Freshness::Primary,
        };
        let read = read(&api, room, freshness, &shared).await;
        if read.as_ref().is_some_and(|read| read.status == 409) {
            // The position is gone: whatever is acked next counts.
            shared.forget_ack(room);
        }
        reads.extend(read);
        sleep(PAUSE).await;
    }
    reads
}

/// `None`: no answer at all, as from a node that is killed.
async fn read(api: &Api, room: u64, freshness: Freshness, shared: &Shared) -> Option<Read> {
    let wish = match freshness {
        Freshness::AtLeast(Position { epoch, seq }) => format!("min_seq={epoch}.{seq}"),
        Freshness::MaxStale(micros) => format!("max_stale_ms={}", micros / 1_000),
        Freshness::Primary => "freshness=primary".to_owned(),
    };
    let began = shared.clock.now();
    let path = format!("/v1/rooms/{room}/shapes?limit=1000&{wish}");
    let answer = tokio::time::timeout(Duration::from_secs(30), api.get(&path)).await.ok()?.ok()?;
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let body = answer.json();
    let whole = answer.status == 200 && body["next_cursor"] == Value::Null;
    Some(Read {
        room,
        began,
        freshness,
        status: answer.status.as_u16(),
        position: Position::of(&body),
        served_by: header("roomgate-served-by").unwrap_or_default().to_owned(),
        state: whole.then(|| digest_of_items(body["items"].as_array().into_iter().flatten())),
        text: if answer.status == 200 { String::new() } else { answer.text.clone() },
    })
}
