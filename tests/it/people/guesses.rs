//! Guessing passwords is slowed down over all nodes, and without Redis on each.

use std::time::Duration;

use roomgate::dev::{Answer, Api, Options};
use serde_json::{Value, json};

use crate::stopwatch::Stopwatch;
use crate::world::{Person, World};

const A_MINUTE: u64 = 4;

/// Two nodes behind a balancer that says whose requests they are.
async fn world(limit: &str) -> World {
    World::start(|options| {
        let options = options.set(limit, A_MINUTE);
        let options = options.set("listen.trusted_proxies", "127.0.0.1");
        Options { nodes: 2, shards: 1, replicas: 0, ..options }
    })
    .await
}

async fn sign_in(world: &World, node: usize, from: &str, email: &str) -> Answer {
    let api = Api::new(&world.cluster().nodes()[node].url()).with("X-Forwarded-For", from);
    api.post("/v1/signin", &json!({"email": email, "password": "wrong horse"})).await.unwrap()
}

#[track_caller]
fn slowed_down(answer: &Answer) {
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (429, &json!("rate_limited")));
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
}

#[tokio::test]
async fn the_budget_for_guesses_is_one_over_all_nodes_and_each_nodes_own_without_redis() {
    let world = world("limits.signins_per_minute").await;
    // Of an account, from ever other addresses.
    for n in 0..A_MINUTE {
        let from = format!("192.0.2.{n}");
        assert_eq!(sign_in(&world, n as usize % 2, &from, "ann@x.test").await.status, 401, "guess {n}");
    }
    for node in 0..2 {
        slowed_down(&sign_in(&world, node, "192.0.2.99", "ANN@x.test").await);
    }
    // From an address, at ever other accounts.
    for n in 0..A_MINUTE {
        let email = format!("n{n}@x.test");
        assert_eq!(sign_in(&world, n as usize % 2, "198.51.100.1", &email).await.status, 401, "guess {n}");
    }
    for node in 0..2 {
        slowed_down(&sign_in(&world, node, "198.51.100.1", "fresh@x.test").await);
    }
    // Of a room's password.
    let (olga, gus) = (world.person("olga"), world.person("gus"));
    let wish = json!({"slug": "secret-room", "password": "open sesame"});
    assert_eq!(world.api(&olga).post("/v1/rooms", &wish).await.unwrap().status, 201);
    let guess = async |node: usize| {
        let body = json!({"password": "open barley"}).to_string();
        let path = "/v1/rooms/secret-room/members/me";
        world.api_of(node, &gus).send("PUT".parse().unwrap(), path, Some(body)).await.unwrap()
    };
    for n in 0..A_MINUTE {
        assert_eq!(guess(n as usize % 2).await.status, 403, "guess {n}");
    }
    for node in 0..2 {
        slowed_down(&guess(node).await);
    }
    // Of the code of an invite to it: one budget for all that opens a room.
    let ida = world.person("ida");
    let show = async |node: usize| {
        let body = json!({"invite": "00112233445566778899aabbccddeeff"}).to_string();
        let path = "/v1/rooms/secret-room/members/me";
        world.api_of(node, &ida).send("PUT".parse().unwrap(), path, Some(body)).await.unwrap()
    };
    for n in 0..A_MINUTE {
        assert_eq!(show(n as usize % 2).await.status, 403, "guess {n}");
    }
    for node in 0..2 {
        slowed_down(&show(node).await);
    }

    world.cluster().redis().service().kill().await;
    for node in 0..2 {
        for n in 0..A_MINUTE {
            let from = format!("203.0.113.{n}");
            let asked = Stopwatch::start();
            assert_eq!(sign_in(&world, node, &from, "bob@x.test").await.status, 401, "guess {n} on {node}");
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        }
        slowed_down(&sign_in(&world, node, "203.0.113.99", "bob@x.test").await);
    }

    // And together again once it is back.
    world.cluster().redis().service().restart().await.unwrap();
    let together = async {
        for round in 0.. {
            let email = format!("round{round}@x.test");
            let mut statuses = Vec::new();
            for n in 0..=A_MINUTE {
                let from = format!("10.{round}.0.{n}");
                statuses.push(sign_in(&world, n as usize % 2, &from, &email).await.status.as_u16());
            }
            if statuses.last() == Some(&429) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), together).await.expect("the nodes count together again");
}

