//! A request with an Idempotency-Key has one effect and one answer.

use std::time::Duration;

use roomgate::dev::{Admin, Answer, Options, connect};
use serde_json::{Value, json};

use crate::world::{Person, World, refused, waits_again};

const KEY: &str = "Idempotency-Key";

async fn create(world: &World, node: usize, person: &Person, key: &str, wish: &Value) -> Answer {
    world.api_of(node, person).with(KEY, key).post("/v1/rooms", wish).await.unwrap()
}

fn wish() -> Value {
    json!({"slug": format!("once-{:016x}", rand::random::<u64>()), "name": "Ours", "metadata": {"n": 1.5}})
}

async fn directory(world: &World) -> Admin {
    connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap()
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_on_every_node_and_makes_nothing() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let wish = wish();
    let made = create(world, 0, &alice, "k1", &wish).await;
    assert_eq!(made.status, 201, "{}", made.text);
    for node in 0..3 {
        let again = create(world, node, &alice, "k1", &wish).await;
        assert_eq!((again.status.as_u16(), &again.text), (201, &made.text));
        assert_eq!(again.headers["location"], made.headers["location"]);
    }
    // What was kept, not the room as it is now.
    world.client(0, &alice).await.join(made.json()["room"].as_u64().unwrap()).await;
    assert_eq!(create(world, 1, &alice, "k1", &wish).await.text, made.text);

    let mut other = wish.clone();
    other["name"] = json!("Theirs");
    refused(&create(world, 1, &alice, "k1", &other).await, 409, "idempotency_mismatch");
    // A key is one person's.
    refused(&create(world, 1, &bob, "k1", &wish).await, 409, "slug_taken");
    refused(&create(world, 1, &alice, "k2", &wish).await, 409, "slug_taken");
    for bad in ["", &"k".repeat(256)] {
        refused(&create(world, 0, &alice, bad, &self::wish()).await, 400, "bad_message");
    }
    let mine = world.api(&alice).get("/v1/rooms").await.unwrap().json();
    assert_eq!(mine["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn of_many_at_once_one_has_an_effect_and_all_get_its_answer() {
    let world = World::shared();
    let alice = world.person("alice");
    let wish = wish();
    let tries = (0..12).map(|n| create(world, n % 3, &alice, "at-once", &wish));
    let answers = futures_util::future::join_all(tries).await;
    for answer in &answers {
        assert_eq!((answer.status.as_u16(), &answer.text), (201, &answers[0].text));
    }
}

/// On a directory with slow disks, so that its commits take longer than a
/// statement waits for a row.
#[tokio::test]
async fn a_repeat_waits_for_the_first_however_long_its_commits_take() {
    let world = World::shared();
    let alice = world.person("alice");
    let (first, looks) = (directory(world).await, directory(world).await);
    first.batch_execute("BEGIN").await.unwrap();
    let claim = "INSERT INTO directory.idempotency (user_id, key, digest, makes, try)
                 VALUES ($1, 'slow', '', 1, gen_random_uuid())";
    first.execute(claim, &[&alice.user]).await.unwrap();
    let transaction = "SELECT pg_current_xact_id()::text";
    let transaction: String = first.query_one(transaction, &[]).await.unwrap().get(0);
    let commits_late = async {
        waits_again(&looks, &format!("transactionid::text = '{transaction}'")).await;
        // And its node died before it had any effect.
        first.batch_execute("ROLLBACK").await.unwrap();
    };
    let wish = wish();
    let (answer, ()) = tokio::join!(create(world, 0, &alice, "slow", &wish), commits_late);
    assert_eq!(answer.status, 201, "{}", answer.text);
}

#[tokio::test]
async fn a_refusal_is_not_remembered() {
    let world = World::shared();
    let alice = world.person("alice");
    let wish = wish();
    let slug = wish["slug"].as_str().unwrap();
    world.room_called(&world.person("bob"), slug, "open").await;
    refused(&create(world, 0, &alice, "again", &wish).await, 409, "slug_taken");
    let other = self::wish();
    assert_eq!(create(world, 1, &alice, "again", &other).await.status, 201);
    let anybody = roomgate::dev::Api::new(&world.cluster().url()).with(KEY, "k");
    refused(&anybody.post("/v1/rooms", &other).await.unwrap(), 401, "unauthenticated");
}

#[tokio::test]
async fn a_request_whose_node_died_is_gone_on_with_wherever_it_stopped() {
    let world = World::shared();
    let (alice, admin) = (world.person("alice"), directory(world).await);
    // What a node leaves that dies after its effect and before its answer.
    let forget = "UPDATE directory.idempotency SET status = NULL, answer = NULL, location = NULL,
                         tried_at = now() - interval '1 minute' WHERE user_id = $1";
    let wish = wish();
    let made = create(world, 0, &alice, "died", &wish).await;
    admin.execute(forget, &[&alice.user]).await.unwrap();
    let same = |answer: &Answer| {
        let (answer, made) = (answer.json(), made.json());
        ["room", "slug", "created_at", "name"].iter().all(|field| answer[field] == made[field])
    };
    let again = create(world, 1, &alice, "died", &wish).await;
    assert!(again.status == 201 && same(&again), "{}", again.text);
    // And in the middle of its effect.
    let half = "UPDATE directory.slug SET state = 'creating' WHERE owner = $1";
    admin.execute(half, &[&alice.user]).await.unwrap();
    admin.execute(forget, &[&alice.user]).await.unwrap();
    let again = create(world, 2, &alice, "died", &wish).await;
    assert!(again.status == 201 && same(&again), "{}", again.text);
    // One that says that it is alive is waited for.
    let alive = "UPDATE directory.idempotency SET status = NULL, tried_at = now() + interval '1 minute'
                  WHERE user_id = $1";
    admin.execute(alive, &[&alice.user]).await.unwrap();
    refused(&create(world, 0, &alice, "died", &wish).await, 503, "unavailable");
}

#[tokio::test]
async fn after_a_day_a_key_is_free_and_what_had_its_time_is_swept() {
    let world = World::start(|options| {
        let options = options.set("jobs.janitor_interval_ms", 100).set("auth.refresh_token_ms", 1);
        Options { nodes: 2, shards: 1, replicas: 0, ..options }
    })
    .await;
    let (alice, admin) = (world.person("alice"), directory(&world).await);
    let account = json!({"email": "a@x.test", "password": "correct horse", "name": "Ann"});
    assert_eq!(world.api(&alice).post("/v1/signup", &account).await.unwrap().status, 201);
    for key in ["old", "new"] {
        assert_eq!(create(&world, 0, &alice, key, &wish()).await.status, 201);
    }
    let age = "UPDATE directory.idempotency SET created_at = now() - interval '24 hours' WHERE key = 'old'";
    admin.execute(age, &[]).await.unwrap();
    assert_eq!(create(&world, 0, &alice, "old", &wish()).await.status, 201, "another request by now");
    admin.execute(age, &[]).await.unwrap();
    let left = async |table: &str| -> i64 {
        let count = format!("SELECT count(*) FROM directory.{table}");
        admin.query_one(&count, &[]).await.unwrap().get(0)
    };
    let swept = async {
        while left("idempotency").await > 1 || left("refresh_token").await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), swept).await.expect("the janitor sweeps");
    assert_eq!(left("idempotency WHERE key = 'new'").await, 1);
}
