//! A database that lacks a privilege or a table: the answer and the log say that an
//! operator must act, and what to do.

use roomgate::dev::{Admin, Answer, Options};
use serde_json::{Value, json};

use crate::world::{Person, World, refused};

async fn world() -> (World, Admin, Person, u64) {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 0, ..options }).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let admin = world.primaries().await.remove(0);
    (world, admin, alice, room)
}

fn log(world: &World) -> String {
    std::fs::read_to_string(world.cluster().nodes()[0].service().log()).unwrap()
}

async fn submit(world: &World, person: &Person, room: u64, op: &str) -> Value {
    let body = json!({"items": [{"op": op, "kind": "message", "data": 1}]});
    let answer = world.api_of(0, person).post(&format!("/v1/rooms/{room}/events"), &body).await.unwrap();
    let json = answer.json();
    if json["items"].is_array() { json["items"][0].clone() } else { json["error"].clone() }
}

fn says_that_an_operator_must_act(answer: &Answer) {
    refused(answer, 503, "shard_unavailable");
    assert!(answer.text.contains("An operator must act"), "{}", answer.text);
}

/// A change that breaks a shard, the one that mends it, and a word of the remedy.
const BROKEN: [(&str, &str, &str); 5] = [
    ("REVOKE ALL ON room FROM roomgate", "GRANT ALL ON room TO roomgate", "roomgate migrate up"),
    ("REVOKE ALL ON room_event FROM roomgate", "GRANT ALL ON room_event TO roomgate", "roomgate migrate up"),
    ("ALTER TABLE room RENAME TO room_old", "ALTER TABLE room_old RENAME TO room", "migrate status"),
    (
        "ALTER TABLE room_event RENAME COLUMN body TO content",
        "ALTER TABLE room_event RENAME COLUMN content TO body",
        "migrate status",
    ),
    (
        "ALTER TABLE room_event ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE room_event DISABLE ROW LEVEL SECURITY",
        "row policy",
    ),
];

#[tokio::test]
async fn missing_table_or_privilege_names_its_remedy() {
    let (world, admin, alice, room) = world().await;
    for (n, (breaks, mends, remedy)) in BROKEN.into_iter().enumerate() {
        admin.batch_execute(breaks).await.unwrap();
        let answer = submit(&world, &alice, room, &format!("op{n}")).await;
        assert_eq!(answer["code"], "shard_unavailable", "{breaks}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains("An operator must act"), "{breaks}: {answer}");
        let read =
            world.api_of(0, &alice).get(&format!("/v1/rooms/{room}/events?freshness=primary")).await.unwrap();
        says_that_an_operator_must_act(&read);
        if breaks.starts_with("REVOKE") {
            let checked = world.roomgate(&["check-config"]);
            let text = String::from_utf8_lossy(&checked.stdout).into_owned();
            assert!(!checked.status.success() && text.contains("may not read and write room"), "{text}");
        }
        assert!(log(&world).contains(remedy), "{breaks}: the log names no remedy:\n{}", log(&world));
        admin.batch_execute(mends).await.unwrap();
        let answer = submit(&world, &alice, room, &format!("op{n}")).await;
        assert_eq!(answer["type"], "ack", "{mends}: {answer}");
    }
}

/// The role's own search path names other schemas; the gateway's sessions don't use it.
#[tokio::test]
async fn search_path_of_the_role_is_not_felt() {
    let (world, admin, alice, room) = world().await;
    admin.batch_execute("ALTER ROLE roomgate SET search_path = pg_catalog").await.unwrap();
    world.cluster().nodes()[0].service().restart().await.unwrap();
    assert_eq!(submit(&world, &alice, room, "op").await["type"], "ack");
}