#[tokio::test]
async fn who_is_not_a_trusted_proxy_may_say_what_it_likes_of_where_it_comes_from() {
    let world = World::start(|options| {
        let options = options.set("limits.signins_per_minute", A_MINUTE);
        let options = options.set("listen.trusted_proxies", "10.0.0.0/8,192.0.2.1");
        Options { nodes: 1, shards: 1, replicas: 0, ..options }
    })
    .await;
    for n in 0..A_MINUTE {
        let answer = sign_in(&world, 0, &format!("192.0.2.{n}"), &format!("n{n}@x.test")).await;
        assert_eq!(answer.status, 401, "guess {n}");
    }
    slowed_down(&sign_in(&world, 0, "192.0.2.99", "fresh@x.test").await);
    slowed_down(&sign_in(&world, 0, "127.0.0.1, 192.0.2.98", "fresh@x.test").await);
    let ignored = world.measured(0, "roomgate_forwarded_untrusted_total").await;
    assert!(ignored >= (A_MINUTE + 2) as f64, "{ignored}");
    let log = std::fs::read_to_string(world.cluster().nodes()[0].service().log()).unwrap();
    assert_eq!(log.matches("not in listen.trusted_proxies").count(), 1, "{log}");
}

/// A new room with a password, and a new invite to it.
async fn locked_room(world: &World, owner: &Person) -> (u64, String) {
    let slug = format!("locked-{:08x}", rand::random::<u32>());
    let wish = json!({"slug": slug, "password": "open sesame"});
    let made = world.api(owner).post("/v1/rooms", &wish).await.unwrap();
    let room = made.json()["room"].as_u64().unwrap();
    let path = format!("/v1/rooms/{room}/invites");
    let invite = world.api(owner).post(&path, &json!({"role": "editor"})).await.unwrap();
    (room, invite.json()["code"].as_str().unwrap().to_owned())
}

/// A try of a new person to become a member.
async fn tries(world: &World, n: u64, from: &str, room: u64, shown: Value) -> Answer {
    let api = world.api_of(n as usize % 2, &world.person("guesser")).with("X-Forwarded-For", from);
    let path = format!("/v1/rooms/{room}/members/me");
    api.send("PUT".parse().unwrap(), &path, Some(shown.to_string())).await.unwrap()
}

#[tokio::test]
async fn guesses_of_a_room_by_many_accounts_are_limited() {
    let world = world("limits.room_guesses_per_minute").await;
    let owner = world.person("owner");
    let (room, invite) = locked_room(&world, &owner).await;
    let (right, wrong) = (json!({"password": "open sesame"}), json!({"password": "open barley"}));
    // Any number of people who know the password come in, from one address too.
    for n in 0..3 * A_MINUTE {
        assert_eq!(tries(&world, n, "192.0.2.1", room, right.clone()).await.status, 200, "member {n}");
    }
    let member = world.person("member");
    let mut client = world.client(0, &member).await;
    client.ask(&json!({"type": "join", "room": room, "password": "open sesame"}), "joined").await;
    // A guess over a socket counts with those over HTTP, on every node.
    let mut guesser = world.client(0, &world.person("guesser")).await;
    let guess = json!({"type": "join", "room": room, "password": "open barley"}).to_string();
    assert_eq!(guesser.refused(&guess).await["code"], "bad_password");
    for n in 1..A_MINUTE {
        let answer = tries(&world, n, &format!("198.51.100.{n}"), room, wrong.clone()).await;
        assert_eq!(answer.status, 403, "guess {n}: {}", answer.text);
    }
    for node in 0..2 {
        slowed_down(&tries(&world, node, "198.51.100.99", room, wrong.clone()).await);
        slowed_down(&tries(&world, node, "198.51.100.99", room, right.clone()).await);
    }
    assert_eq!(guesser.refused(&guess).await["code"], "rate_limited");
    // Members, the owner and an invited person come in, and other rooms are open.
    for person in [&member, &owner] {
        world.client(1, person).await.ask(&json!({"type": "join", "room": room}), "joined").await;
    }
    let invited = tries(&world, 0, "198.51.100.99", room, json!({"invite": invite})).await;
    assert_eq!(invited.status, 200, "{}", invited.text);
    let (other, _) = locked_room(&world, &owner).await;
    assert_eq!(tries(&world, 0, "198.51.100.99", other, right).await.status, 200);
}

#[tokio::test]
async fn guesses_from_one_address_are_limited_over_all_rooms() {
    let world = world("limits.room_guesses_per_minute").await;
    let owner = world.person("owner");
    let (right, wrong) = (json!({"password": "open sesame"}), json!({"password": "open barley"}));
    for n in 0..A_MINUTE {
        let (room, _) = locked_room(&world, &owner).await;
        assert_eq!(tries(&world, n, "192.0.2.1", room, wrong.clone()).await.status, 403, "guess {n}");
    }
    let (room, _) = locked_room(&world, &owner).await;
    for node in 0..2 {
        slowed_down(&tries(&world, node, "192.0.2.1", room, wrong.clone()).await);
    }
    assert_eq!(tries(&world, 0, "192.0.2.2", room, right).await.status, 200);
}
