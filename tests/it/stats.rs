//! Counts of a room's days: from its log, once an event, whatever becomes of it.

use std::time::Duration;

use roomgate::dev::{Admin, Answer, Options};
use serde_json::{Value, json};

use crate::stopwatch::Stopwatch;
use crate::world::{Person, World};

/// So many messages of a person in one request; `op` tells them from others.
async fn writes(world: &World, person: &Person, room: u64, op: &str, count: usize) {
    let item = |n| json!({"op": format!("{op}-{n}"), "kind": "message", "data": n});
    let items: Vec<Value> = (0..count).map(item).collect();
    let path = format!("/v1/rooms/{room}/events");
    let answer = world.api_of(0, person).post(&path, &json!({"items": items})).await.unwrap();
    assert_eq!(answer.json()["items"][count - 1]["type"], "ack", "{}", answer.text);
}

async fn stats(world: &World, person: &Person, room: u64, query: &str) -> Answer {
    let path = format!("/v1/rooms/{room}/stats?freshness=primary{query}");
    world.api_of(0, person).get(&path).await.unwrap()
}

/// Once events up to the head are counted.
async fn counted(world: &World, person: &Person, room: u64, query: &str) -> Value {
    let begun = Stopwatch::start();
    loop {
        let answer = stats(world, person, room, query).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let stats = answer.json();
        if stats["counted"] == stats["head"] {
            return stats["items"].clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{stats}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn shard(world: &World, room: u64) -> Admin {
    let index = world.shard_of(room).await;
    world.primaries().await.swap_remove(index)
}

async fn today(admin: &Admin) -> String {
    let row = admin.query_one("SELECT ((now() AT TIME ZONE 'UTC')::date)::text", &[]).await.unwrap();
    row.get(0)
}

async fn number(admin: &Admin, sql: &str) -> i64 {
    admin.query_one(sql, &[]).await.unwrap().get(0)
}

/// A day in the past gets the events up to `seq` that have no other yet.
async fn backdate(admin: &Admin, room: u64, seqs: std::ops::RangeInclusive<u64>, time: &str) {
    let (first, last) = (seqs.start(), seqs.end());
    let text = format!(
        "UPDATE room_event SET created_at = '{time}' WHERE room_id = {room} AND seq BETWEEN {first} AND {last}"
    );
    admin.batch_execute(&text).await.unwrap();
}

/// Nothing is counted of this room until it is released.
async fn hold(admin: &Admin, room: u64) {
    let text = format!("BEGIN; INSERT INTO room_counted (room_id) VALUES ({room})");
    admin.batch_execute(&text).await.unwrap();
}

#[tokio::test]
async fn today_counts_events_different_people_and_visits() {
    let world = World::shared();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| world.person(name));
    let room = world.room(&alice, "open").await;
    let admin = shard(world, room).await;
    let day = today(&admin).await;
    assert_eq!(counted(world, &alice, room, "").await, json!([]));
    writes(world, &alice, room, "a", 30).await;
    writes(world, &bob, room, "b", 12).await;
    let first = counted(world, &alice, room, "").await;
    assert_eq!(first, json!([{"day": day, "events": 42, "users": 2, "visits": 0}]));
    // Counted in parts, nobody counts twice.
    writes(world, &alice, room, "again", 7).await;
    writes(world, &carol, room, "c", 1).await;
    for person in [&alice, &bob, &bob] {
        world.client(1, person).await.join(room).await;
    }
    let begun = Stopwatch::start();
    loop {
        let now = counted(world, &carol, room, "").await;
        assert_eq!((&now[0]["events"], &now[0]["users"]), (&json!(50), &json!(3)));
        if now == json!([{"day": day, "events": 50, "users": 3, "visits": 3}]) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{now}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let room_says = world.api(&alice).get(&format!("/v1/rooms/{room}?freshness=primary")).await.unwrap();
    assert_eq!(room_says.json()["counters"], json!({"visits": 3, "events": 50}));
    assert_eq!(today(&admin).await, day, "a test at midnight proves nothing");
}

#[tokio::test]
async fn days_are_of_utc_in_order_in_pages_and_forget_who_it_was_when_they_are_over() {
    let world = World::shared();
    let [alice, bob] = ["alice", "bob"].map(|name| world.person(name));
    let room = world.room(&alice, "open").await;
    let (admin, holder) = (shard(world, room).await, shard(world, room).await);
    hold(&holder, room).await;
    writes(world, &alice, room, "a", 5).await;
    writes(world, &bob, room, "b", 5).await;
    backdate(&admin, room, 1..=2, "2024-02-28 23:59:59.999+00").await;
    backdate(&admin, room, 3..=6, "2024-02-29 00:00:00+00").await;
    backdate(&admin, room, 7..=7, "2024-03-01 01:30:00+02").await;
    backdate(&admin, room, 8..=8, "2025-12-31 20:00:00-05").await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    let day = |day: &str, events: u64, users: u64| json!({"day": day, "events": events, "users": users, "visits": 0});
    let leap = [day("2024-02-28", 2, 1), day("2024-02-29", 5, 2)];
    let from = "&from=2024-01-01&to=2026-01-31";
    let old = counted(world, &alice, room, from).await;
    assert_eq!(old, json!([leap[0], leap[1], day("2026-01-01", 1, 1)]));
    let all = counted(world, &alice, room, "&from=2024-01-01").await;
    assert_eq!(all[3], day(&today(&admin).await, 2, 1));
    assert_eq!(counted(world, &alice, room, "").await.as_array().unwrap().len(), 1);
    assert_eq!(counted(world, &alice, room, "&days=2&to=2024-02-29").await, json!(leap));

    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = stats(world, &bob, room, &format!("{from}&limit=1{cursor}")).await.json();
        pages.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(json!(pages), old);
    let known = format!("SELECT count(*) FROM room_daily_user WHERE room_id = {room}");
    assert_eq!(number(&admin, &known).await, 1, "of today only");
    admin
        .batch_execute(&format!("UPDATE room_daily_user SET day = day - 2 WHERE room_id = {room}"))
        .await
        .unwrap();
    admin
        .batch_execute(&format!(
            "UPDATE room_counted SET users_since = users_since - 2 WHERE room_id = {room}"
        ))
        .await
        .unwrap();
    let begun = Stopwatch::start();
    while number(&admin, &known).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a quiet room's day is closed too");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stored = admin.query("SELECT row_to_json(u)::text FROM room_daily_user AS u", &[]).await.unwrap();
    for row in stored {
        let text: String = row.get(0);
        assert!(!text.contains(&alice.user) && !text.contains(&bob.user), "{text}");
    }
}

#[tokio::test]
async fn every_event_is_counted_once_though_nodes_are_killed_while_they_count() {
    let change =
        |options: Options| Options { shards: 1, replicas: 0, ..options }.set("jobs.stats_interval_ms", 20);
    let world = World::start(change).await;
    let people: Vec<Person> = (0..10).map(|n| world.person(&format!("p{n}"))).collect();
    let room = world.room(&people[0], "open").await;
    let admin = shard(&world, room).await;
    let mut written = 0;
    for round in 0..12 {
        let person = &people[round % people.len()];
        writes(&world, person, room, &format!("r{round}"), 700).await;
        written += 700;
        if round % 4 == 1 {
            // Wherever it is with its work; the other one works too.
            let node = &world.cluster().nodes()[1 + round / 4 % 2];
            node.service().kill().await;
        }
    }
    let items = counted(&world, &people[0], room, "").await;
    assert_eq!((&items[0]["events"], &items[0]["users"]), (&json!(written), &json!(10)), "{items}");
    let log = format!("SELECT count(*) FROM room_event WHERE room_id = {room}");
    assert_eq!(number(&admin, &log).await, written);
}

#[tokio::test]
async fn events_are_counted_before_they_are_deleted_and_their_days_stay() {
    // The job itself never comes by.
    let change = |options: Options| {
        let options = Options { shards: 1, replicas: 0, ..options }.set("jobs.stats_interval_ms", 3_600_000);
        options.set("history.retention_interval_ms", 100)
    };
    let world = World::start(change).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let admin = shard(&world, room).await;
    writes(&world, &alice, room, "a", 350).await;
    let snapshots = format!("SELECT count(*) FROM room_snapshot WHERE room_id = {room}");
    let begun = Stopwatch::start();
    while number(&admin, &snapshots).await < 3 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stats(&world, &alice, room, "").await.json()["counted"], 0);
    admin.batch_execute(&format!("UPDATE room SET retention_ms = 1 WHERE id = {room}")).await.unwrap();
    let first = format!("SELECT min(seq) FROM room_event WHERE room_id = {room}");
    while number(&admin, &first).await < 301 {
        assert!(begun.elapsed() < Duration::from_secs(40));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let items = counted(&world, &alice, room, "").await;
    assert_eq!((&items[0]["events"], &items[0]["users"]), (&json!(350), &json!(1)), "{items}");
}

#[tokio::test]
async fn who_may_not_read_a_room_is_not_told_its_days() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let wish = json!({"slug": format!("room-{:016x}", rand::random::<u64>()), "access": "invite"});
    let made = world.api(&alice).post("/v1/rooms", &wish).await.unwrap().json();
    let room = made["room"].as_u64().unwrap();
    assert_eq!(stats(world, &alice, room, "").await.status, 200);
    for (person, room, status) in [(&bob, room, 403), (&alice, 4_242, 404)] {
        let answer = stats(world, person, room, "").await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    }
    let answer = stats(world, &alice, room, "&from=yesterday").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (400, &json!("bad_message")));
}
