//! The sign-ins of a person: listed, ended one by one, and noted.

use std::time::Duration;

use roomgate::dev::{Api, Options};
use serde_json::{Value, json};

use crate::stopwatch::Stopwatch;
use crate::world::{Person, World, refused};

const PASSWORD: &str = "correct horse";
const PROMISED: Duration = Duration::from_secs(5);

fn api(world: &World, node: usize, agent: &str) -> Api {
    Api::new(&world.cluster().nodes()[node].url()).with("User-Agent", agent)
}

fn person(tokens: &Value) -> Person {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Person { user: text(&tokens["user"]["id"]), token: text(&tokens["token"]) }
}

/// Signed in by clients that call themselves so.
async fn devices(world: &World, agents: &[&str]) -> (String, Vec<Value>) {
    let email = format!("ann-{:016x}@x.test", rand::random::<u64>());
    let wish = json!({"email": email, "password": PASSWORD, "name": "Ann"});
    let mut all = Vec::new();
    for (n, agent) in agents.iter().enumerate() {
        let path = if n == 0 { "/v1/signup" } else { "/v1/signin" };
        let answer = api(world, 0, agent).post(path, &wish).await.unwrap();
        assert!(answer.status.is_success(), "{}", answer.text);
        all.push(answer.json());
    }
    (email, all)
}

async fn listed(world: &World, person: &Person) -> Vec<Value> {
    let answer = world.api_of(0, person).get("/v1/me/sign-ins").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["next_cursor"], Value::Null);
    answer.json()["items"].as_array().unwrap().clone()
}

async fn end(world: &World, node: usize, person: &Person, id: &Value) -> roomgate::dev::Answer {
    let path = format!("/v1/me/sign-ins/{}", id.as_str().unwrap());
    world.api_of(node, person).send("DELETE".parse().unwrap(), &path, None).await.unwrap()
}

