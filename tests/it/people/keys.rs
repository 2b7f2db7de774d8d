//! Tokens over time: keys that are replaced under way, tokens that end.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use roomgate::dev::{Api, Options};
use serde_json::{Value, json};

use super::signed_out::account;
use crate::world::{Person, World, now};

/// The keys of a node from its next start on, the signing one first.
fn set_keys(world: &World, node: usize, keys: &[(&str, &str, &Path)]) {
    let file = world.cluster().nodes()[node].service().log().with_extension("toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (rest, _) = text.split_once("[[auth.keys]]").unwrap();
    let sections: String = keys
        .iter()
        .map(|(kid, alg, path)| format!("[[auth.keys]]\nkid = {kid:?}\nalg = {alg:?}\nfile = {path:?}\n\n"))
        .collect();
    std::fs::write(&file, format!("{rest}{sections}")).unwrap();
}

async fn restart(world: &World, node: usize) {
    world.cluster().nodes()[node].service().restart().await.unwrap();
}

async fn status(world: &World, node: usize, token: &str) -> u16 {
    let api = Api::new(&world.cluster().nodes()[node].url()).signed_in(token);
    api.get("/v1/me").await.unwrap().status.as_u16()
}

/// A new token of the same sign-in.
async fn renewed(world: &World, node: usize, refresh: &Value) -> (String, Value) {
    let api = Api::new(&world.cluster().nodes()[node].url());
    let answer = api.post("/v1/token/refresh", &json!({"refresh_token": refresh})).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    (token, answer.json()["refresh_token"].clone())
}

fn kid(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

#[tokio::test]
async fn keys_are_replaced_node_by_node_and_nobody_is_signed_out_before_the_old_one_goes() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, replicas: 0, ..options }).await;
    let old_file = world.cluster().report().jwt.key_file;
    let new_file = old_file.with_file_name("new.pem");
    let made =
        Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&new_file).status();
    assert!(made.unwrap().success());
    let old = ("dev-1", "HS256", old_file.as_path());
    let new = ("dev-2", "EdDSA", new_file.as_path());
    let (ann, refresh) = account(&world, 1).await.remove(0);
    assert_eq!(kid(&ann.token), "dev-1");

    // First every node accepts the new one.
    for node in 0..2 {
        set_keys(&world, node, &[old, new]);
        restart(&world, node).await;
        assert_eq!((status(&world, 0, &ann.token).await, status(&world, 1, &ann.token).await), (200, 200));
    }
    // Then they sign with it, one after the other; both kinds open both nodes.
    let mut session = world.client(1, &ann).await;
    set_keys(&world, 0, &[new, old]);
    restart(&world, 0).await;
    let (fresh, refresh) = renewed(&world, 0, &refresh).await;
    assert_eq!(kid(&fresh), "dev-2");
    for node in 0..2 {
        for token in [&ann.token, &fresh] {
            assert_eq!(status(&world, node, token).await, 200);
        }
    }
    // A session goes on from one to the other.
    session.ask(&json!({"type": "refresh", "token": fresh}), "refreshed").await;
    let (still_old, refresh) = renewed(&world, 1, &refresh).await;
    assert_eq!(kid(&still_old), "dev-1");
    set_keys(&world, 1, &[new, old]);
    restart(&world, 1).await;
    let (last, _) = renewed(&world, 1, &refresh).await;
    assert_eq!(kid(&last), "dev-2");
    world.client(1, &Person { token: still_old.clone(), ..ann.clone() }).await;

    // At last the old one goes.
    for node in 0..2 {
        set_keys(&world, node, &[new]);
        restart(&world, node).await;
        for (token, expected) in [(&ann.token, 401), (&still_old, 401), (&fresh, 200), (&last, 200)] {
            assert_eq!(status(&world, node, token).await, expected);
        }
    }
}

#[tokio::test]
async fn a_token_that_ends_in_mid_connection_is_announced_a_minute_before_and_then_closes_it() {
    let world = World::shared();
    let alice = world.person("alice");
    let token = |expires_at: u64| world.sign(&json!({"sub": alice.user, "exp": expires_at}));
    let (started, expires_at) = (Instant::now(), now() + 63);
    let person = Person { token: token(expires_at), ..alice.clone() };
    let mut client = world.client(0, &person).await;
    let room = world.room(&alice, "open").await;
    client.join(room).await;
    let expiring = client.wait(|m| m["type"] == "token_expiring").await;
    assert_eq!(expiring["expires_at"], expires_at * 1000);
    let announced = started.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&announced), "{announced:?}");

    // Asked for a new one, the client shows one, and is not asked again.
    client.ask(&json!({"type": "refresh", "token": token(now() + 3600)}), "refreshed").await;
    client.ask(&json!({"type": "ping"}), "pong").await;
    // One that ends soon is announced at once, and is the end.
    let soon = now() + 3;
    client.ask(&json!({"type": "refresh", "token": token(soon)}), "refreshed").await;
    let expiring = client.wait(|m| m["type"] == "token_expiring").await;
    assert_eq!(expiring["expires_at"], soon * 1000);
    let ack = client.submit(room, "op", &json!({"kind": "message", "data": 1})).await;
    assert_eq!(ack["type"], "ack", "until then it goes on");
    assert_eq!(client.ends().await, Some(4101));
    assert!(now() >= soon);
}
