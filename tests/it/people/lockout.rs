//! Failed sign-ins slow down the guesser, and nobody who has signed in before.

use roomgate::dev::{Answer, Api, Options};
use serde_json::{Value, json};

use crate::world::{World, refused};

const PASSWORD: &str = "correct horse";
const A_MINUTE: usize = 10;

/// With the limits of a default configuration for sign-ins, behind a balancer that
/// names the clients' addresses.
pub async fn world(nodes: usize) -> World {
    World::start(|options| {
        let options = options.set("limits.signins_per_minute", A_MINUTE);
        Options { nodes, shards: 1, replicas: 0, ..options }
    })
    .await
}

fn api(world: &World, node: usize, from: &str) -> Api {
    Api::new(&world.cluster().nodes()[node].url()).with("X-Forwarded-For", from)
}

/// A new account that signed up from an address: its e-mail address and its tokens.
pub async fn account(world: &World, from: &str) -> (String, Value) {
    let email = format!("ann-{:016x}@x.test", rand::random::<u64>());
    let wish = json!({"email": email, "password": PASSWORD, "name": "Ann"});
    let made = api(world, 0, from).post("/v1/signup", &wish).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    (email, made.json())
}

pub async fn sign_in(world: &World, node: usize, from: &str, email: &str, password: &str) -> Answer {
    let wish = json!({"email": email, "password": password});
    api(world, node, from).post("/v1/signin", &wish).await.unwrap()
}

async fn sign_in_by_device(world: &World, node: usize, from: &str, email: &str, token: &Value) -> Answer {
    let wish = json!({"email": email, "password": PASSWORD, "refresh_token": token});
    api(world, node, from).post("/v1/signin", &wish).await.unwrap()
}

/// Wrong passwords until the guesser is slowed down. Returns their number.
async fn guesses(world: &World, email: &str, from: impl Fn(usize) -> String) -> usize {
    for n in 0..100 {
        let answer = sign_in(world, n % world.cluster().nodes().len(), &from(n), email, "wrong horse").await;
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after"));
            return n;
        }
        refused(&answer, 401, "unauthenticated");
    }
    panic!("nobody slows down the guesses");
}

#[tokio::test]
async fn guesses_lock_no_owner_out_who_signed_in_before() {
    let world = world(2).await;
    type From = fn(usize) -> String;
    let attacks: [(&str, From); 3] = [
        ("one address", |_| "198.51.100.1".to_owned()),
        ("many addresses", |n| format!("198.51.100.{n}")),
        ("many IPv6 networks", |n| format!("2001:db8:{n}::1")),
    ];
    for (name, from) in attacks {
        let (email, tokens) = account(&world, "192.0.2.1").await;
        let elsewhere = sign_in(&world, 1, "2001:db8:ffff::1", &email, PASSWORD).await;
        assert_eq!(elsewhere.status, 200, "{}", elsewhere.text);
        let out = json!({"refresh_token": tokens["refresh_token"]});
        assert_eq!(api(&world, 0, "192.0.2.1").post("/v1/signout", &out).await.unwrap().status, 204);
        assert_eq!(guesses(&world, &email, from).await, A_MINUTE, "{name}");
        for node in 0..2 {
            // An address of a sign-up, one of a sign-in, and one of the same network.
            for known in ["192.0.2.1", "2001:db8:ffff::1", "2001:db8:ffff::2"] {
                let typed = email.to_uppercase();
                assert_eq!(sign_in(&world, node, known, &typed, PASSWORD).await.status, 200, "{name}");
            }
            // A device that roams shows a token that is of no other use.
            let token = &tokens["refresh_token"];
            let roaming = sign_in_by_device(&world, node, &format!("203.0.113.{node}"), &email, token).await;
            assert_eq!(roaming.status, 200, "{name}: {}", roaming.text);
            let unknown = sign_in(&world, node, "203.0.113.9", &email, PASSWORD).await;
            refused(&unknown, 429, "rate_limited");
            let (_, others) = account(&world, "192.0.2.7").await;
            let token = &others["refresh_token"];
            let foreign = sign_in_by_device(&world, node, "203.0.113.9", &email, token).await;
            refused(&foreign, 429, "rate_limited");
        }
    }
}