#[tokio::test]
async fn one_sign_in_of_several_is_ended_on_every_node() {
    let world = World::shared();
    let long = "x".repeat(4000);
    let (_, all) = devices(world, &["Phone 1", &long, "Laptop \u{e9} \"2\""]).await;
    let [phone, tablet, laptop] = [0, 1, 2].map(|n| person(&all[n]));
    let before = listed(world, &laptop).await;
    assert_eq!(before.len(), 3);
    assert!(before[1]["agent"].as_str().unwrap().len() <= 200);
    let current: Vec<bool> = before.iter().map(|item| item["current"].as_bool().unwrap()).collect();
    assert_eq!(current, [true, false, false], "the newest comes first");
    assert_eq!(before[2]["agent"], "Phone 1");
    let body = json!({"refresh_token": all[0]["refresh_token"]});
    let fresh = api(world, 1, "x").post("/v1/token/refresh", &body).await.unwrap().json();
    let after = listed(world, &laptop).await;
    assert_eq!((&after[0]["id"], &after[0]["agent"]), (&before[2]["id"], &before[2]["agent"]));
    assert!(after[0]["refreshed_at"].as_u64() > before[2]["refreshed_at"].as_u64());
    assert_eq!(after[0]["created_at"], before[2]["created_at"]);

    let mut sessions = [world.client(1, &phone).await, world.client(2, &person(&fresh)).await];
    let mut stays = world.client(2, &tablet).await;
    assert_eq!(end(world, 2, &laptop, &before[2]["id"]).await.status, 204);
    for session in &mut sessions {
        assert_eq!(session.ends().await, Some(4100));
    }
    let since = Stopwatch::start();
    for node in 0..3 {
        while world.api_of(node, &phone).get("/v1/me").await.unwrap().status != 401 {
            assert!(since.elapsed() < PROMISED, "node {node}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let body = json!({"refresh_token": fresh["refresh_token"]});
    refused(&api(world, 0, "x").post("/v1/token/refresh", &body).await.unwrap(), 401, "unauthenticated");
    stays.ask(&json!({"type": "ping"}), "pong").await;
    assert_eq!(listed(world, &tablet).await.len(), 2);
    assert_eq!(end(world, 0, &laptop, &before[2]["id"]).await.status, 204, "once more");

    // Nobody else's, and none that is made up.
    let (_, others) = devices(world, &["Eve"]).await;
    for id in [&before[0]["id"], &json!("x"), &json!("00000000-0000-0000-0000-000000000000")] {
        refused(&end(world, 0, &person(&others[0]), id).await, 404, "not_found");
    }
    assert_eq!(listed(world, &laptop).await.len(), 2);
    // One's own.
    assert_eq!(end(world, 0, &laptop, &before[0]["id"]).await.status, 204);
    assert_eq!(listed(world, &tablet).await.len(), 1);
    assert!(listed(world, &world.person("bob")).await.is_empty());
}

#[tokio::test]
async fn sign_ins_failures_and_sign_outs_are_noted_and_logged() {
    let world = World::start(|options| {
        let options = options.set("limits.signins_per_minute", 10);
        Options { nodes: 1, shards: 1, replicas: 0, ..options }
    })
    .await;
    let (email, all) = devices(&world, &["One", "Two", "Three", "Four"]).await;
    let ann = person(&all[0]);
    for _ in 0..3 {
        let wish = json!({"email": email, "password": "wrong horse"});
        let eve = api(&world, 0, "Eve").with("X-Forwarded-For", "198.51.100.77");
        refused(&eve.post("/v1/signin", &wish).await.unwrap(), 401, "unauthenticated");
    }
    let out = json!({"refresh_token": all[1]["refresh_token"]});
    assert_eq!(api(&world, 0, "Two").post("/v1/signout", &out).await.unwrap().status, 204);
    let other = listed(&world, &ann).await.into_iter().find(|item| item["agent"] == "Three").unwrap();
    assert_eq!(end(&world, 0, &ann, &other["id"]).await.status, 204);
    let reused = json!({"refresh_token": all[3]["refresh_token"]});
    for status in [200, 401] {
        assert_eq!(api(&world, 0, "Four").post("/v1/token/refresh", &reused).await.unwrap().status, status);
    }
    let body = json!({"current_password": PASSWORD, "new_password": "battery staple"}).to_string();
    let changed = world.api_of(0, &ann).send("PUT".parse().unwrap(), "/v1/me/password", Some(body)).await;
    assert_eq!(changed.unwrap().status, 204);
    let out = world.api_of(0, &ann).send("POST".parse().unwrap(), "/v1/signout", None).await.unwrap();
    assert_eq!(out.status, 204);

    let admin = &world.primaries().await[0];
    let notes = "SELECT action || CASE WHEN count(*) > 1 THEN ' ' || count(*) ELSE '' END
                   FROM directory.audit WHERE actor = $1 GROUP BY action ORDER BY action COLLATE \"C\"";
    let expected =
        ["password.changed", "sign_in 4", "sign_in.failed", "sign_in.reused", "sign_out 2", "sign_out.all"];
    let since = Stopwatch::start();
    loop {
        let rows = admin.query(notes, &[&ann.user]).await.unwrap();
        let noted: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if noted == expected {
            break;
        }
        if since.elapsed() >= PROMISED {
            let all = "SELECT concat_ws(' ', at, actor, action, target) FROM directory.audit ORDER BY at";
            for row in admin.query(all, &[]).await.unwrap() {
                println!("{}", row.get::<_, String>(0));
            }
        }
        assert!(since.elapsed() < PROMISED, "{noted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = std::fs::read_to_string(world.cluster().nodes()[0].service().log()).unwrap();
    for line in ["signed in", "sign-in failed", "signed out", "password changed", "sign-in ended by its user"]
    {
        assert!(log.contains(line), "{line}");
    }
    assert!(log.contains("198.51.100.77"), "the log names the guesser's address");
    assert!(!log.contains("wrong horse") && !log.contains(&email), "nor what clients sent");
}
