//! The drawing app's own client reads the history over HTTP, joins over a
//! WebSocket, and appends each `chat`: it must get each event exactly once.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use roomgate::dev::{Options, connect};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::{Client, rect};
use crate::legacy::OldClient;
use crate::moves::{owner, slot, told};
use crate::world::{Person, World};

const END: &str = "the end";

/// The app's screen.
#[derive(Debug, Default, Clone, PartialEq)]
struct Canvas {
    /// In the order in which they were appended, with every repetition.
    shapes: Vec<Value>,
    texts: Vec<String>,
    deletes: usize,
}

impl Canvas {
    /// From the answer of `GET /chats/{room}` of one node.
    async fn read(world: &World, node: usize, person: &Person, room: u64) -> Self {
        let answer = world.api_of(node, person).get(&format!("/chats/{room}")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        let mut canvas = Self::default();
        for message in answer.json()["messages"].as_array().unwrap() {
            canvas.append(message["message"].as_str().unwrap());
        }
        canvas
    }

    /// Opens the socket and joins, without waiting for anything.
    async fn join(world: &World, node: usize, person: &Person, room: u64) -> OldClient {
        let mut client = OldClient::connect(world, node, "/", &person.token).await;
        client.say(&json!({"type": "join_room", "roomId": room})).await;
        client
    }

    fn append(&mut self, message: &str) {
        match serde_json::from_str::<Value>(message) {
            Ok(drawing) if drawing["shape"].is_object() => self.shapes.push(drawing["shape"].clone()),
            _ => self.texts.push(message.to_owned()),
        }
    }

    async fn listen(&mut self, client: &mut OldClient) {
        self.listen_until(client, END).await;
    }

    /// Takes the client's messages up to this text.
    async fn listen_until(&mut self, client: &mut OldClient, end: &str) {
        loop {
            let told = client.hears().await;
            match told["type"].as_str().unwrap() {
                "chat" if told["message"] == end => return,
                "chat" => self.append(told["message"].as_str().unwrap()),
                "delete_shape" => {
                    self.deletes += 1;
                    self.shapes.retain(|shape| shape["id"] != told["shapeId"]);
                }
                _ => panic!("{told}"),
            }
        }
    }

    fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.shapes.iter().map(|shape| shape["id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids
    }
}

async fn submit(client: &mut Client, room: u64, body: Value) {
    let op = format!("op-{:016x}", rand::random::<u64>());
    let ack = client.submit(room, &op, &body).await;
    assert_eq!(ack["type"], "ack", "{body} got {ack}");
}

async fn add(client: &mut Client, room: u64, ids: impl IntoIterator<Item = String>) {
    for id in ids {
        submit(client, room, json!({"kind": "shape.add", "shape": rect(&id, 1)})).await;
    }
}

async fn say(client: &mut Client, room: u64, text: &str) {
    submit(client, room, json!({"kind": "message", "data": {"text": text}})).await;
}

/// `count` ids in order.
fn ids(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{prefix}{n:03}"))
}

fn sorted(parts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = parts.into_iter().collect();
    all.sort_unstable();
    all
}

/// A room that is live on node 0, with a long log: shapes, texts, deleted shapes.
async fn drawn(world: &World, owner: &Person) -> (u64, Client) {
    let room = world.room(owner, "drawing").await;
    let mut writer = world.client(0, owner).await;
    writer.join(room).await;
    add(&mut writer, room, ids("old", 60)).await;
    say(&mut writer, room, "an old text").await;
    for id in ids("old", 10) {
        submit(&mut writer, room, json!({"kind": "shape.delete", "shape_id": id})).await;
    }
    (room, writer)
}

#[tokio::test]
async fn a_join_continues_after_the_history_on_every_node() {
    let world = World::shared();
    for (read_on, join_on) in [(0, 0), (0, 1), (1, 0), (1, 2)] {
        let (alice, bob) = (world.person("alice"), world.person("bob"));
        let (room, mut writer) = drawn(world, &alice).await;
        let mut canvas = Canvas::read(world, read_on, &bob, room).await;
        // A read may be as stale as replicas are; the join sends the rest.
        let before = canvas.shapes.len();
        add(&mut writer, room, ids("between", 5)).await;
        let patch = json!({"kind": "shape.update", "shape_id": "old050", "patch": {"x": 77}});
        submit(&mut writer, room, patch).await;
        submit(&mut writer, room, json!({"kind": "shape.delete", "shape_id": "old051"})).await;
        say(&mut writer, room, "between").await;
        let mut client = Canvas::join(world, join_on, &bob, room).await;
        add(&mut writer, room, ids("after", 5)).await;
        say(&mut writer, room, END).await;
        canvas.listen(&mut client).await;

        let context = format!("read on {read_on} with {before} shapes, joined on {join_on}");
        let moved = canvas.shapes.iter().filter(|shape| shape["id"] == "old050").collect::<Vec<_>>();
        let mut new = rect("old050", 1);
        new["x"] = json!(77);
        assert_eq!(moved, [&rect("old050", 1), &new], "an update is drawn once more: {context}");
        let mut expected = sorted(ids("old", 60).skip(10).chain(ids("between", 5)).chain(ids("after", 5)));
        expected.retain(|id| id != "old051");
        expected.push("old050".to_owned());
        expected.sort_unstable();
        assert_eq!(canvas.ids(), expected, "{context}");
        assert_eq!(canvas.texts.last().map(String::as_str), Some("between"), "{context}");
    }
}

#[tokio::test]
async fn a_clear_between_history_and_join_deletes_each_shape_once() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let (room, mut writer) = drawn(world, &alice).await;
    world.replicas_have_caught_up().await;
    let mut canvas = Canvas::read(world, 1, &bob, room).await;
    assert_eq!(canvas.shapes.len(), 50);
    submit(&mut writer, room, json!({"kind": "room.clear"})).await;
    add(&mut writer, room, ids("new", 2)).await;
    let mut client = Canvas::join(world, 2, &bob, room).await;
    say(&mut writer, room, END).await;
    canvas.listen(&mut client).await;
    assert_eq!((canvas.deletes, canvas.ids()), (50, vec!["new000", "new001"]));
}

#[tokio::test]
async fn a_join_without_history_gets_later_events_only() {
    let world = World::shared();
    for node in [0, 1] {
        let (alice, bob) = (world.person("alice"), world.person("bob"));
        let (room, mut writer) = drawn(world, &alice).await;
        let mut client = OldClient::joined(world, node, &bob, &json!(room)).await;
        add(&mut writer, room, ids("after", 3)).await;
        say(&mut writer, room, END).await;
        let mut canvas = Canvas::default();
        canvas.listen(&mut client).await;
        let only_later =
            Canvas { shapes: ids("after", 3).map(|id| rect(&id, 1)).collect(), ..Canvas::default() };
        assert_eq!(canvas, only_later, "on node {node}");

        // The history was used by that join, so a reconnect begins anew.
        world.replicas_have_caught_up().await;
        Canvas::read(world, node, &bob, room).await;
        drop(OldClient::joined(world, node, &bob, &json!(room)).await);
        add(&mut writer, room, ids("away", 3)).await;
        let mut client = OldClient::joined(world, node, &bob, &json!(room)).await;
        say(&mut writer, room, END).await;
        let mut canvas = Canvas::default();
        canvas.listen(&mut client).await;
        assert_eq!(canvas, Canvas::default(), "on node {node}");
    }
}

#[tokio::test]
async fn a_history_of_two_minutes_ago_is_not_continued() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let (room, mut writer) = drawn(world, &alice).await;
    Canvas::read(world, 0, &bob, room).await;
    let shard = &world.primaries().await[world.shard_of(room).await];
    let age = format!(
        "UPDATE room_legacy_read SET read_at = read_at - interval '2 minutes' WHERE room_id = {room}"
    );
    shard.batch_execute(&age).await.unwrap();
    add(&mut writer, room, ids("missed", 5)).await;
    let mut client = OldClient::joined(world, 1, &bob, &json!(room)).await;
    say(&mut writer, room, END).await;
    let mut canvas = Canvas::default();
    canvas.listen(&mut client).await;
    assert_eq!(canvas, Canvas::default());

