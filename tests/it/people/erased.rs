//! Whoever asks to be forgotten is: nothing names them any more, anywhere.

use std::process::Command;
use std::time::Duration;

use roomgate::dev::{Admin, Api, Options, connect};
use serde_json::{Value, json};

use super::signed_out::account;
use crate::client::rect;
use crate::stopwatch::Stopwatch;
use crate::world::{Person, World, now};

const DELETE: &str = "DELETE";

async fn world(janitor_interval_ms: u64) -> World {
    World::start(|options| {
        let options = options.set("jobs.janitor_interval_ms", janitor_interval_ms);
        Options { nodes: 2, shards: 2, replicas: 0, ..options }
    })
    .await
}

async fn erase(world: &World, node: usize, person: &Person) -> Duration {
    let asked = Stopwatch::start();
    let answer = world.api_of(node, person).send(DELETE.parse().unwrap(), "/v1/me", None).await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.text);
    asked.elapsed()
}

async fn report(world: &World, person: &Person) -> Value {
    let operators = Api::new(&world.cluster().nodes()[0].admin_url());
    let answer = operators.get(&format!("/admin/erasures/{}", person.user)).await.unwrap();
    answer.json()
}

/// Every place below which `text` is found: tables, Redis, logs.
async fn found(world: &World, text: &str) -> Vec<String> {
    let mut places = Vec::new();
    for (shard, admin) in world.primaries().await.iter().enumerate() {
        for table in tables(admin).await {
            let search = format!("SELECT count(*) FROM {table} AS t WHERE t::text ILIKE '%' || $1 || '%'");
            let rows: i64 = admin.query_one(&search, &[&text]).await.unwrap().get(0);
            if rows > 0 {
                places.push(format!("{table} on shard {shard}"));
            }
        }
    }
    if redis(world).to_lowercase().contains(text) {
        places.push("redis".to_owned());
    }
    for service in world.cluster().services() {
        let log = std::fs::read(service.log()).unwrap_or_default();
        if String::from_utf8_lossy(&log).to_lowercase().contains(text) {
            places.push(format!("the log of {}", service.name()));
        }
    }
    places
}

