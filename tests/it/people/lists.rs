//! Batches of submits, shapes and events over HTTP.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::client::rect;
use crate::world::{Person, World, now, refused};

fn add(n: usize) -> Value {
    let shape_type = if n.is_multiple_of(2) { "rect" } else { "text" };
    json!({"op": format!("op-{n}"), "kind": "shape.add", "shape": {"id": format!("s{n:04}"), "type": shape_type}})
}

async fn submit(world: &World, person: &Person, room: u64, items: Vec<Value>) -> Vec<Value> {
    let path = format!("/v1/rooms/{room}/events");
    let answer = world.api(person).post(&path, &json!({"items": items})).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn each_item_of_a_batch_gets_its_answer_in_order() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let items = vec![
        json!({"op": "1", "kind": "shape.add", "shape": rect("a", 1)}),
        json!({"op": "2", "kind": "shape.add", "shape": rect("a", 1)}),
        json!({"type": "submit", "room": room, "op": "3", "kind": "message", "data": {"text": "hi"}}),
        json!({"op": "4", "kind": "shape.add", "shape": {"id": "b", "type": "rect"}}),
        json!({"op": "5", "room": room + 1, "kind": "room.clear"}),
        json!({"op": "6", "kind": "fly"}),
        json!(7),
        json!({"op": "8", "type": "join", "kind": "room.clear"}),
        json!({"op": "9", "user": "somebody", "kind": "room.clear"}),
        json!({"kind": "room.clear"}),
        json!({"op": "1", "kind": "shape.add", "shape": rect("a", 1)}),
        json!({"op": "1", "kind": "room.clear"}),
        json!({"op": "10", "kind": "room.clear"}),
    ];
    let answers = submit(world, &alice, room, items).await;
    let said: Vec<(&str, &str)> = answers
        .iter()
        .map(|answer| (answer["type"].as_str().unwrap(), answer["code"].as_str().unwrap_or_default()))
        .collect();
    let expected = [
        ("ack", ""),
        ("reject", "shape_exists"),
        ("ack", ""),
        ("reject", "invalid_shape"),
        ("error", "bad_message"),
        ("reject", "bad_message"),
        ("error", "bad_message"),
        ("error", "unknown_type"),
        ("error", "forbidden"),
        ("error", "bad_message"),
        ("ack", ""),
        ("reject", "op_reused"),
        ("ack", ""),
    ];
    assert_eq!(said, expected);
    let seqs: Vec<u64> = answers.iter().filter_map(|answer| answer["seq"].as_u64()).collect();
    assert_eq!(seqs, [1, 2, 1, 3]);
    assert_eq!((&answers[10]["duplicate"], &answers[12]["cleared"]), (&json!(true), &json!(1)));
}

#[tokio::test]
async fn batches_that_are_none_are_refused_whole() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let path = format!("/v1/rooms/{room}/events");
    let many: Vec<Value> = (0..1001).map(add).collect();
    for (body, status, code) in [
        (json!({"items": many}).to_string(), 413, "too_large"),
        ("{\"items\":[".to_owned(), 400, "bad_json"),
        ("{}".to_owned(), 400, "bad_message"),
        (json!({"items": [], "user": "bob"}).to_string(), 403, "forbidden"),
        (format!("{{\"items\":[\"{}\"]}}", "x".repeat(9 << 20)), 413, "too_large"),
    ] {
        let answer = world.api_of(0, &alice).send("POST".parse().unwrap(), &path, Some(body)).await.unwrap();
        refused(&answer, status, code);
    }
    assert!(submit(world, &alice, room, Vec::new()).await.is_empty());
}

#[tokio::test]
async fn a_server_acts_in_any_room_for_anybody() {
    let world = World::shared();
    let olga = world.person("olga");
    let wish = json!({"slug": format!("srv-{:016x}", rand::random::<u64>()), "access": "invite"});
    let room = world.api(&olga).post("/v1/rooms", &wish).await.unwrap().json()["room"].as_u64().unwrap();
    let token = world.sign(&json!({"sub": "bot", "scope": "server", "exp": now() + 60}));
    let bot = Person { user: "bot".to_owned(), token };
    let items = vec![
        json!({"op": "1", "kind": "message", "data": 1}),
        json!({"op": "1", "user": "carol", "kind": "message", "data": 2}),
    ];
    let answers = submit(world, &bot, room, items).await;
    assert!(answers.iter().all(|answer| answer["type"] == "ack"), "{answers:?}");
    let path = format!("/v1/rooms/{room}/events?freshness=primary");
    let log = world.api(&bot).get(&path).await.unwrap().json();
    let users: Vec<&Value> = log["items"].as_array().unwrap().iter().map(|event| &event["user"]).collect();
    assert_eq!(users, [&json!("bot"), &json!("carol")]);
}

