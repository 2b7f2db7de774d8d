//! Rooms over HTTP: made, found, entered.

use roomgate::dev::{Answer, connect};
use serde_json::{Value, json};

use crate::client::rect;
use crate::world::{Person, World, refused};

fn slug() -> String {
    format!("door-{:016x}", rand::random::<u64>())
}

async fn become_member(world: &World, person: &Person, room: u64, body: Value) -> Answer {
    let path = format!("/v1/rooms/{room}/members/me");
    world.api_of(1, person).send("PUT".parse().unwrap(), &path, Some(body.to_string())).await.unwrap()
}

#[tokio::test]
async fn a_new_room_is_found_at_once_on_every_node_by_id_and_by_slug() {
    let world = World::shared();
    let alice = world.person("alice");
    for _ in 0..10 {
        let slug = slug();
        let wish = json!({
            "slug": slug, "name": "Ours <b>'; --", "default_role": "viewer", "schema": "open",
            "metadata": {"team": "blue", "n": 1.5}
        });
        let made = world.api(&alice).post("/v1/rooms", &wish).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text);
        let room = made.json();
        for (field, value) in [
            ("slug", json!(slug)),
            ("name", json!("Ours <b>'; --")),
            ("schema", json!("open")),
            ("access", json!("public")),
            ("default_role", json!("viewer")),
            ("owner", json!(alice.user)),
            ("has_password", json!(false)),
            ("metadata", json!({"team": "blue", "n": 1.5})),
            ("counters", json!({"visits": 0, "events": 0})),
            ("epoch", json!(0)),
            ("head", json!(0)),
            ("archived_at", Value::Null),
        ] {
            assert_eq!(room[field], value, "{field}");
        }
        for node in 0..3 {
            for name in [slug.clone(), room["room"].to_string()] {
                let path = format!("/v1/rooms/{name}");
                let found = world.api_of(node, &alice).get(&path).await.unwrap();
                assert_eq!(found.json(), room, "node {node}, {path}");
                assert!(found.headers.contains_key("roomgate-served-by"));
                assert_eq!(found.headers["roomgate-position"], "0.0");
            }
        }
    }
}

#[tokio::test]
async fn a_slug_is_taken_once_and_what_is_no_room_is_refused() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let slug = slug();
    world.room_called(&alice, &slug, "open").await;
    for person in [&alice, &bob] {
        let again = world.api(person).post("/v1/rooms", &json!({"slug": slug})).await.unwrap();
        refused(&again, 409, "slug_taken");
    }
    for (wish, status, code) in [
        (json!({"slug": "UPPER"}), 400, "bad_message"),
        (json!({"slug": "a"}), 400, "bad_message"),
        (json!({"slug": "../x"}), 400, "bad_message"),
        (json!({}), 400, "bad_message"),
        (json!({"slug": self::slug(), "access": "password"}), 400, "bad_message"),
        (json!({"slug": self::slug(), "access": "public", "password": "long enough"}), 400, "bad_message"),
        (json!({"slug": self::slug(), "access": "club"}), 400, "bad_message"),
        (json!({"slug": self::slug(), "password": "short"}), 400, "bad_message"),
        (json!({"slug": self::slug(), "default_role": "owner"}), 400, "bad_message"),
        (json!({"slug": self::slug(), "metadata": [1]}), 400, "bad_message"),
        (json!({"slug": self::slug(), "metadata": {"x": "y".repeat(20_000)}}), 413, "too_large"),
    ] {
        let answer = world.api(&alice).post("/v1/rooms", &wish).await.unwrap();
        refused(&answer, status, code);
    }
    for nowhere in ["0", "4242424242", "99999999999999999999", "no-such-room", "NO", "%2e%2e", "%00"] {
        let answer = world.api(&alice).get(&format!("/v1/rooms/{nowhere}")).await.unwrap();
        refused(&answer, 404, "room_unknown");
    }
}