async fn tables(admin: &Admin) -> Vec<String> {
    let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
                   WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    admin.query(tables, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// All keys and values.
fn redis(world: &World) -> String {
    let script = "local all = {}
        for _, key in ipairs(redis.call('KEYS', '*')) do
            all[#all + 1] = key
            local kind = redis.call('TYPE', key).ok
            local values = kind == 'hash' and redis.call('HGETALL', key)
                or kind == 'zset' and redis.call('ZRANGE', key, 0, -1)
                or kind == 'string' and { redis.call('GET', key) }
            for _, value in ipairs(values) do all[#all + 1] = value end
        end
        return all";
    let port = world.cluster().redis().port().to_string();
    let output =
        Command::new("redis-cli").args(["-p", &port, "--raw", "EVAL", script, "0"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !text.contains("ERR"), "{text}");
    text
}

#[tokio::test]
async fn an_erased_person_is_found_in_no_table_no_key_and_no_log() {
    let world = world(15_000).await;
    let mark = format!("zebulon{:08x}", rand::random::<u32>());
    let api = Api::new(&world.cluster().nodes()[0].url());
    let email = format!("{mark}@x.test");
    let wish = json!({"email": email, "password": "correct horse", "name": format!("Name-{mark}")});
    let made = api.post("/v1/signup", &wish).await.unwrap().json();
    let wrong = json!({"email": email, "password": "wrong horse"});
    assert_eq!(api.post("/v1/signin", &wrong).await.unwrap().status, 401);
    let person = Person {
        user: made["user"]["id"].as_str().unwrap().to_owned(),
        token: made["token"].as_str().unwrap().to_owned(),
    };
    let photo = json!({"name": format!("New-{mark}"), "photo": format!("https://x.test/{mark}.png")});
    let changed = world.api(&person).send("PATCH".parse().unwrap(), "/v1/me", Some(photo.to_string())).await;
    assert_eq!(changed.unwrap().json()["user"]["photo"], photo["photo"]);
    let slug = format!("room-{:016x}", rand::random::<u64>());
    let once = world.api_of(0, &person).with("Idempotency-Key", mark.clone());
    let room = once.post("/v1/rooms", &json!({"slug": slug})).await.unwrap().json()["room"].as_u64().unwrap();
    let bob = world.person("bob");
    let mut watching = world.client(1, &bob).await;
    watching.join(room).await;
    let mut clients = [world.client(0, &person).await, world.client(1, &person).await];
    for (n, client) in clients.iter_mut().enumerate() {
        client.join(room).await;
        let body = json!({"kind": "shape.add", "shape": rect(&format!("s{n}"), 1)});
        assert_eq!(client.submit(room, &format!("op{n}"), &body).await["type"], "ack");
    }
    watching.wait(|m| m["type"] == "presence" && m.to_string().contains(&mark)).await;
    // A node that died left an entry that nobody reads.
    let entry = json!({"session": "s", "user": person.user, "name": mark, "role": "editor"});
    let left = ["HSET", "roomgate:members:99", "s", &format!("{:016x} {entry}", 7)];
    let port = world.cluster().redis().port().to_string();
    assert!(Command::new("redis-cli").args(["-p", &port]).args(left).status().unwrap().success());

    let before = found(&world, &mark).await;
    for place in ["directory.account on shard 0", "directory.idempotency on shard 0", "redis"] {
        assert!(before.iter().any(|each| each == place), "the search sees what is there: {before:?}");
    }
    let took = erase(&world, 0, &person).await;
    println!("an ordinary account was erased in {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    for client in &mut clients {
        assert_eq!(client.ends().await, Some(4100));
    }
    let erased = Stopwatch::start();
    loop {
        let found = found(&world, &mark).await;
        if found.is_empty() {
            break;
        }
        assert!(erased.elapsed() < Duration::from_secs(5), "found in {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Neither the token nor the password opens anything.
    for node in 0..2 {
        assert_eq!(world.api_of(node, &person).get("/v1/me").await.unwrap().status, 401);
    }
    let right = json!({"email": email, "password": "correct horse"});
    assert_eq!(api.post("/v1/signin", &right).await.unwrap().status, 401);
    let refresh = json!({"refresh_token": made["refresh_token"]});
    assert_eq!(api.post("/v1/token/refresh", &refresh).await.unwrap().status, 401);
    // Events keep an opaque id; the address is free for another account.
    let shard = &world.primaries().await[world.shard_of(room).await];
    let events = "SELECT count(*) FROM room_event WHERE user_id = $1";
    assert_eq!(shard.query_one(events, &[&person.user]).await.unwrap().get::<_, i64>(0), 2);
    assert_eq!(api.post("/v1/signup", &wish).await.unwrap().status, 201);
}

/// The room's owner, whether it is archived, and the notes about it.
async fn room_facts(world: &World, room: u64) -> (String, bool, Vec<(String, String)>) {
    let id = i64::try_from(room).unwrap();
    let shard = &world.primaries().await[world.shard_of(room).await];
    let facts = "SELECT owner, archived_at IS NOT NULL FROM room WHERE id = $1";
    let row = shard.query_one(facts, &[&id]).await.unwrap();
    let notes = "SELECT actor, action FROM audit WHERE target LIKE 'room ' || $1 || '%' ORDER BY at";
    let notes = shard.query(notes, &[&room.to_string()]).await.unwrap();
    (row.get(0), row.get(1), notes.iter().map(|note| (note.get(0), note.get(1))).collect())
}

async fn add_member(world: &World, room: u64, user: &str, role: &str, days_ago: i32) {
    let id = i64::try_from(room).unwrap();
    let shard = &world.primaries().await[world.shard_of(room).await];
    let insert = "INSERT INTO room_member (room_id, user_id, role, joined_at)
                  VALUES ($1, $2, $3, now() - $4 * interval '1 day')";
    shard.execute(insert, &[&id, &user, &role, &f64::from(days_ago)]).await.unwrap();
}

#[tokio::test]
async fn rooms_of_the_erased_go_to_the_longest_standing_member_of_the_highest_role_or_are_archived() {
    let world = world(100).await;
    let (person, _) = account(&world, 1).await.remove(0);
    let bob = world.person("bob");
    let mut rooms = Vec::new();
    for _ in 0..6 {
        rooms.push(world.room(&person, "open").await);
    }
    let members: [&[(&str, &str, i32)]; 6] = [
        &[("old-viewer", "viewer", 9), ("new-editor", "editor", 1), ("older-editor", "editor", 2)],
        &[("new-owner", "owner", 0), ("old-editor", "editor", 9)],
        &[("kicked", "removed", 9)],
        &[("only-viewer", "viewer", 1)],
        &[],
        &[],
    ];
    for (room, members) in rooms.iter().zip(members) {
        for (user, role, days_ago) in members {
            add_member(&world, *room, user, role, *days_ago).await;
        }
    }
    let foreign = world.room(&bob, "open").await;
    add_member(&world, foreign, &person.user, "editor", 1).await;
    // One that they are making now.
    let directory = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    let making = "UPDATE directory.slug SET state = 'creating' WHERE room_id = $1";
    directory.execute(making, &[&i64::try_from(rooms[5]).unwrap()]).await.unwrap();

    erase(&world, 1, &person).await;
    let nobody = person.user.as_str();
    let expected = [
        ("older-editor", false, "erasure.transferred"),
        ("new-owner", false, "erasure.transferred"),
        (nobody, true, "erasure.archived"),
        ("only-viewer", false, "erasure.transferred"),
        (nobody, true, "erasure.archived"),
        (nobody, true, "erasure.archived"),
    ];
    for (room, (owner, archived, action)) in rooms.iter().zip(expected) {
        let notes = vec![(person.user.clone(), action.to_owned())];
        assert_eq!(room_facts(&world, *room).await, (owner.to_owned(), archived, notes));
    }
    let left = vec![(person.user.clone(), "erasure.left".to_owned())];
    assert_eq!(room_facts(&world, foreign).await, (bob.user.clone(), false, left));
    for shard in world.primaries().await {
        let rows = "SELECT FROM room_member WHERE user_id = $1";
        assert!(shard.query(rows, &[&person.user]).await.unwrap().is_empty());
    }
    let report = report(&world, &person).await;
    assert_eq!(
        (&report["state"], &report["rooms"]),
        (&json!("done"), &json!({"transferred": 3, "archived": 3}))
    );
    let noted = "SELECT FROM directory.audit WHERE actor = $1 AND action = 'erasure'";
    assert_eq!(directory.query(noted, &[&person.user]).await.unwrap().len(), 1);

    // A minute later it is gone through once more: a room that was made with a
    // token of theirs after all is found.
    let late = world.room(&bob, "open").await;
    let shard = &world.primaries().await[world.shard_of(late).await];
    let theirs = "UPDATE room SET owner = $2 WHERE id = $1";
    shard.execute(theirs, &[&i64::try_from(late).unwrap(), &person.user]).await.unwrap();
    let age = "UPDATE directory.erasure SET asked_at = now() - interval '1 minute'";
    directory.execute(age, &[]).await.unwrap();
    let checked = async {
        while self::report(&world, &person).await["checked_at"].is_null() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), checked).await.expect("it is gone through once more");
    assert!(room_facts(&world, late).await.1);
}

/// Every way into a room, and every way to see or change it.
const WAYS: [(&str, &str, &str); 7] = [
    ("GET", "", ""),
    ("GET", "/events", ""),
    ("GET", "/shapes", ""),
    ("GET", "/members", ""),
    ("PUT", "/members/me", "{}"),
    ("POST", "/events", r#"{"items": [{"op": "op-1", "kind": "message", "data": 1}]}"#),
    ("POST", "/import?op=op-2", r#"{"id": "a", "type": "rect"}"#),
];

#[tokio::test]
async fn an_erasure_does_not_lift_a_removal() {
    let world = World::shared();
    let (olga, person) = (world.person("olga"), world.person("banned"));
    let room = world.room(&olga, "open").await;
    let path = format!("/v1/rooms/{room}");
    let invite = world.api(&olga).post(&format!("{path}/invites"), &json!({"role": "editor"})).await.unwrap();
    world.client(0, &person).await.join(room).await;
    let member = format!("{path}/members/{}", person.user);
    let removed = world.api(&olga).send(DELETE.parse().unwrap(), &member, None).await.unwrap();
    assert_eq!(removed.status, 204, "{}", removed.text);
    erase(world, 0, &person).await;
    let erased = async {
        while report(world, &person).await["state"] != "done" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), erased).await.expect("the erasure is done");
    for shard in world.primaries().await {
        let rows = shard.query("SELECT FROM room_member WHERE user_id = $1", &[&person.user]).await.unwrap();
        assert!(rows.is_empty(), "a row names the erased person");
    }
    // Tokens of the second of the erasure have ended with it.
    let until = now() + 2;
    while now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let token = world.sign(&json!({"sub": person.user, "exp": now() + 600}));
    let back = Person { user: person.user.clone(), token };
    for (method, way, body) in WAYS {
        let api = match way.starts_with("/import") {
            true => world.api_of(1, &back).with("content-type", "application/x-ndjson"),
            false => world.api_of(1, &back),
        };
        let body = (!body.is_empty()).then(|| body.to_owned());
        let answer = api.send(method.parse().unwrap(), &format!("{path}{way}"), body).await.unwrap();
        assert_eq!(answer.status, 403, "{method} {way}: {}", answer.text);
    }
    let mut client = world.client(1, &back).await;
    let refused = client.refused(&json!({"type": "join", "room": room}).to_string()).await;
    assert_eq!(refused["code"], "forbidden", "{refused}");
    let code = &invite.json()["code"];
    let refused = client.refused(&json!({"type": "join", "room": room, "invite": code}).to_string()).await;
    assert_eq!(refused["code"], "forbidden", "an invite from before the removal: {refused}");

    // A person whom an owner takes back has no removal any more.
    let role = json!({"role": "editor"}).to_string();
    let given = world.api(&olga).send("PUT".parse().unwrap(), &member, Some(role)).await.unwrap();
    assert!(given.status.is_success(), "{}", given.text);
    client.join(room).await;
    let me = format!("{path}/members/me");
    let left = world.api(&back).send(DELETE.parse().unwrap(), &me, None).await.unwrap();
    assert_eq!(left.status, 204, "{}", left.text);
    let entered = world.api(&back).send("PUT".parse().unwrap(), &me, Some("{}".to_owned())).await.unwrap();
    assert!(entered.status.is_success(), "{}", entered.text);
}

#[tokio::test]
async fn an_erasure_whose_node_is_killed_is_finished_by_another() {
    let world = world(200).await;
    let (person, _) = account(&world, 1).await.remove(0);
    let mut rooms = Vec::new();
    for _ in 0..8 {
        rooms.push(world.room(&person, "open").await);
    }
    // The last one of a shard can't be had: in the middle of the work.
    let last = *rooms.iter().max().unwrap();
    let lock =
        connect(&world.cluster().shards()[world.shard_of(last).await].primary().admin_dsn()).await.unwrap();
    lock.batch_execute("BEGIN").await.unwrap();
    let held = "SELECT FROM room_head WHERE room_id = $1 FOR UPDATE";
    lock.execute(held, &[&i64::try_from(last).unwrap()]).await.unwrap();
    let api = world.api_of(0, &person);
    let killed_in_between = async {
        while report(&world, &person).await["state"] != "under way" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.cluster().nodes()[0].service().kill().await;
    };
    let asked = api.send(DELETE.parse().unwrap(), "/v1/me", None);
    let (answer, ()) = futures_util::future::join(asked, killed_in_between).await;
    answer.expect_err("its node is dead");
    lock.batch_execute("ROLLBACK").await.unwrap();

    let operators = Api::new(&world.cluster().nodes()[1].admin_url());
    let path = format!("/admin/erasures/{}", person.user);
    let done = async {
        while operators.get(&path).await.unwrap().json()["state"] != "done" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), done).await.expect("another node finishes it");
    for room in rooms {
        let (owner, archived, notes) = room_facts(&world, room).await;
        assert_eq!((owner.as_str(), archived, notes.len()), (person.user.as_str(), true, 1));
    }
}

#[tokio::test]
async fn what_a_person_changes_of_themselves_is_checked_and_kept() {
    let world = World::shared();
    let (person, _) = account(world, 1).await.remove(0);
    let patch = async |who: &Person, body: Value| {
        world.api_of(1, who).send("PATCH".parse().unwrap(), "/v1/me", Some(body.to_string())).await.unwrap()
    };
    let changed = patch(&person, json!({"name": "Ann B.", "photo": "https://x.test/a.png"})).await;
    let user = &changed.json()["user"];
    assert_eq!((&user["name"], &user["photo"]), (&json!("Ann B."), &json!("https://x.test/a.png")));
    assert_eq!(patch(&person, json!({})).await.json(), changed.json());
    assert_eq!(patch(&person, json!({"photo": null})).await.json()["user"]["photo"], Value::Null);
    assert_eq!(world.api_of(2, &person).get("/v1/me").await.unwrap().json()["user"]["name"], "Ann B.");
    for body in [
        json!({"name": null}),
        json!({"name": ""}),
        json!({"name": 7}),
        json!({"photo": "javascript:alert(1)"}),
        json!({"email": "other@x.test"}),
        json!({"id": "somebody-else"}),
    ] {
        assert_eq!(patch(&person, body.clone()).await.status, 400, "{body}");
    }
    assert_eq!(patch(&world.person("bob"), json!({"name": "Bob"})).await.status, 404);
}