/// A node without trusted proxies sees the balancer's address alone.
#[tokio::test]
async fn one_client_of_an_address_locks_out_no_other_one() {
    let world = World::start(|options| {
        let options = options.set("limits.signins_per_minute", A_MINUTE);
        let options = options.set("listen.trusted_proxies", "192.0.2.200");
        Options { nodes: 1, shards: 1, replicas: 0, ..options }
    })
    .await;
    let [(ann, tokens), (bob, _)] = [account(&world, "").await, account(&world, "").await];
    assert_eq!(guesses(&world, &ann, |_| String::new()).await, A_MINUTE);
    assert_eq!(sign_in(&world, 0, "", &bob, PASSWORD).await.status, 200);
    // The owner shares the guesser's address, and has the device.
    refused(&sign_in(&world, 0, "", &ann, PASSWORD).await, 429, "rate_limited");
    assert_eq!(sign_in_by_device(&world, 0, "", &ann, &tokens["refresh_token"]).await.status, 200);

    // Nor do clients that mistype, at an address where bob never signed in.
    world.primaries().await[0].batch_execute("TRUNCATE directory.known_address").await.unwrap();
    assert_eq!(sign_in(&world, 0, "", &bob, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn an_address_that_fails_at_many_accounts_is_slowed_down() {
    let world = world(2).await;
    let (known, _) = account(&world, "198.51.100.1").await;
    let (unknown, _) = account(&world, "192.0.2.1").await;
    for n in 0..A_MINUTE {
        let email = format!("n{n}-{:016x}@x.test", rand::random::<u64>());
        let answer = sign_in(&world, n % 2, "198.51.100.1", &email, PASSWORD).await;
        refused(&answer, 401, "unauthenticated");
    }
    for node in 0..2 {
        let answer = sign_in(&world, node, "198.51.100.1", &unknown, PASSWORD).await;
        refused(&answer, 429, "rate_limited");
        assert_eq!(sign_in(&world, node, "198.51.100.1", &known, PASSWORD).await.status, 200);
        assert_eq!(sign_in(&world, node, "198.51.100.2", &unknown, PASSWORD).await.status, 200);
    }
}

#[tokio::test]
async fn right_passwords_are_not_counted() {
    let world = world(1).await;
    let (email, _) = account(&world, "192.0.2.1").await;
    for n in 0..A_MINUTE + 5 {
        assert_eq!(sign_in(&world, 0, "192.0.2.1", &email, PASSWORD).await.status, 200, "{n}");
    }
    let at_once = (0..A_MINUTE + 5).map(|_| sign_in(&world, 0, "192.0.2.1", &email, PASSWORD));
    for answer in futures_util::future::join_all(at_once).await {
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

#[tokio::test]
async fn guesses_at_once_are_checked_up_to_the_limit() {
    let world = world(1).await;
    let (email, _) = account(&world, "192.0.2.1").await;
    let at_once = (0..60).map(|_| sign_in(&world, 0, "198.51.100.1", &email, "wrong horse"));
    let answers = futures_util::future::join_all(at_once).await;
    let of = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((of(401), of(429)), (A_MINUTE, 50));
}

#[tokio::test]
async fn known_addresses_are_digests_bounded_and_erased_with_the_account() {
    let world = world(1).await;
    let (email, tokens) = account(&world, "192.0.2.1").await;
    for n in 0..40 {
        assert_eq!(sign_in(&world, 0, &format!("192.0.2.{n}"), &email, PASSWORD).await.status, 200);
    }
    let admin = &world.primaries().await[0];
    let user = tokens["user"]["id"].as_str().unwrap();
    let count = "SELECT count(*), coalesce(max(length(digest)), 0)::bigint
                   FROM directory.known_address WHERE account_id = $1";
    let row = admin.query_one(count, &[&user]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (32, 16));
    let signed_in = api(&world, 0, "").signed_in(tokens["token"].as_str().unwrap());
    assert_eq!(signed_in.send("DELETE".parse().unwrap(), "/v1/me", None).await.unwrap().status, 204);
    assert_eq!(admin.query_one(count, &[&user]).await.unwrap().get::<_, i64>(0), 0);
}
