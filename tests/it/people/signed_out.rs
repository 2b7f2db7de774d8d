//! Whoever signs out is signed out everywhere at once: sessions, access tokens.

use std::time::Duration;

use roomgate::dev::{Api, Options};
use serde_json::{Value, json};

use crate::client::Client;
use crate::stopwatch::Stopwatch;
use crate::world::{Person, World};

const PROMISED: Duration = Duration::from_secs(5);

fn api(world: &World, node: usize) -> Api {
    Api::new(&world.cluster().nodes()[node].url())
}

/// A new account, signed in on as many devices.
pub async fn account(world: &World, devices: usize) -> Vec<(Person, Value)> {
    let email = format!("ann-{:016x}@x.test", rand::random::<u64>());
    let wish = json!({"email": email, "password": "correct horse", "name": "Ann"});
    let made = api(world, 0).post("/v1/signup", &wish).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    let mut all = vec![made.json()];
    while all.len() < devices {
        all.push(api(world, 1).post("/v1/signin", &wish).await.unwrap().json());
    }
    let person = |device: &Value| Person {
        user: device["user"]["id"].as_str().unwrap().to_owned(),
        token: device["token"].as_str().unwrap().to_owned(),
    };
    all.into_iter().map(|device| (person(&device), device["refresh_token"].clone())).collect()
}

async fn status(world: &World, node: usize, person: &Person) -> u16 {
    world.api_of(node, person).get("/v1/me").await.unwrap().status.as_u16()
}

async fn closed_as_unauthenticated(clients: &mut [Client]) {
    let started = Stopwatch::start();
    for client in clients {
        assert_eq!(client.ends().await, Some(4100));
        let goodbye = client.hears().await.unwrap();
        assert_eq!((&goodbye["type"], &goodbye["reason"]), (&json!("goodbye"), &json!("unauthenticated")));
    }
    assert!(started.elapsed() < PROMISED, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_sign_out_ends_its_own_sign_in_on_every_node_with_redis_and_without() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, replicas: 0, ..options }).await;
    for redis in ["up", "killed"] {
        let devices = account(&world, 2).await;
        let ((here, refresh), (other, _)) = (&devices[0], &devices[1]);
        let mut ended = [world.client(0, here).await, world.client(1, here).await];
        let mut stays = world.client(1, other).await;
        if redis == "killed" {
            world.cluster().redis().service().kill().await;
        }
        let out = api(&world, 0).post("/v1/signout", &json!({"refresh_token": refresh})).await.unwrap();
        assert_eq!(out.status, 204, "{}", out.text);
        closed_as_unauthenticated(&mut ended).await;
        stays.ask(&json!({"type": "ping"}), "pong").await;
        // Its access token, too; the other device's goes on.
        for node in 0..2 {
            assert_eq!((status(&world, node, here).await, status(&world, node, other).await), (401, 200));
        }
        let mut late = Client::silent(&world.cluster().nodes()[1].url(), here).await;
        late.send(&json!({"type": "hello", "token": here.token})).await;
        assert_eq!(late.ends().await, Some(4100));
    }
}

#[tokio::test]
async fn a_sign_out_without_a_refresh_token_ends_every_sign_in_of_the_person() {
    let world = World::shared();
    let devices = account(world, 3).await;
    let bystander = world.person("bob");
    let mut stays = world.client(2, &bystander).await;
    let mut ended = Vec::new();
    for (node, (person, _)) in devices.iter().enumerate() {
        ended.push(world.client(node, person).await);
    }
    let signed_in = world.api_of(0, &devices[0].0);
    assert_eq!(signed_in.send("POST".parse().unwrap(), "/v1/signout", None).await.unwrap().status, 204);
    closed_as_unauthenticated(&mut ended).await;
    stays.ask(&json!({"type": "ping"}), "pong").await;

    // A token that was made elsewhere belongs to no sign-in: all of its kind end.
    let mut foreign = [world.client(1, &bystander).await, stays];
    let signed_in = world.api_of(0, &bystander);
    assert_eq!(signed_in.send("POST".parse().unwrap(), "/v1/signout", None).await.unwrap().status, 204);
    closed_as_unauthenticated(&mut foreign).await;
}

#[tokio::test]
async fn a_node_that_starts_later_knows_who_has_signed_out() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, replicas: 0, ..options }).await;
    let (person, refresh) = account(&world, 1).await.remove(0);
    assert_eq!(status(&world, 1, &person).await, 200);
    let node = world.cluster().nodes()[1].service();
    node.kill().await;
    let out = api(&world, 0).post("/v1/signout", &json!({"refresh_token": refresh})).await.unwrap();
    assert_eq!(out.status, 204);
    node.restart().await.unwrap();
    let refused = async {
        while status(&world, 1, &person).await != 401 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PROMISED, refused).await.expect("the token is refused");
}
