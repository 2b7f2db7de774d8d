//! Rooms by what their metadata contains, over all shards.

use std::collections::BTreeSet;
use std::time::Duration;

use roomgate::dev::{Answer, Options};
use serde_json::{Value, json};

use crate::stopwatch::Stopwatch;
use crate::world::{Person, World};

/// Rooms of one test: nobody else's have this.
fn tag() -> String {
    format!("{:016x}", rand::random::<u64>())
}

async fn room(world: &World, owner: &Person, wish: Value) -> u64 {
    let mut wish = wish;
    wish["slug"] = format!("room-{:016x}", rand::random::<u64>()).into();
    let made = world.api(owner).post("/v1/rooms", &wish).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    made.json()["room"].as_u64().unwrap()
}

fn encoded(text: &str) -> String {
    let escaped = |c: char| {
        let mut bytes = [0; 4];
        c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02x}")).collect()
    };
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { escaped(c) }).collect()
}

async fn ask(world: &World, node: usize, person: &Person, metadata: &Value, more: &str) -> Answer {
    let path = format!("/v1/rooms?freshness=primary&metadata={}{more}", encoded(&metadata.to_string()));
    world.api_of(node, person).get(&path).await.unwrap()
}

/// The rooms of a page.
fn rooms(answer: &Answer) -> Vec<u64> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["items"].as_array().unwrap().iter().map(|room| room["room"].as_u64().unwrap()).collect()
}

/// Turns all pages, each on another node.
async fn all(world: &World, person: &Person, metadata: &Value, limit: usize) -> Vec<u64> {
    let (mut found, mut cursor, mut node) = (Vec::new(), String::new(), 0);
    loop {
        let answer = ask(world, node % 3, person, metadata, &format!("&limit={limit}{cursor}")).await;
        let page = rooms(&answer);
        assert!(page.len() <= limit);
        assert_eq!(answer.json()["incomplete"], json!([]));
        found.extend(page);
        assert!(found.len() < 1000, "it goes round: {cursor}");
        match answer.json()["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
        node += 1;
    }
}

#[tokio::test]
async fn rooms_on_all_shards_are_found_once_each_by_what_they_contain() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let tag = tag();
    let mut ids = BTreeSet::new();
    for n in 0..25 {
        let metadata = json!({"tag": tag, "n": n % 5, "deep": {"list": [1, {"x": "ü'\"; --"}], "no": null}});
        ids.insert(room(world, &alice, json!({"metadata": metadata})).await);
    }
    let mut shards = BTreeSet::new();
    for id in &ids {
        shards.insert(world.shard_of(*id).await);
    }
    assert_eq!(shards.len(), 2, "or it proves nothing");
    for limit in [1, 7, 25, 1000] {
        let found = all(world, &bob, &json!({"tag": tag}), limit).await;
        assert_eq!(found, ids.iter().copied().collect::<Vec<_>>(), "by pages of {limit}");
    }
    for (metadata, count) in [
        (json!({"tag": tag, "n": 3}), 5),
        (json!({"tag": tag, "n": 3.0}), 5),
        (json!({"tag": tag, "n": "3"}), 0),
        (json!({"tag": tag, "deep": {"list": [{"x": "ü'\"; --"}]}}), 25),
        (json!({"tag": tag, "deep": {"no": null}}), 25),
        (json!({"tag": tag, "no": null}), 0),
        (json!({"tag": [tag]}), 0),
    ] {
        assert_eq!(all(world, &bob, &metadata, 10).await.len(), count, "{metadata}");
    }
    let first = ask(world, 0, &alice, &json!({"tag": tag}), "&limit=1").await.json();
    let same = world.api(&alice).get(&format!("/v1/rooms/{}", first["items"][0]["room"])).await.unwrap();
    assert_eq!(first["items"][0], same.json());
}

