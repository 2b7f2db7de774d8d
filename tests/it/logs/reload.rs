//! SIGHUP: what takes effect, what is told of it, and what is refused.

use std::time::Instant;

use nix::sys::signal::Signal;
use roomgate::dev::Api;
use serde_json::{Value, json};

use super::read::{PATIENCE, line, lines, log_text, logging_world};
use crate::client::{Client, rect, submit};
use crate::world::{Person, World, now};

const SECRET: &[u8] = b"the second key, of thirty-two bytes or more";

/// Rewrites the node's file and waits for the line about it.
async fn reloaded(world: &World, file: &str) -> Value {
    let node = &world.cluster().nodes()[0];
    let before = lines(world).len();
    std::fs::write(node.service().log().with_extension("toml"), file).unwrap();
    node.service().signal(Signal::SIGHUP);
    line(world, before, |line| line["target"] == "roomgate::reload").await
}

fn file_of(world: &World) -> String {
    std::fs::read_to_string(world.cluster().nodes()[0].service().log().with_extension("toml")).unwrap()
}

/// What a second key signs.
fn token(world: &World, secret: &[u8]) -> String {
    let jwt = world.cluster().report().jwt;
    let body = json!({"iss": jwt.issuer, "aud": jwt.audience, "sub": "eve", "exp": now() + 600});
    let header = jsonwebtoken::Header { kid: Some("second".to_owned()), ..Default::default() };
    jsonwebtoken::encode(&header, &body, &jsonwebtoken::EncodingKey::from_secret(secret)).unwrap()
}

async fn accepts(world: &World, token: &str) -> bool {
    let api = Api::new(&world.cluster().nodes()[0].url()).signed_in(token);
    api.get("/v1/rooms").await.unwrap().status == 200
}

async fn announced(world: &World, person: &Person) -> Value {
    let mut client = Client::silent(&world.cluster().nodes()[0].url(), person).await;
    client.ask(&json!({"type": "hello", "token": person.token}), "welcome").await["limits"].clone()
}

fn shape(id: usize) -> Value {
    json!({"kind": "shape.add", "shape": rect(&format!("s{id}"), 1)})
}

/// How many of so many submits at once are acked.
async fn acked(client: &mut Client, room: u64, round: &str, count: usize) -> usize {
    for n in 0..count {
        let id = format!("{round}{n}");
        let body = json!({"kind": "shape.add", "shape": rect(&id, 1)});
        client.send(&submit(room, &id, &body)).await;
    }
    let mut acks = 0;
    for n in 0..count {
        acks += usize::from(client.answer(room, &format!("{round}{n}")).await["type"] == "ack");
    }
    acks
}

