//! Who gets a stream, by header or by ticket.

use roomgate::dev::{Answer, Options};
use serde_json::{Value, json};

use super::reader::{Ask, Reader};
use crate::world::{Person, World, now};

async fn ticket(world: &World, node: usize, person: &Person) -> String {
    let answer = world.api_of(node, person).post("/v1/tickets", &Value::Null).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text);
    let left = answer.json()["expires_at"].as_u64().unwrap() / 1000 - now();
    assert!((29..=31).contains(&left), "{left}");
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

fn with(ticket: &str) -> Ask {
    Ask { query: format!("?ticket={ticket}"), ..Ask::default() }
}

#[track_caller]
fn refused(answer: Result<Reader, Answer>, status: u16, code: &str) {
    let answer = answer.err().expect("a refusal");
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), &body["error"]["code"]), (status, &json!(code)), "{}", answer.text);
    assert!(body["error"]["request_id"].is_string(), "{body}");
}

fn node(world: &World, node: usize) -> String {
    world.cluster().nodes()[node].url()
}

#[tokio::test]
async fn a_ticket_opens_one_stream_over_all_nodes_with_redis_and_without() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, ..options }).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    for redis in ["there", "away"] {
        if redis == "away" {
            world.cluster().redis().service().kill_for_good().await;
        }
        let ticket = ticket(&world, 0, &alice).await;
        let mut reader = Reader::open(&node(&world, 1), room, &with(&ticket)).await.ok().unwrap();
        reader.catches_up(0).await;
        for again in 0..2 {
            refused(Reader::open(&node(&world, again), room, &with(&ticket)).await, 401, "unauthenticated");
        }
        // By many at a time it is used once as well.
        let ticket = self::ticket(&world, 1, &alice).await;
        let ask = with(&ticket);
        let nodes = [node(&world, 0), node(&world, 1)];
        let all = (0..20).map(|n| Reader::open(&nodes[n % 2], room, &ask));
        let opened = futures_util::future::join_all(all).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(opened, 1, "with Redis {redis}");
    }
}

#[tokio::test]
async fn a_ticket_ends_after_30_s_with_its_token_and_is_no_token() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let node = node(world, 2);
    let jwt = world.cluster().report().jwt;
    let forged = |exp: u64, until: u64| {
        world.sign(&json!({
            "aud": format!("{}/tickets", jwt.audience), "sub": alice.user, "exp": exp, "name": "Alice",
            "jti": uuid::Uuid::new_v4().to_string(), "until": until * 1000, "server": false
        }))
    };
    let good = forged(now() + 5, now() + 60);
    assert!(Reader::open(&node, room, &with(&good)).await.is_ok(), "or the others prove nothing");
    refused(Reader::open(&node, room, &with(&forged(now(), now() + 60))).await, 401, "unauthenticated");
    refused(Reader::open(&node, room, &with(&forged(now() + 5, now()))).await, 401, "token_expired");

    let ticket = ticket(world, 0, &alice).await;
    let as_token = Ask { token: Some(ticket.clone()), ..Ask::default() };
    refused(Reader::open(&node, room, &as_token).await, 401, "unauthenticated");
    refused(Reader::open(&node, room, &with(&alice.token)).await, 401, "unauthenticated");
    refused(Reader::open(&node, room, &with(&ticket[1..])).await, 401, "unauthenticated");
    assert!(Reader::open(&node, room, &with(&ticket)).await.is_ok(), "nothing of that has used it");
}

#[tokio::test]
async fn what_keeps_somebody_out_is_an_ordinary_answer() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "open").await;
    let node = node(world, 0);
    let make = async |wish: Value| {
        let made = world.api(&alice).post("/v1/rooms", &wish).await.unwrap().json();
        made["room"].as_u64().unwrap()
    };
    let slug = || format!("room-{:016x}", rand::random::<u64>());
    let closed = make(json!({"slug": slug(), "access": "invite"})).await;
    let secret = make(json!({"slug": slug(), "password": "open sesame"})).await;

    refused(Reader::open(&node, room, &Ask::default()).await, 401, "unauthenticated");
    refused(Reader::open(&node, 4_242, &Ask::by(&bob)).await, 404, "room_unknown");
    refused(Reader::open(&node, closed, &Ask::by(&bob)).await, 403, "forbidden");
    refused(Reader::open(&node, secret, &Ask::by(&bob)).await, 403, "password_required");
    assert!(Reader::open(&node, secret, &Ask::by(&alice)).await.is_ok());
    for id in ["1", "x.y", "1.2.3", "-1.2"] {
        let ask = Ask { last_id: Some(id.to_owned()), ..Ask::by(&bob) };
        refused(Reader::open(&node, room, &ask).await, 400, "bad_message");
    }
    let ask = Ask { method: Some("HEAD"), ..Ask::by(&bob) };
    assert_eq!(Reader::open(&node, room, &ask).await.err().unwrap().status, 405);
    let ask = Ask { method: Some("POST"), ..Ask::by(&bob) };
    refused(Reader::open(&node, room, &ask).await, 405, "bad_message");
}

#[tokio::test]
async fn streams_and_sessions_share_the_limit_of_a_user() {
    let change = |options: Options| {
        Options { nodes: 1, shards: 1, replicas: 0, ..options }.set("limits.sessions_per_user", 2)
    };
    let world = World::start(change).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let node = node(&world, 0);
    let _session = world.client(0, &alice).await;
    let mut stream = Reader::of(&node, &alice, room).await;
    refused(Reader::open(&node, room, &Ask::by(&alice)).await, 429, "rate_limited");
    stream.catches_up(0).await;
    drop(stream);
    let again = async {
        while Reader::open(&node, room, &Ask::by(&alice)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), again).await.expect("a place is free again");
}
