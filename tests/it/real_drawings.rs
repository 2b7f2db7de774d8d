//! Drawings that people made, through the balancer and back.
//!
//! An excerpt is shipped; `make real-shapes FILE=…` takes all of another file.

use std::collections::BTreeMap;
use std::io::Read;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::client::submit;
use crate::convergence::{state_over_http, whole_log};
use crate::world::World;

/// How many submits a client sends before it waits for their answers.
const WINDOW: usize = 25;
/// Clients of one room.
const CLIENTS: usize = 3;

#[tokio::test]
async fn real_drawings_come_back_equal_value_by_value_from_both_shards() {
    let drawings = read(&file());
    let shapes: usize = drawings.values().map(Vec::len).sum();
    println!("{shapes} shapes in {} rooms", drawings.len());
    let world = World::shared();
    let began = std::time::Instant::now();

    let rooms = join_all(drawings.iter().map(|(slug, shapes)| draw(world, slug, shapes))).await;
    println!("all acked after {:.1} s", began.elapsed().as_secs_f64());
    let checks = drawings.values().zip(&rooms).map(|(shapes, room)| check(world, room, shapes));
    let shards: std::collections::BTreeSet<usize> = join_all(checks).await.into_iter().collect();
    println!("all equal after {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(shards.len(), world.cluster().shards().len(), "all rooms lie on shards {shards:?}");
}

/// A room and the position of its last ack.
struct Drawn {
    room: u64,
    epoch: u64,
    seq: u64,
}

/// Submits a room's shapes by several clients at once.
async fn draw(world: &World, slug: &str, shapes: &[Value]) -> Drawn {
    let owner = world.person("owner");
    let slug = format!("{}-{:08x}", slug.chars().take(50).collect::<String>(), rand::random::<u32>());
    let room = world.room_called(&owner, &slug, "open").await;
    let people = (0..CLIENTS).map(|client| async move {
        let person = world.person("artist");
        let mut artist = world.balanced_client(&person).await;
        artist.join(room).await;
        let mine: Vec<&Value> = shapes.iter().skip(client).step_by(CLIENTS).collect();
        let mut acked = Vec::new();
        for (window, part) in mine.chunks(WINDOW).enumerate() {
            let op = |i: usize| format!("op-{window}-{i}");
            let body = |shape: &Value| json!({"kind": "shape.add", "shape": shape});
            let messages: Vec<Value> =
                part.iter().enumerate().map(|(i, shape)| submit(room, &op(i), &body(shape))).collect();
            artist.send(&Value::Array(messages)).await;
            for i in 0..part.len() {
                let ack = artist.answer(room, &op(i)).await;
                assert_eq!(ack["type"], "ack", "{ack}");
                assert!(ack.get("duplicate").is_none(), "{ack}");
                acked.push((ack["seq"].as_u64().unwrap(), ack["epoch"].as_u64().unwrap()));
            }
        }
        acked
    });
    let mut acked: Vec<(u64, u64)> = join_all(people).await.concat();
    acked.sort_unstable();
    let (seq, epoch) = *acked.last().unwrap();
    let acked: Vec<u64> = acked.into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(
        acked,
        (1..=shapes.len() as u64).collect::<Vec<_>>(),
        "each op is acked once, with a seq of its own"
    );
    Drawn { room, epoch, seq }
}

/// Compares the log and the state over HTTP with the input; the room's shard.
async fn check(world: &World, drawn: &Drawn, shapes: &[Value]) -> usize {
    let reader = world.person("reader");
    let Drawn { room, epoch, seq } = *drawn;
    let fresh = format!("min_seq={epoch}.{seq}");
    let log = whole_log(world, &reader, room, &fresh).await;
    let seqs: Vec<u64> = log.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=shapes.len() as u64).collect::<Vec<_>>());

    let sent: BTreeMap<&str, &Value> =
        shapes.iter().map(|shape| (shape["id"].as_str().unwrap(), shape)).collect();
    let logged: BTreeMap<&str, &Value> =
        log.iter().map(|event| (event["shape"]["id"].as_str().unwrap(), &event["shape"])).collect();
    assert_eq!(logged, sent);
    let state = state_over_http(world, &reader, room, &fresh).await;
    let kept: BTreeMap<&str, &Value> = state.iter().map(|(id, (_, shape))| (id.as_str(), shape)).collect();
    assert_eq!(kept, sent);
    world.shard_of(room).await
}

/// Room → shapes, in drawing order.
fn read(path: &str) -> BTreeMap<String, Vec<Value>> {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
    let mut drawings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        drawings.entry(line["room"].as_str().unwrap().to_owned()).or_default().push(line["shape"].clone());
    }
    drawings
}

#[expect(clippy::disallowed_methods, reason = "an input file of the test is no configuration")]
fn file() -> String {
    let excerpt = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/excalidraw-excerpt.ndjson.gz");
    std::env::var("ROOMGATE_SHAPES").unwrap_or_else(|_| excerpt.to_owned())
}