#[tokio::test]
async fn sighup_takes_over_what_is_live_and_names_what_waits_for_a_restart() {
    let world = logging_world(|options| options).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    assert_eq!(acked(&mut client, room, "before", 3).await, 3);
    let key = world.cluster().report().jwt.key_file.with_file_name("second.key");
    std::fs::write(&key, SECRET).unwrap();
    let eve = token(&world, SECRET);
    assert!(!accepts(&world, &eve).await);
    let opened = |line: &Value| line["message"] == "a session is opened";
    assert!(!lines(&world).iter().any(opened), "debug lines are off");

    let first = file_of(&world);
    let second_key = format!("[[auth.keys]]\nkid = \"second\"\nalg = \"HS256\"\nfile = {key:?}\n");
    let slow = "[limits]\nsubmits_per_second = 1\nsubmit_burst = 2\n[reads]\nmax_stale_ms = 900\n";
    let changed = format!("{first}\n{second_key}\n{slow}[log]\nfilter = \"info,roomgate::session=debug\"\n");
    let told = reloaded(&world, &changed).await;
    let live = "auth.keys.second limits.submit_burst limits.submits_per_second log.filter";
    assert_eq!((&told["level"], &told["changed"]), (&json!("WARN"), &json!(live)), "{told}");
    assert_eq!(told["restart_needed"], "reads.max_stale_ms", "{told}");

    let began = Instant::now();
    let acks = acked(&mut client, room, "after", 12).await;
    // On a slow machine there is time for one more a second.
    let allowed = 2 + began.elapsed().as_secs() as usize;
    assert!((2..=allowed).contains(&acks), "the session goes by the new limit: {acks}, not 2 to {allowed}");
    assert_eq!(announced(&world, &alice).await["submit_burst"], 2);
    line(&world, 0, opened).await;
    assert!(accepts(&world, &eve).await, "a token of the new key");
    assert!(accepts(&world, &alice.token).await, "and of the old one");

    // What waits for a restart goes on being told, until it is taken back.
    let told = reloaded(&world, &changed.replace("submit_burst = 2", "submit_burst = 4")).await;
    assert_eq!(
        (&told["changed"], &told["restart_needed"]),
        (&json!("limits.submit_burst"), &json!("reads.max_stale_ms"))
    );
    let back = changed
        .replace("submit_burst = 2", "submit_burst = 4")
        .replace("max_stale_ms = 900", "max_stale_ms = 1000");
    let told = reloaded(&world, &back).await;
    assert_eq!((&told["level"], &told["changed"]), (&json!("INFO"), &json!("")), "{told}");

    // The same file with another key in it.
    std::fs::write(&key, [SECRET, b"!"].concat()).unwrap();
    let told = reloaded(&world, &back).await;
    assert_eq!(told["changed"], "auth.keys", "{told}");
    assert!(!accepts(&world, &eve).await);
    assert!(accepts(&world, &token(&world, &[SECRET, b"!"].concat())).await);
    assert!(!log_text(&world).contains("thirty-two bytes"), "a secret is logged");
}

#[tokio::test]
async fn a_configuration_with_an_error_in_it_changes_nothing() {
    let world = logging_world(|options| options).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let (first, before) = (file_of(&world), announced(&world, &alice).await);
    let limits = "[limits]\nsubmits_per_second = 1\nsubmit_burst = 1\n";
    let broken = [
        ("[limits\nsubmit_burst = 1", "expected"),
        (
            &format!("{limits}submit_bursts = 1\n"),
            "unknown key limits.submit_bursts; did you mean submit_burst?",
        ),
        (&format!("{limits}json_depth = 1\n"), "limits.json_depth must be from 4 to 128"),
        (&format!("{limits}[log]\nfilter = \"info,roomgate=loud\"\n"), "log.filter"),
        (
            &format!("{limits}[[auth.keys]]\nkid = \"k\"\nalg = \"HS256\"\nfile = \"/nowhere\"\n"),
            "can't read the key file",
        ),
    ];
    for (addition, problem) in broken {
        let told = reloaded(&world, &format!("{first}\n{addition}\n")).await;
        assert_eq!(told["level"], "ERROR", "{told}");
        assert!(told["problem"].as_str().unwrap().contains(problem), "{told}");
        assert_eq!(announced(&world, &alice).await, before, "{addition}");
    }
    // A first key that can't sign.
    let key = world.cluster().report().jwt.key_file.with_file_name("public.pem");
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    std::fs::write(&key, public).unwrap();
    let own = first.split_once("[[auth.keys]]").unwrap().0;
    let told = reloaded(
        &world,
        &format!("{own}[[auth.keys]]\nkid = \"k\"\nalg = \"EdDSA\"\nfile = {key:?}\n{limits}"),
    )
    .await;
    assert!(told["problem"].as_str().unwrap().contains("it can't sign"), "{told}");
    assert_eq!(announced(&world, &alice).await, before);
    assert!(accepts(&world, &alice.token).await);

    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let all = tokio::time::timeout(PATIENCE, acked(&mut client, room, "x", 5)).await.unwrap();
    assert_eq!(all, 5, "no limit of a refused file is in force");
    assert_eq!(client.submit(room, "last", &shape(9)).await["type"], "ack");
    let told = reloaded(&world, &first).await;
    assert_eq!((&told["level"], &told["changed"]), (&json!("INFO"), &json!("")), "{told}");
}
