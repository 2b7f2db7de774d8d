//! `GET /v1/rooms/{room}/events?stream=ndjson`: the whole log, in lines.

use std::time::Instant;

use roomgate::dev::Admin;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::world::{draw, shard};
use crate::convergence::{FROM_PRIMARY, whole_log};
use crate::world::{Person, World};

/// Of a node, as the issue has it.
const MEMORY_MAX_KIB: u64 = 200 * 1024;

#[tokio::test]
async fn an_export_is_the_whole_log_and_says_where_it_ends() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    draw(world, &alice, room, 1203).await;
    let log = whole_log(world, &alice, room, FROM_PRIMARY).await;
    for after in [0, 1, 500, 1202, 1203, 5000] {
        let path = format!("/v1/rooms/{room}/events?stream=ndjson&after={after}&{FROM_PRIMARY}");
        let answer = world.api(&alice).get(&path).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/x-ndjson");
        assert!(answer.headers["roomgate-position"].to_str().unwrap().ends_with(".1203"));
        let mut lines: Vec<Value> =
            answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.pop(), Some(json!({"type": "end", "seq": 1203})), "after {after}");
        assert_eq!(lines, log[after.min(1203)..], "after {after}");
    }
    let bad = ["stream=csv", "stream=ndjson&user=x", "stream=ndjson&limit=5", "stream=ndjson&after=x"];
    for query in bad {
        let answer = world.api(&alice).get(&format!("/v1/rooms/{room}/events?{query}")).await.unwrap();
        assert_eq!(answer.status, 400, "{query}");
    }
    let stranger = world.api(&alice).get("/v1/rooms/77/events?stream=ndjson").await.unwrap();
    assert_eq!(stranger.status, 404);
}

#[tokio::test]
async fn an_export_ends_where_the_log_ended_when_it_began() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    fill(&shard(world, room).await, room, 20_100).await;
    let mut export = Reader::open(world, 0, &alice, room).await;
    let mut client = world.client(1, &alice).await;
    client.join(room).await;
    let mut seqs = 0;
    while let Some(line) = export.line().await {
        if line["type"] == "end" {
            assert_eq!((line["seq"].as_u64(), seqs), (Some(20_100), 20_100));
            return;
        }
        seqs += 1;
        assert_eq!(line["seq"].as_u64(), Some(seqs));
        if seqs % 5000 == 1 {
            let said = json!({"kind": "message", "data": 1});
            assert_eq!(client.submit(room, &format!("op-{seqs}"), &said).await["type"], "ack");
        }
    }
    panic!("it was cut after {seqs}");
}

#[tokio::test]
async fn an_export_that_can_not_go_on_is_cut_without_its_end() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let admin = shard(world, room).await;
    fill(&admin, room, 200_000).await;
    let mut export = Reader::open(world, 0, &alice, room).await;
    assert_eq!(export.line().await.unwrap()["seq"], 1);
    // What it has not come to is deleted under it.
    admin
        .batch_execute(&format!("DELETE FROM room_event WHERE room_id = {room} AND seq < 200000"))
        .await
        .unwrap();
    let mut seen = 1;
    while let Some(line) = export.line().await {
        assert_eq!(line["seq"].as_u64(), Some(seen + 1), "{line}");
        seen += 1;
    }
    assert!(seen < 200_000);
}

async fn memory_of_an_export(events: u64) {
    let world = World::start(|options| options).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    fill(&shard(&world, room).await, room, events).await;
    let pid = world.cluster().report().nodes[0].pid;
    let before = peak_kib(pid);
    let begun = Instant::now();
    let mut export = Reader::open(&world, 0, &alice, room).await;
    let mut seen = 0;
    let end = loop {
        let line = export.text().await.expect("it is not cut");
        match line.starts_with("{\"type\":\"end\"") {
            true => break serde_json::from_str::<Value>(&line).unwrap(),
            false => seen += 1,
        }
    };
    assert_eq!((end["seq"].as_u64(), seen), (Some(events), events));
    let peak = peak_kib(pid);
    println!(
        "{events} events in {:?}; the node's memory peaked at {peak} KiB, before at {before}",
        begun.elapsed()
    );
    assert!(peak < MEMORY_MAX_KIB, "{peak} KiB");
}

#[tokio::test]
async fn an_export_takes_no_more_memory_than_a_few_pages() {
    memory_of_an_export(50_000).await;
}

/// `make million`
#[tokio::test]
#[ignore = "takes minutes"]
async fn an_export_of_a_million_events_takes_less_than_200_mib() {
    memory_of_an_export(1_000_000).await;
}

/// The most memory that a process ever had.
pub fn peak_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// An empty room gets `events` events.
pub async fn fill(admin: &Admin, room: u64, events: u64) {
    let fill = format!(
        "INSERT INTO room_event
                (room_id, seq, epoch, op_id, user_id, kind, body, digest, version, created_at)
           SELECT {room}, seq, 7, 'op-' || seq, 'u' || seq % 3, 'shape.put',
                  ('{{\"shape\":{{\"id\":\"s' || seq % 500 || '\",\"type\":\"rect\",\"x\":1,\"y\":2,' ||
                   '\"width\":3,\"height\":4,\"n\":' || seq || '}}}}')::json,
                  '\\x00112233445566778899aabbccddeeff', (seq - 1) / 500 + 1, now()
             FROM generate_series(1, {events}) AS seq;
         INSERT INTO shape (room_id, shape_id, version, type, data, last_seq)
           SELECT room_id, 's' || seq % 500, version, 'rect', body->'shape', seq FROM room_event
            WHERE room_id = {room} AND seq > {events} - 500;
         UPDATE room_head SET head_seq = {events}, head_epoch = 7, live_shapes = 500 WHERE room_id = {room}"
    );
    admin.batch_execute(&fill).await.unwrap();
}

/// Takes an export line by line, no faster than asked.
struct Reader(BufReader<TcpStream>);

impl Reader {
    async fn open(world: &World, node: usize, person: &Person, room: u64) -> Self {
        let url = world.cluster().nodes()[node].url();
        let address = url.strip_prefix("http://").unwrap();
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /v1/rooms/{room}/events?stream=ndjson&{FROM_PRIMARY} HTTP/1.1\r\nHost: {address}\r\n\
             Authorization: Bearer {}\r\nConnection: close\r\n\r\n",
            person.token
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut reader = Self(BufReader::new(socket));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.0.read_line(&mut head).await.unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        reader
    }

    /// `None`: the connection ended. The lengths of chunks are skipped: they
    /// don't begin with a brace.
    async fn text(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            if line.starts_with('{') {
                return Some(line);
            }
        }
    }

    async fn line(&mut self) -> Option<Value> {
        self.text().await.map(|line| serde_json::from_str(&line).unwrap())
    }
}