    // The next read of the room deletes it.
    Canvas::read(world, 0, &alice, room).await;
    let left = format!("SELECT count(*) FROM room_legacy_read WHERE room_id = {room}");
    assert_eq!(shard.query_one(&left, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn tabs_of_one_user_end_with_each_shape_once_in_any_order() {
    let world = World::shared();
    for order in [[0, 1], [1, 0]] {
        let (alice, bob) = (world.person("alice"), world.person("bob"));
        let (room, mut writer) = drawn(world, &alice).await;
        let mut tabs = vec![Canvas::read(world, 0, &bob, room).await];
        add(&mut writer, room, ids("one", 5)).await;
        world.replicas_have_caught_up().await;
        tabs.push(Canvas::read(world, 1, &bob, room).await);
        assert_eq!(tabs[1].shapes.len(), 55);
        add(&mut writer, room, ids("two", 5)).await;
        let mut clients = Vec::new();
        for tab in order {
            let mut client = Canvas::join(world, tab, &bob, room).await;
            // This join is over before the next one when its own text comes back.
            let here = format!("tab {tab} is here");
            client.say(&json!({"type": "chat", "roomId": room, "message": here})).await;
            tabs[tab].listen_until(&mut client, &here).await;
            clients.push((tab, client));
        }
        add(&mut writer, room, ids("three", 5)).await;
        say(&mut writer, room, END).await;
        for (tab, mut client) in clients {
            tabs[tab].listen(&mut client).await;
        }
        let all = ids("old", 60).skip(10).chain(ids("one", 5)).chain(ids("two", 5)).chain(ids("three", 5));
        let all = sorted(all);
        for (tab, canvas) in tabs.iter().enumerate() {
            assert_eq!(canvas.ids(), all, "tab {tab}, joined in order {order:?}");
        }
    }
}

/// Another tab of the same user reads while a join looks for its read.
#[tokio::test]
async fn a_history_read_during_another_join_is_continued() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 0, ..options }).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let (room, mut writer) = drawn(&world, &alice).await;
    let admin = &world.primaries().await[0];
    Canvas::read(&world, 0, &bob, room).await;
    let mover = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    mover.batch_execute("BEGIN; SELECT FROM room_legacy_read FOR UPDATE").await.unwrap();
    let mut first = Canvas::join(&world, 0, &bob, room).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted";
    let waits = async {
        while admin.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waits).await.expect("the join waits for its read");
    let mut canvas = Canvas::read(&world, 0, &bob, room).await;
    mover.batch_execute("COMMIT").await.unwrap();
    // The first tab is in the room once it gets a text.
    let mut other = Canvas::default();
    say(&mut writer, room, "joined?").await;
    other.listen_until(&mut first, "joined?").await;
    add(&mut writer, room, ids("between", 5)).await;
    let mut second = Canvas::join(&world, 0, &bob, room).await;
    say(&mut writer, room, END).await;
    canvas.listen(&mut second).await;
    let expected = sorted((10..60).map(|n| format!("old{n:03}")).chain(ids("between", 5)));
    assert_eq!(canvas.ids(), expected);
}

