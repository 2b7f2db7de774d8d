//! Somebody who has the password of Redis writes into it what no node wrote.

use std::time::Duration;

use roomgate::auth::Sealer;
use roomgate::dev::Options;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::view::View;
use crate::world::{Person, World, now};

/// In everything that is forged.
const MARK: &str = "FORGED";
/// Kinds of announcements that there are, and some that may come.
const KINDS: std::ops::RangeInclusive<u8> = 1..=9;

/// A connection to Redis.
pub struct Redis(TcpStream);

impl Redis {
    pub async fn of(world: &World) -> Self {
        Self(TcpStream::connect(("127.0.0.1", world.cluster().redis().port())).await.unwrap())
    }

    pub async fn ask(&mut self, words: &[&[u8]]) -> Value {
        let mut text = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            text.extend(format!("${}\r\n", word.len()).into_bytes());
            text.extend_from_slice(word);
            text.extend_from_slice(b"\r\n");
        }
        self.0.write_all(&text).await.unwrap();
        self.read().await
    }

    /// The next payload of a channel that is subscribed.
    async fn message(&mut self) -> Vec<u8> {
        let message = self.read().await;
        assert_eq!(message[0], "smessage", "{message}");
        hex(message[2].as_str().unwrap())
    }

    /// Texts as they are, bytes that are no text in hexadecimal after `0x`.
    async fn read(&mut self) -> Value {
        let line = self.line().await;
        match line.split_at(1) {
            ("*", count) => {
                let mut items = Vec::new();
                for _ in 0..count.parse::<usize>().unwrap() {
                    items.push(Box::pin(self.read()).await);
                }
                items.into()
            }
            ("$", "-1") => Value::Null,
            ("$", length) => {
                let mut bytes = vec![0; length.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut bytes).await.unwrap();
                bytes.truncate(bytes.len() - 2);
                String::from_utf8(bytes.clone()).map_or_else(|_| unhex(&bytes), Value::from)
            }
            (":" | "+", text) => text.into(),
            _ => panic!("Redis answered {line}"),
        }
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(line[..line.len() - 2].to_vec()).unwrap()
    }
}

fn unhex(bytes: &[u8]) -> Value {
    use std::fmt::Write;
    let mut text = "0x".to_owned();
    bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
    text.into()
}

fn hex(text: &str) -> Vec<u8> {
    let Some(digits) = text.strip_prefix("0x") else { return text.as_bytes().to_vec() };
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn channel(room: u64) -> String {
    format!("roomgate:room:{room}")
}

/// As a node before seals announced something of this kind, from node 77.
pub fn announcement(kind: u8, room: u64, after: &View) -> Vec<u8> {
    let text = |text: &Value| {
        let text = text.to_string();
        [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    };
    let seq = after.seq + 1;
    let body = match kind {
        1 => {
            let event = json!({
                "type": "event", "room": room, "epoch": after.epoch, "seq": seq, "kind": "message",
                "op": "op-forged", "user": "mallory", "at": now() * 1000, "data": MARK,
            });
            let at = (now() * 1000).to_be_bytes();
            [&at[..], &after.epoch.to_be_bytes(), &seq.to_be_bytes(), &text(&event)].concat()
        }
        2 => {
            let session = b"mallory";
            let signal = json!({
                "type": "signal", "room": room, "session": "mallory", "user": "mallory", "data": MARK,
            });
            [&7u32.to_be_bytes()[..], session, &text(&signal)].concat()
        }
        3 => {
            let member = json!({"session": "mallory", "user": "mallory", "name": MARK, "role": "owner"});
            text(&json!({"joined": [member], "left": []}))
        }
        _ => 1_000_000u64.to_be_bytes().to_vec(),
    };
    [&[1, kind][..], &77u64.to_be_bytes(), &body].concat()
}

/// Under a seal made with this secret.
pub fn sealed(secret: &[u8], channel: &str, number: u64, payload: &[u8]) -> Vec<u8> {
    let header = [77u64.to_be_bytes(), number.to_be_bytes(), (now() * 1000).to_be_bytes()].concat();
    let seal = Sealer::of_secret(secret).seal(&[b"message", channel.as_bytes(), &header, payload]);
    [&[2][..], &header, &seal, payload].concat()
}

/// The number of forged messages and events that a client was shown.
pub fn forged_to(client: &Client) -> usize {
    let messages = client.untaken().iter().filter(|message| message.to_string().contains(MARK));
    let events = client.rooms.values().flat_map(|view| &view.seen);
    messages.count() + events.filter(|event| event.to_string().contains(MARK)).count()
}

async fn publish(redis: &mut Redis, channel: &str, payload: &[u8]) {
    redis.ask(&[b"SPUBLISH", channel.as_bytes(), payload]).await;
}

async fn says(client: &mut Client, room: u64, op: &str) -> u64 {
    let ack = client.submit(room, op, &json!({"kind": "message", "data": op})).await;
    ack["seq"].as_u64().unwrap_or_else(|| panic!("{ack}"))
}

#[tokio::test]
async fn forged_payloads_of_every_kind_are_refused() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let (room, other) = (world.room(&alice, "open").await, world.room(&alice, "open").await);
    let (mut writer, mut reader) = (world.client(0, &alice).await, world.client(1, &bob).await);
    for room in [room, other] {
        writer.join(room).await;
        reader.join(room).await;
    }
    let (mut redis, mut spy) = (Redis::of(world).await, Redis::of(world).await);
    spy.ask(&[b"SSUBSCRIBE", channel(room).as_bytes()]).await;
    let seq = says(&mut writer, room, "true-1").await;
    reader.catches_up(room, seq).await;
    let genuine = spy.message().await;

    let before = world.counted_on(1, "roomgate_bus_forged_total", "reason").await;
    let view = reader.rooms[&room].clone();
    let mut sent = [0.0; 3];
    for (number, kind) in KINDS.enumerate() {
        let payload = announcement(kind, room, &view);
        publish(&mut redis, &channel(room), &payload).await;
        let another_key = sealed(b"another secret", &channel(room), number as u64 + 1, &payload);
        publish(&mut redis, &channel(room), &another_key).await;
        sent[0] += 1.0;
        sent[1] += 1.0;
    }
    publish(&mut redis, &channel(other), &genuine).await;
    sent[1] += 1.0;
    publish(&mut redis, &channel(room), &genuine).await;
    sent[2] += 1.0;
    publish(&mut redis, "roomgate:revoked", b"").await;
    sent[0] += 1.0;

    let seq = says(&mut writer, room, "true-2").await;
    reader.catches_up(room, seq).await;
    let mut late = world.client(1, &alice).await;
    late.resume(room, View { epoch: view.epoch, ..View::default() }).await;
    for client in [&reader, &late] {
        assert_eq!(forged_to(client), 0, "{:?} {:?}", client.untaken(), client.rooms);
        let data: Vec<&Value> = client.rooms[&room].seen.iter().map(|event| &event["data"]).collect();
        assert_eq!(data, ["true-1", "true-2"]);
    }
    let after = world.counted_on(1, "roomgate_bus_forged_total", "reason").await;
    for (reason, sent) in ["unsigned", "wrong_seal", "replayed"].into_iter().zip(sent) {
        assert!(after[reason] >= before[reason] + sent, "{reason}: {before:?}, then {after:?}");
    }
}

#[tokio::test]
async fn forged_entries_of_members_are_not_listed() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let (room, other) = (world.room(&alice, "open").await, world.room(&alice, "open").await);
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let (mut redis, key) = (Redis::of(world).await, format!("roomgate:members:{room}"));
    // Nobody is in the room on this node, which therefore reads the entries.
    let listed = async |room: u64| {
        let answer = world.api_of(1, &bob).get(&format!("/v1/rooms/{room}/presence")).await.unwrap();
        answer.json()
    };
    while listed(room).await["count"] != 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let session = client.session.clone();
    let stored = redis.ask(&[b"HGET", key.as_bytes(), session.as_bytes()]).await;
    let stored = stored.as_str().unwrap();
    let (node, _) = stored.split_once(' ').unwrap();
    let member = json!({"session": "ghost", "user": "mallory", "name": MARK, "role": "owner"});
    let unsigned = format!("{node} {member}");
    let changed = stored.replace("alice", MARK);
    assert_ne!(changed, stored);
    let elsewhere = format!("roomgate:members:{other}");
    for (key, session, entry) in [
        (&key, "ghost", unsigned.as_str()),
        (&key, "ghost-2", &stored.replace(&session, "ghost-2")),
        (&key, "ghost-3", &changed),
        (&elsewhere, session.as_str(), stored),
    ] {
        redis.ask(&[b"HSET", key.as_bytes(), session.as_bytes(), entry.as_bytes()]).await;
    }
    assert_eq!(listed(other).await["count"], 0);
    let members = listed(room).await;
    assert_eq!(members["count"], 1, "{members}");
    assert!(!members.to_string().contains(MARK), "{members}");
}

