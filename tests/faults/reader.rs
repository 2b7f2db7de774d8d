//! Reads over HTTP, each with a wish of how new the answer is to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use roomgate::dev::Api;
use serde_json::Value;
use tokio::time::sleep;

use crate::fold::digest_of_items;
use crate::history::{Freshness, Position, Read};
use crate::load::{Phase, Shared};

pub async fn run(api: Api, rooms: Vec<u64>, seed: u64, shared: Arc<Shared>) -> Vec<Read> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut reads: Vec<Read> = Vec::new();
    // What it was told itself: it never goes back.
    let mut told: BTreeMap<u64, Position> = BTreeMap::new();
    while !shared.is(Phase::Stop) {
        let room = rooms[rng.random_range(0..rooms.len())];
        let freshness = match (rng.random_range(0..20), shared.acked(room), told.get(&room)) {
            (0..8, Some(acked), _) => Freshness::AtLeast(acked),
            (8..12, _, Some(told)) => Freshness::AtLeast(*told),
            (0..19, _, _) => Freshness::MaxStale([200, 500, 1_000, 2_000][rng.random_range(0..4)] * 1_000),
            _ => Freshness::Primary,
        };
        let whole = reads.len().is_multiple_of(shared.reading.whole_every);
        let read = read(&api, room, freshness, whole, &shared).await;
        if read.as_ref().is_some_and(|read| read.status == 409) {
            // The position is gone: whatever is acked next counts.
            shared.forget_ack(room);
            told.remove(&room);
        }
        if let Some(at) = read.as_ref().and_then(|read| read.position) {
            told.insert(room, at);
        }
        shared.reads.fetch_add(usize::from(read.is_some()), Ordering::Relaxed);
        reads.extend(read);
        sleep(Duration::from_millis(shared.reading.pause_ms)).await;
    }
    reads
}

/// `None`: no answer at all, as from a node that is killed.
async fn read(api: &Api, room: u64, freshness: Freshness, whole: bool, shared: &Shared) -> Option<Read> {
    let wish = match freshness {
        Freshness::AtLeast(Position { epoch, seq }) => format!("min_seq={epoch}.{seq}"),
        Freshness::MaxStale(micros) => format!("max_stale_ms={}", micros / 1_000),
        Freshness::Primary => "freshness=primary".to_owned(),
    };
    let began = shared.clock.now();
    let limit = if whole { 1_000 } else { 1 };
    let path = format!("/v1/rooms/{room}/shapes?limit={limit}&{wish}");
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
        fallback: header("roomgate-fallback").unwrap_or_default().to_owned(),
        state: whole.then(|| digest_of_items(body["items"].as_array().into_iter().flatten())),
        text: if answer.status == 200 { String::new() } else { answer.text.clone() },
    })
}