#[tokio::test]
async fn a_slug_that_reads_as_an_id_is_refused() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    for slug in ["1073420500", "000", "007", "9007199254740991", "9007199254740992", &"9".repeat(63)] {
        let answer = world.api(&alice).post("/v1/rooms", &json!({"slug": slug})).await.unwrap();
        refused(&answer, 400, "bad_message");
    }
    let answer = world.api(&alice).post("/v1/rooms", &json!({"slug": room.to_string()})).await.unwrap();
    refused(&answer, 400, "bad_message");
    for slug in [format!("1{:x}-", rand::random::<u64>()), format!("{}-", rand::random::<u64>())] {
        world.room_called(&alice, &slug, "open").await;
    }
}

/// Such rooms were made before slugs of digits were refused.
#[tokio::test]
async fn an_old_slug_of_digits_is_one_room_at_every_door() {
    let world = World::shared();
    let alice = world.person("alice");
    let directory = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    let called = async |slug: &str| {
        let room = world.room(&alice, "open").await;
        let rename = "UPDATE directory.slug SET slug = $2 WHERE room_id = $1";
        assert_eq!(directory.execute(rename, &[&(room as i64), &slug]).await.unwrap(), 1);
        room
    };
    let other = world.room(&alice, "open").await;
    // Random, as ids are; the second is beyond all ids, the third is an id.
    let digits = (1 << 50) + rand::random_range(0..1_u64 << 50);
    for (slug, is_id) in
        [(digits.to_string(), false), (format!("99{digits}{digits}"), false), (other.to_string(), true)]
    {
        let old = called(&slug).await;
        let expected = if is_id { other } else { old };
        for node in 0..3 {
            let found = world.api_of(node, &alice).get(&format!("/v1/rooms/{slug}")).await.unwrap();
            assert_eq!(found.json()["room"], expected, "node {node}, {slug}: {}", found.text);
            let events = world.api_of(node, &alice).get(&format!("/v1/rooms/{slug}/events")).await.unwrap();
            assert_eq!(events.status, 200, "{}", events.text);
            let mut client = world.client(node, &alice).await;
            let joined = client.ask(&json!({"type": "join", "slug": slug}), "joined").await;
            assert_eq!(joined["room"], expected, "node {node}, {slug}: {joined}");
            let found = world.api_of(node, &alice).get(&format!("/v1/rooms/{old}")).await.unwrap();
            assert_eq!(found.json()["room"], old, "by its id");
        }
        let patch = json!({"name": "still ours"}).to_string();
        let (api, path) = (world.api(&alice), format!("/v1/rooms/{slug}"));
        let changed = api.send("PATCH".parse().unwrap(), &path, Some(patch)).await.unwrap();
        assert_eq!(changed.json()["room"], expected, "{slug}");
    }
}

#[tokio::test]
async fn a_right_password_makes_a_member_for_good() {
    let world = World::shared();
    let (olga, bob) = (world.person("olga"), world.person("bob"));
    let wish = json!({"slug": slug(), "password": "open sesame", "default_role": "viewer"});
    let made = world.api(&olga).post("/v1/rooms", &wish).await.unwrap();
    assert_eq!((&made.json()["access"], &made.json()["has_password"]), (&json!("password"), &json!(true)));
    assert!(!made.text.contains("argon2"), "{}", made.text);
    let room = made.json()["room"].as_u64().unwrap();
    let shapes = format!("/v1/rooms/{room}/shapes");

    refused(&world.api_of(0, &bob).get(&shapes).await.unwrap(), 403, "password_required");
    refused(&become_member(world, &bob, room, json!({})).await, 403, "password_required");
    refused(&become_member(world, &bob, room, json!({"password": "open barley"})).await, 403, "bad_password");
    refused(
        &become_member(world, &bob, room, json!({"password": "x".repeat(500)})).await,
        403,
        "bad_password",
    );
    let mut client = world.client(0, &bob).await;
    for (password, code) in [(Value::Null, "password_required"), (json!("open barley"), "bad_password")] {
        let error =
            client.refused(&json!({"type": "join", "room": room, "password": password}).to_string()).await;
        assert_eq!(error["code"], code, "{error}");
    }

    let member = become_member(world, &bob, room, json!({"password": "open sesame"})).await;
    assert_eq!(member.json(), json!({"room": room, "user": bob.user, "role": "viewer"}));
    // At once, on every node, and no more password.
    for node in 0..3 {
        assert_eq!(world.api_of(node, &bob).get(&shapes).await.unwrap().status, 200, "node {node}");
    }
    let joined = client.join(room).await;
    assert_eq!(joined["role"], "viewer");
    let submitted = client.submit(room, "op", &json!({"kind": "shape.add", "shape": rect("r", 1)})).await;
    assert_eq!(submitted["code"], "forbidden");
    // The owner needs none.
    assert_eq!(world.api_of(1, &olga).get(&shapes).await.unwrap().status, 200);
}

