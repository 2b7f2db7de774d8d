//! What a node's CPU does with one submit, without sockets and databases:
//! `cargo bench --bench rules`.
//!
//! The input is two real shapes of `benches/shapes.ndjson`: one of median size
//! and one at the 95th percentile of 12 009 shapes people drew. They are from
//! the public Excalidraw libraries (github.com/excalidraw/excalidraw-libraries,
//! MIT, © 2020 Excalidraw).

#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use roomgate::clock::UnixMillis;
use roomgate::ids::{RoomId, UserId};
use roomgate::log::{Authority, Before, Event, Outcome, Role, RoomBounds, RoomState, Schema, Submit, decide};
use roomgate::position::{Epoch, Position, Seq};
use roomgate::protocol::{ClientMessage, FrameLimits, read_frame, strict};
use serde_json::Value;

/// As in the node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LIMITS: FrameLimits =
    FrameLimits { frame_bytes: 1024 * 1024, message_bytes: 64 * 1024, json_depth: 32 };
const BOUNDS: RoomBounds = RoomBounds { shape_bytes: 64 * 1024, room_shapes: 100_000, room_bytes: 64 << 20 };

/// The frames of a client that draws shape `line` of the excerpt.
fn frame(line: usize, op: usize) -> String {
    let text = include_str!("shapes.ndjson").lines().nth(line).unwrap();
    let mut entry: Value = serde_json::from_str(text).unwrap();
    entry["shape"]["id"] = format!("shape-{op}").into();
    format!(r#"{{"type":"submit","room":5,"op":"op-{op}","kind":"shape.add","shape":{}}}"#, entry["shape"])
}

fn submit(text: &str, user: &UserId) -> Submit {
    match read_frame(text, LIMITS).unwrap().remove(0).message {
        Ok(ClientMessage::Submit { room, op, operation }) => {
            Submit::new(room, user.clone(), Authority::Member, op, operation)
        }
        other => panic!("not a submit: {other:?}"),
    }
}

fn before(user: &UserId) -> Before {
    let room = RoomId::new(5).unwrap();
    let state = RoomState {
        head: Position::new(Epoch(7), Seq(41)),
        cleared: Seq::ZERO,
        live_shapes: 41,
        live_bytes: 8200,
        schema: Schema::Open,
        archived: false,
        epoch: Epoch(7),
    };
    let mut before = Before::default();
    before.rooms.insert(room, state);
    before.roles.insert((room, user.clone()), Role::Editor);
    before
}

fn read(c: &mut Criterion) {
    let user = UserId::new("ann").unwrap();
    for (line, name) in [(0, "median"), (1, "p95")] {
        let text = frame(line, 0);
        let mut group = c.benchmark_group(format!("submit of a {name} shape"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("serde_json to Value, for comparison", |b| {
            b.iter(|| serde_json::from_str::<Value>(black_box(&text)).unwrap());
        });
        group.bench_function("strict value", |b| b.iter(|| strict::value(black_box(&text), 32).unwrap()));
        group.bench_function("frame to message", |b| {
            b.iter(|| read_frame(black_box(&text), LIMITS).unwrap());
        });
        group.bench_function("frame to submit, with body and digest", |b| {
            b.iter(|| submit(black_box(&text), &user));
        });
        group.finish();
    }
}

fn batch(c: &mut Criterion) {
    let user = UserId::new("ann").unwrap();
    let submits: Vec<Submit> = (0..200).map(|op| submit(&frame(0, op), &user)).collect();
    let mut group = c.benchmark_group("decide");
    group.throughput(Throughput::Elements(200));
    group.bench_function("200 adds to one room", |b| {
        b.iter_batched(
            || before(&user),
            |before| decide(before, black_box(&submits), UnixMillis(1), BOUNDS),
            BatchSize::SmallInput,
        );
    });
    group.finish();
    let event = one_event(&submits[..1], &user);
    c.bench_function("encode an event", |b| b.iter(|| black_box(&event).to_json()));
}

fn one_event(submits: &[Submit], user: &UserId) -> Event {
    let mut decision = decide(before(user), submits, UnixMillis(1), BOUNDS);
    assert!(matches!(decision.outcomes[0], Outcome::Accepted(_)));
    decision.events.remove(0)
}

criterion_group! {
    name = rules;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = read, batch
}
criterion_main!(rules);