/// A key of `auth.keys` is worth more than the password of Redis, but the log still
/// wins.
#[tokio::test]
async fn forged_event_with_a_valid_seal_ends_in_a_resync() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let (mut writer, mut reader) = (world.client(0, &alice).await, world.client(1, &bob).await);
    writer.join(room).await;
    reader.join(room).await;
    let seq = says(&mut writer, room, "true-1").await;
    reader.catches_up(room, seq).await;

    let secret = std::fs::read(world.cluster().report().jwt.key_file).unwrap();
    let forged = announcement(1, room, &reader.rooms[&room]);
    let forged = sealed(&secret, &channel(room), 1, &forged);
    let mut redis = Redis::of(world).await;
    publish(&mut redis, &channel(room), &forged).await;
    reader.catches_up(room, seq + 1).await;
    // The true event of that seq: the place is taken.
    assert_eq!(says(&mut writer, room, "true-2").await, seq + 1);
    let resync = reader.wait(|message| message["type"] == "resync").await;
    assert_eq!((&resync["room"], &resync["reason"]), (&json!(room), &json!("position_lost")), "{resync}");
    reader.until(|client| forged_to(client) == 0).await;
    let seq = says(&mut writer, room, "true-3").await;
    reader.catches_up(room, seq).await;
    assert_eq!(reader.rooms[&room].seen.last().unwrap()["data"], "true-3");
}

/// How much of `count` forged events one member is shown, if nodes accept or refuse
/// what has no seal.
pub async fn shown_of(count: usize, unsigned: &str) -> usize {
    let options = |options: Options| Options { nodes: 1, shards: 1, replicas: 0, ..options };
    let world = World::start(|o| options(o).set("redis.unsigned", unsigned)).await;
    let ann: Person = world.person("ann");
    let room = world.room(&ann, "open").await;
    let mut client = world.client(0, &ann).await;
    client.join(room).await;
    let seq = says(&mut client, room, "true-1").await;
    client.catches_up(room, seq).await;
    let mut redis = Redis::of(&world).await;
    let view = client.rooms[&room].clone();
    for ahead in 0..count as u64 {
        let view = View { seq: view.seq + ahead, ..view.clone() };
        publish(&mut redis, &channel(room), &announcement(1, room, &view)).await;
    }
    // A moment in which they are shown, if they are.
    client.listens_until(tokio::time::sleep(Duration::from_secs(1))).await;
    forged_to(&client)
}