#[tokio::test]
async fn a_history_read_after_the_join_lacks_no_event_told() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let (room, mut writer) = drawn(world, &alice).await;
    let mut client = OldClient::joined(world, 0, &bob, &json!(room)).await;
    for (n, id) in ids("new", 20).enumerate() {
        add(&mut writer, room, [id.clone()]).await;
        assert_eq!(client.hears_shape().await.0["id"], id.as_str());
        assert_eq!(Canvas::read(world, n % 3, &bob, room).await.shapes.len(), 51 + n);
    }
}

#[tokio::test]
async fn a_second_join_of_a_session_repeats_nothing() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let (room, mut writer) = drawn(world, &alice).await;
    let mut client = OldClient::joined(world, 0, &bob, &json!(room)).await;
    add(&mut writer, room, ids("first", 5)).await;
    client.say(&json!({"type": "join_room", "roomId": room})).await;
    add(&mut writer, room, ids("second", 5)).await;
    say(&mut writer, room, END).await;
    let mut canvas = Canvas::default();
    canvas.listen(&mut client).await;
    assert_eq!(canvas.ids(), sorted(ids("first", 5).chain(ids("second", 5))));
    assert_eq!(canvas.deletes, 0);

    // A page that is opened again reads, leaves and joins on its old socket.
    world.replicas_have_caught_up().await;
    let mut canvas = Canvas::read(world, 1, &bob, room).await;
    client.say(&json!({"type": "leave_room", "roomId": room})).await;
    client.say(&json!({"type": "chat", "roomId": room, "message": "am I here?"})).await;
    assert_eq!(client.hears().await["code"], "not_joined");
    add(&mut writer, room, ids("third", 5)).await;
    client.say(&json!({"type": "join_room", "roomId": room})).await;
    say(&mut writer, room, END).await;
    canvas.listen(&mut client).await;
    let new = ["first", "second", "third"].into_iter().flat_map(|prefix| ids(prefix, 5));
    assert_eq!(canvas.ids(), sorted(ids("old", 60).skip(10).chain(new)));
}

