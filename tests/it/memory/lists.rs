//! Lists end at 4 MiB as well as at their limit, and lose nothing by that.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{draw, noise, one_node};
use crate::convergence::FROM_PRIMARY;
use crate::world::{Person, World};

/// A page may exceed the bound by its last item and by the fields around the items.
const PAGE_MAX: usize = (4 << 20) + (512 << 10);

/// How a list is made larger than a page, or why it never is.
enum Filled {
    /// The path, the name of an item, and the number of items.
    Large(String, fn(&Value) -> String, usize),
    /// The bytes of its largest item.
    Small(usize),
}

async fn fill_rooms(world: &World, person: &Person) -> usize {
    let api = world.api_of(0, person);
    for n in 0..320 {
        let slug = format!("large-{n}-{:08x}", rand::random::<u32>());
        let body = json!({"slug": slug, "metadata": {"text": noise(16_000), "test": "large"}});
        assert_eq!(api.post("/v1/rooms", &body).await.unwrap().status, 201);
    }
    320
}

/// Each list of the API; a new one must be added here.
async fn filled(world: &World, person: &Person, route: &str) -> Option<Filled> {
    let id = |item: &Value| item["shape"]["id"].as_str().unwrap().to_owned();
    let seq = |item: &Value| item["seq"].to_string();
    Some(match route {
        "/v1/rooms" => {
            let rooms = fill_rooms(world, person).await;
            Filled::Large(format!("/v1/rooms?{FROM_PRIMARY}"), |item| item["room"].to_string(), rooms)
        }
        "/v1/rooms/{room}/shapes" | "/v1/rooms/{room}/events" => {
            let room = world.room(person, "open").await;
            draw(world, person, room, 100).await;
            let path = route.replace("{room}", &room.to_string());
            Filled::Large(
                format!("{path}?{FROM_PRIMARY}"),
                if route.ends_with("shapes") { id } else { seq },
                100,
            )
        }
        // A user's name of 64 characters, a role and a time.
        "/v1/rooms/{room}/members" => Filled::Small(256),
        // Ids, times and counts.
        "/v1/rooms/{room}/invites" => Filled::Small(512),
        "/v1/rooms/{room}/audit" => Filled::Small(512),
        "/v1/rooms/{room}/stats" => Filled::Small(256),
        _ => return None,
    })
}

#[tokio::test]
async fn every_list_ends_at_its_bytes_and_goes_on_without_a_gap() {
    let world = one_node(32).await;
    let person = world.person("alice");
    let api = world.api_of(0, &person);
    let document = api.get("/openapi.json").await.unwrap().json();
    let has_cursor = |operation: &Value| {
        let parameters = operation["parameters"].as_array();
        parameters.is_some_and(|all| all.iter().any(|parameter| parameter["name"] == "cursor"))
    };
    let routes = document["paths"].as_object().unwrap().iter();
    let lists: Vec<&String> =
        routes.filter(|(_, operations)| has_cursor(&operations["get"])).map(|(route, _)| route).collect();
    assert!(lists.len() >= 7, "{lists:?}");
    for route in lists {
        match filled(&world, &person, route).await {
            Some(Filled::Large(path, name, count)) => walk(&api, &path, name, count).await,
            Some(Filled::Small(bytes)) => assert!(1000 * bytes < PAGE_MAX, "{route}"),
            None => panic!("{route} is a list that this test does not know"),
        }
    }
}

async fn walk(api: &roomgate::dev::Api, path: &str, name: fn(&Value) -> String, count: usize) {
    let (mut seen, mut pages, mut cursor) = (BTreeSet::new(), 0, String::new());
    loop {
        let answer = api.get(&format!("{path}&limit=1000{cursor}")).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert!(answer.text.len() <= PAGE_MAX, "{path}: {} bytes", answer.text.len());
        let page = answer.json();
        for item in page["items"].as_array().unwrap() {
            assert!(seen.insert(name(item)), "{path}: {} is on two pages", name(item));
        }
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), count, "{path}");
    assert!(pages > 1, "{path}: the list is not large");
}

#[tokio::test]
async fn a_filter_finds_the_newest_event_of_a_long_log_at_once() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let admin = crate::history::world::shard(world, room).await;
    crate::history::export::fill(&admin, room, 60_000).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let ack = client.submit(room, "newest", &json!({"kind": "message", "data": 1})).await;
    assert_eq!(ack["seq"], 60_001, "{ack}");
    let api = world.api_of(0, &alice);
    let newest =
        api.get(&format!("/v1/rooms/{room}/events?{FROM_PRIMARY}&after=60000")).await.unwrap().json();
    let at = newest["items"][0]["at"].as_i64().unwrap();
    for filter in [format!("user={}", alice.user), format!("since_ms={at}")] {
        let answer =
            api.get(&format!("/v1/rooms/{room}/events?{FROM_PRIMARY}&{filter}")).await.unwrap().json();
        assert_eq!(answer["items"][0]["seq"], 60_001, "{filter}: {answer}");
        assert_eq!(answer["next_cursor"], Value::Null, "{filter}");
    }
}