#[tokio::test]
async fn all_pages_of_shapes_are_of_one_seq_on_whichever_node() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    submit(world, &alice, room, (0..250).map(add).collect()).await;
    let page = async |node: usize, rest: String| {
        let path = format!("/v1/rooms/{room}/shapes?limit=40{rest}");
        let answer = world.api_of(node, &alice).get(&path).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer
    };
    for filter in ["", "&type=rect"] {
        let before = page(0, format!("{filter}&freshness=primary")).await;
        let first = before.json();
        let (mut page_of, mut ids) = (first.clone(), BTreeSet::new());
        let mut node = 0;
        loop {
            let items = page_of["items"].as_array().unwrap();
            assert_eq!((&page_of["seq"], &page_of["epoch"]), (&first["seq"], &first["epoch"]));
            for item in items {
                assert_eq!(item["version"], 1, "{item}: changed after the first page");
                assert!(ids.insert(item["shape"]["id"].as_str().unwrap().to_owned()), "{item} came twice");
            }
            let Some(cursor) = page_of["next_cursor"].as_str() else { break };
            // Between any two pages everything changes.
            let touched = format!("touch-{:x}", rand::random::<u64>());
            let touch = vec![
                json!({"op": touched, "kind": "shape.update", "shape_id": "s0248", "patch": {"x": 1}}),
                json!({"op": format!("{touched}-d"), "kind": "shape.delete", "shape_id": "s0246"}),
                json!({"op": format!("{touched}-a"), "kind": "shape.put", "shape": {"id": touched, "type": "rect"}}),
            ];
            if ids.len() < 80 && filter.is_empty() {
                submit(world, &alice, room, touch).await;
            }
            node = (node + 1) % 3;
            page_of = page(node, format!("{filter}&cursor={cursor}")).await.json();
        }
        if filter.is_empty() {
            assert_eq!(ids, (0..250).map(|n| format!("s{n:04}")).collect());
            // Back to where the second walk expects it.
            let back = vec![json!({"op": "back", "kind": "room.clear"})];
            submit(world, &alice, room, back).await;
            let again = (0..250).map(|n| {
                let mut item = add(n);
                (item["op"], item["shape"]["id"]) = (json!(format!("again-{n}")), json!(format!("t{n:04}")));
                item
            });
            submit(world, &alice, room, again.collect()).await;
        } else {
            assert_eq!(ids.len(), 125);
        }
    }
    for cursor in ["nonsense", "1.2.3.zz"] {
        let path = format!("/v1/rooms/{room}/shapes?cursor={cursor}");
        refused(&world.api(&alice).get(&path).await.unwrap(), 400, "bad_message");
    }
    let path = format!("/v1/rooms/{room}/shapes?cursor=1.1.1000.00");
    refused(&world.api(&alice).get(&path).await.unwrap(), 410, "cursor_expired");
}