#[tokio::test]
async fn whoever_would_not_be_shown_a_room_does_not_find_it() {
    let world = World::shared();
    let [owner, member, stranger, removed] =
        ["owner", "member", "stranger", "removed"].map(|name| world.person(name));
    let tag = tag();
    let metadata = json!({"tag": tag});
    let open = room(world, &owner, json!({"metadata": metadata})).await;
    let secret = room(world, &owner, json!({"metadata": metadata, "password": "open sesame"})).await;
    let closed = room(world, &owner, json!({"metadata": metadata, "access": "invite"})).await;
    for id in [open, secret, closed] {
        let primary = &world.primaries().await[world.shard_of(id).await];
        for (person, role) in [(&member, "viewer"), (&removed, "removed")] {
            let user = &person.user;
            let text =
                format!("INSERT INTO room_member (room_id, user_id, role) VALUES ({id}, '{user}', '{role}')");
            primary.batch_execute(&text).await.unwrap();
        }
    }
    let sorted =
        |rooms: &[u64]| rooms.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    for (person, seen) in [
        (&owner, sorted(&[open, secret, closed])),
        (&member, sorted(&[open, secret, closed])),
        (&stranger, sorted(&[open, secret])),
        (&removed, vec![]),
    ] {
        let answer = ask(world, 1, person, &metadata, "").await;
        assert_eq!(rooms(&answer), seen, "{}", person.user);
        assert!(!answer.text.contains("argon2"));
        for id in [open, secret, closed] {
            let shown = world.api(person).get(&format!("/v1/rooms/{id}?freshness=primary")).await.unwrap();
            assert_eq!(shown.status == 200, seen.contains(&id), "{}: {}", person.user, shown.text);
        }
    }
}

#[tokio::test]
async fn every_list_names_a_shard_that_is_away_and_goes_on_with_it() {
    let world = World::start(|options| Options { nodes: 1, shards: 2, replicas: 0, ..options }).await;
    let alice = world.person("alice");
    let tag = tag();
    let metadata = json!({"tag": tag});
    let mut ids = BTreeSet::new();
    for _ in 0..20 {
        ids.insert(room(&world, &alice, json!({"metadata": metadata})).await);
    }
    // The directory is on the first one.
    let (gone, name) = (1, world.cluster().shards()[1].name().to_owned());
    let mut missing = BTreeSet::new();
    for id in &ids {
        if world.shard_of(*id).await == gone {
            missing.insert(*id);
        }
    }
    assert!(missing.len() > 1 && missing.len() < 19, "or it proves nothing: {missing:?}");
    let lists = [
        format!("/v1/rooms?freshness=primary&metadata={}", encoded(&metadata.to_string())),
        "/v1/rooms?freshness=primary".to_owned(),
        "/v1/rooms?limit=1000".to_owned(),
    ];
    let api = world.api(&alice);
    let postgres = world.cluster().shards()[gone].primary().service().clone();
    postgres.pause();
    let mut cursors = Vec::new();
    for list in &lists {
        let begun = Stopwatch::start();
        let answer = api.get(list).await.unwrap();
        let took = begun.elapsed();
        assert_eq!(answer.json()["incomplete"], json!([name]), "{list}: {}", answer.text);
        let first: BTreeSet<u64> = rooms(&answer).into_iter().collect();
        assert_eq!(first, ids.difference(&missing).copied().collect(), "{list}");
        assert!(took < Duration::from_secs(5), "{list}: {took:?}");
        cursors.push(answer.json()["next_cursor"].as_str().expect("there is more to come").to_owned());
    }
    postgres.resume();

    for (list, cursor) in lists.iter().zip(cursors) {
        let back = async {
            loop {
                let answer = api.get(&format!("{list}&cursor={cursor}")).await.unwrap();
                if answer.json()["incomplete"] == json!([]) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let rest = tokio::time::timeout(Duration::from_secs(60), back).await.expect("it is back");
        assert_eq!(rooms(&rest).into_iter().collect::<BTreeSet<_>>(), missing, "{list}");
        assert_eq!(rest.json()["next_cursor"], Value::Null, "{list}: {}", rest.text);
    }
}

#[tokio::test]
async fn what_can_not_be_looked_for_is_refused() {
    let world = World::shared();
    let alice = world.person("alice");
    let deep = format!("{}1{}", "{\"a\":".repeat(20), "}".repeat(20));
    let long = json!({"a": "x".repeat(5_000)}).to_string();
    for (text, code) in [
        ("", "bad_json"),
        ("{", "bad_json"),
        ("{\"a\":1,\"a\":2}", "bad_json"),
        ("{\"a\":\"\\u0000\"}", "bad_json"),
        ("{\"a\":1e999}", "bad_json"),
        ("[]", "bad_message"),
        ("\"a\"", "bad_message"),
        ("null", "bad_message"),
        (&deep, "bad_message"),
        (&long, "bad_message"),
    ] {
        let answer = world.api(&alice).get(&format!("/v1/rooms?metadata={}", encoded(text))).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (400, &json!(code)), "{text}");
    }
    for more in ["&cursor=x", "&cursor=1~nowhere", "&limit=0", "&limit=x"] {
        let answer = ask(world, 0, &alice, &json!({}), more).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["code"]),
            (400, &json!("bad_message")),
            "{more}"
        );
    }
    assert!(rooms(&ask(world, 0, &alice, &json!({"a": 1e308}), "").await).is_empty());
}