#[tokio::test]
async fn a_history_that_the_log_lost_is_reported_at_the_join() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let (room, mut writer) = drawn(world, &alice).await;
    Canvas::read(world, 0, &bob, room).await;
    let lose = format!("UPDATE room_legacy_read SET epoch = epoch + 1 WHERE room_id = {room}");
    for primary in world.primaries().await {
        primary.batch_execute(&lose).await.unwrap();
    }
    let mut client = Canvas::join(world, 1, &bob, room).await;
    let error = client.hears().await;
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("position_lost")), "{error}");
    add(&mut writer, room, ids("after", 2)).await;
    say(&mut writer, room, END).await;
    let mut canvas = Canvas::default();
    canvas.listen(&mut client).await;
    assert_eq!(canvas.ids(), ["after000", "after001"]);
}

#[tokio::test]
async fn a_history_is_continued_on_the_shard_that_got_the_slot() {
    let world = World::start(|options| options.set("jobs.janitor_interval_ms", 200)).await;
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let (room, mut writer) = drawn(&world, &alice).await;
    world.replicas_have_caught_up().await;
    let mut canvas = Canvas::read(&world, 0, &bob, room).await;
    add(&mut writer, room, ids("before", 5)).await;
    let to = if owner(&world, slot(room)).await == "a" { "b" } else { "a" };
    told(&world, &["move", "--slots", &slot(room).0.to_string(), "--to", to]).await;
    add(&mut writer, room, ids("after", 5)).await;
    let mut client = Canvas::join(&world, 1, &bob, room).await;
    say(&mut writer, room, END).await;
    canvas.listen(&mut client).await;
    let all = ids("old", 60).skip(10).chain(ids("before", 5)).chain(ids("after", 5));
    assert_eq!(canvas.ids(), sorted(all));

    // In time it is deleted, although nobody reads the room again.
    let index = world.cluster().shards().iter().position(|shard| shard.name() == to).unwrap();
    let shard = &world.primaries().await[index];
    shard
        .batch_execute("UPDATE room_legacy_read SET read_at = read_at - interval '2 minutes'")
        .await
        .unwrap();
    let deleted = async {
        let left = "SELECT count(*) FROM room_legacy_read";
        while shard.query_one(left, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), deleted).await.expect("the janitor deletes it");
}

#[tokio::test]
async fn clients_that_join_under_load_get_each_event_once() {
    joins_under_load(World::shared()).await;
}

#[tokio::test]
async fn clients_get_each_event_once_without_redis() {
    let world = World::start(|options| options).await;
    world.cluster().redis().service().kill_for_good().await;
    joins_under_load(&world).await;
}

async fn joins_under_load(world: &World) {
    let alice = world.person("alice");
    let (room, mut writer) = drawn(world, &alice).await;
    world.replicas_have_caught_up().await;
    let (stop, stopped) = watch::channel(false);
    let writing = join_all((0..2).map(|node| {
        let (world, alice, stopped) = (world, &alice, stopped.clone());
        async move {
            let mut client = world.client(node, alice).await;
            client.join(room).await;
            let (mut drawn, mut deleted) = (Vec::new(), Vec::new());
            while !*stopped.borrow() && drawn.len() < 400 {
                let id = format!("load-{node}-{:04}", drawn.len());
                add(&mut client, room, [id.clone()]).await;
                if drawn.len() % 7 == 3 {
                    submit(&mut client, room, json!({"kind": "shape.delete", "shape_id": id})).await;
                    deleted.push(id.clone());
                }
                drawn.push(id);
            }
            (drawn, deleted)
        }
    }));
    let joining = async {
        let joins = (0..12).map(|number| async move {
            let person = world.person(&format!("old{number}"));
            tokio::time::sleep(Duration::from_millis(number * 60)).await;
            let canvas = Canvas::read(world, number as usize % 3, &person, room).await;
            tokio::time::sleep(Duration::from_millis(number * 30)).await;
            let client = Canvas::join(world, (number / 3) as usize % 3, &person, room).await;
            Ok::<_, ()>((canvas, client))
        });
        let joined = try_join_all(joins).await.unwrap();
        stop.send_replace(true);
        joined
    };
    let (written, joined) = tokio::join!(writing, joining);
    say(&mut writer, room, END).await;
    let (drawn, deleted): (Vec<_>, Vec<_>) = written.into_iter().unzip();
    let deleted = deleted.concat();
    let live = ids("old", 60).skip(10).chain(drawn.concat().into_iter().filter(|id| !deleted.contains(id)));
    let live = sorted(live);
    println!("{} shapes, {} deleted", live.len(), deleted.len());
    for (mut canvas, mut client) in joined {
        let read = canvas.shapes.len();
        canvas.listen(&mut client).await;
        assert_eq!(canvas.ids(), live, "a client that read {read} shapes");
        assert!(canvas.deletes <= deleted.len(), "{} deletes", canvas.deletes);
    }
}