#[tokio::test]
async fn the_uninvited_the_removed_and_the_late_stay_out() {
    let world = World::shared();
    let (olga, bob) = (world.person("olga"), world.person("bob"));
    let wish = json!({"slug": slug(), "access": "invite"});
    let invite = world.api(&olga).post("/v1/rooms", &wish).await.unwrap().json()["room"].as_u64().unwrap();
    let path = format!("/v1/rooms/{invite}");
    refused(&world.api(&bob).get(&path).await.unwrap(), 403, "forbidden");
    refused(&world.api(&bob).get(&format!("{path}/events")).await.unwrap(), 403, "forbidden");
    refused(&become_member(world, &bob, invite, json!({"invite": "made-up"})).await, 403, "forbidden");
    let submit = json!({"items": [{"op": "a", "kind": "room.clear"}]});
    refused(&world.api(&bob).post(&format!("{path}/events"), &submit).await.unwrap(), 403, "forbidden");

    let public = world.room(&olga, "open").await;
    let shard = &world.primaries().await[world.shard_of(public).await];
    let removal = "INSERT INTO room_member (room_id, user_id, role) VALUES ($1, $2, 'removed')";
    shard.execute(removal, &[&(public as i64), &bob.user]).await.unwrap();
    let path = format!("/v1/rooms/{public}?freshness=primary");
    refused(&world.api(&bob).get(&path).await.unwrap(), 403, "forbidden");
    refused(&become_member(world, &bob, public, json!({})).await, 403, "forbidden");

    shard.execute("UPDATE room SET archived_at = now() WHERE id = $1", &[&(public as i64)]).await.unwrap();
    let archived = world.api(&olga).get(&path).await.unwrap();
    assert!(archived.json()["archived_at"].is_u64(), "{}", archived.text);
    let post = world.api(&olga).post(&format!("/v1/rooms/{public}/events"), &submit).await.unwrap();
    // The door may rest on an answer that is a second old; the log never does.
    if post.status == 200 {
        assert_eq!(post.json()["items"][0]["code"], "room_archived", "{}", post.text);
    } else {
        refused(&post, 410, "room_archived");
    }
}

#[tokio::test]
async fn my_rooms_are_on_all_shards_and_visits_are_counted() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let mut rooms = Vec::new();
    for n in 0..12 {
        let owner = if n % 4 == 0 { &bob } else { &alice };
        let room = world.room(owner, "open").await;
        if n % 4 == 0 {
            assert_eq!(become_member(world, &alice, room, json!({})).await.status, 200);
        }
        rooms.push(room);
    }
    let mut shards = std::collections::BTreeSet::new();
    for room in &rooms {
        shards.insert(world.shard_of(*room).await);
    }
    assert_eq!(shards.len(), 2, "twelve rooms on one shard");
    rooms.sort_unstable();
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/rooms?limit=5&freshness=primary{cursor}");
        let page = world.api(&alice).get(&path).await.unwrap().json();
        listed.extend(page["items"].as_array().unwrap().iter().map(|room| room["room"].as_u64().unwrap()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(listed, rooms);

    let mut client = world.client(0, &alice).await;
    client.join(rooms[0]).await;
    let path = format!("/v1/rooms/{}?freshness=primary", rooms[0]);
    let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while world.api(&alice).get(&path).await.unwrap().json()["counters"]["visits"] != 1 {
        assert!(tokio::time::Instant::now() < patience, "the visit is never counted");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