#[tokio::test]
async fn the_log_is_read_by_position_person_and_time() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    submit(world, &alice, room, (0..30).map(add).collect()).await;
    submit(world, &bob, room, (30..45).map(add).collect()).await;
    let read = async |rest: &str| {
        let path = format!("/v1/rooms/{room}/events?freshness=primary{rest}");
        let answer = world.api(&bob).get(&path).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        let page = answer.json();
        assert_eq!(answer.headers["roomgate-position"], format!("{}.45", page["epoch"]));
        assert_eq!(answer.headers["roomgate-served-by"], "primary");
        page
    };
    let seqs = |page: &Value| -> Vec<u64> {
        page["items"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
    };
    let (mut log, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let page = read(&format!("&limit=20&cursor={cursor}")).await;
        assert_eq!(page["head"], 45);
        log.extend(seqs(&page));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = next.to_owned();
    }
    assert_eq!(log, (1..=45).collect::<Vec<u64>>());
    assert_eq!(seqs(&read("&after=43").await), [44, 45]);
    assert_eq!(seqs(&read(&format!("&user={}", bob.user)).await), (31..=45).collect::<Vec<u64>>());
    let future = (now() + 1000) * 1000;
    assert!(seqs(&read(&format!("&since_ms={future}")).await).is_empty());
    assert_eq!(seqs(&read("&since_ms=0&limit=3").await), [1, 2, 3]);
    for bad in ["after=x", "limit=0", "limit=-1", "user=%20", "since_ms=soon"] {
        let path = format!("/v1/rooms/{room}/events?{bad}");
        refused(&world.api(&bob).get(&path).await.unwrap(), 400, "bad_message");
    }
}

#[tokio::test]
async fn a_read_is_as_fresh_as_it_was_asked_to_be_or_says_why_not() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    for n in 0..20 {
        let ack = submit(world, &alice, room, vec![add(n)]).await.remove(0);
        let (epoch, seq) = (ack["epoch"].as_u64().unwrap(), ack["seq"].as_u64().unwrap());
        // Read your own write, from any node and server.
        for what in ["", "/shapes", "/events"] {
            let path = format!("/v1/rooms/{room}{what}?min_seq={epoch}.{seq}");
            let answer = world.api_of(n % 3, &alice).get(&path).await.unwrap();
            let position = answer.headers["roomgate-position"].to_str().unwrap().to_owned();
            assert_eq!(position, format!("{epoch}.{seq}"), "{path}: {}", answer.text);
        }
        if n == 19 {
            for what in ["", "/shapes", "/events"] {
                let get = async |query: String| {
                    world.api(&alice).get(&format!("/v1/rooms/{room}{what}?{query}")).await.unwrap()
                };
                refused(&get(format!("min_seq={epoch}.{}", seq + 1)).await, 409, "ahead_of_log");
                refused(&get(format!("min_seq={}.{seq}", epoch + 1)).await, 409, "position_lost");
                refused(&get("min_seq=7".to_owned()).await, 400, "bad_message");
                refused(&get("max_stale_ms=-1".to_owned()).await, 400, "bad_message");
                refused(&get("freshness=newest".to_owned()).await, 400, "bad_message");
                let primary = get("freshness=primary".to_owned()).await;
                assert_eq!(primary.headers["roomgate-served-by"], "primary");
                let lenient = get("max_stale_ms=60000".to_owned()).await;
                let served_by = lenient.headers["roomgate-served-by"].to_str().unwrap().to_owned();
                assert!(served_by.starts_with("replica/"), "{what}: {served_by}");
            }
        }
    }
}

#[tokio::test]
async fn the_first_protocols_list_has_the_live_shapes_in_order() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    submit(world, &alice, room, (0..3).map(add).collect()).await;
    let change = vec![
        json!({"op": "x", "kind": "shape.delete", "shape_id": "s0001"}),
        json!({"op": "y", "kind": "shape.update", "shape_id": "s0000", "patch": {"x": 5}}),
    ];
    submit(world, &bob, room, change).await;
    let path = format!("/chats/{room}?freshness=primary");
    let answer = world.api(&bob).get(&path).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    let messages = answer.json()["messages"].as_array().unwrap().clone();
    let said: Vec<(Value, &Value, &Value)> = messages
        .iter()
        .map(|m| (serde_json::from_str(m["message"].as_str().unwrap()).unwrap(), &m["userId"], &m["roomId"]))
        .collect();
    let (first, second) = (
        json!({"shape": {"id": "s0002", "type": "rect"}}),
        json!({"shape": {"id": "s0000", "type": "rect", "x": 5}}),
    );
    assert_eq!(said, [(first, &json!(alice.user), &json!(room)), (second, &json!(bob.user), &json!(room)),]);
    assert!(messages.iter().all(|m| m["id"].is_u64() && m["createdAt"].is_u64()));
    let none = roomgate::dev::Api::new(&world.cluster().url()).get(&path).await.unwrap();
    refused(&none, 401, "unauthenticated");
}
