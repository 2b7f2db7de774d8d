//! The quotas of one user: each of them is tripped.

use futures_util::future::{BoxFuture, FutureExt};
use roomgate::dev::{Answer, Api, Options};
use serde_json::{Value, json};

use crate::client::rect;
use crate::world::{Person, World, now};

const MOST: usize = 2;
const METADATA_BYTES: u64 = 300;

/// Each of these keys of `[limits]`, its value here, the steps that use it up, the
/// first step beyond it, and the code of the refusal.
struct Case {
    key: &'static str,
    value: u64,
    step: for<'a> fn(&'a World, &'a Person, usize) -> BoxFuture<'a, Answer>,
    allowed: usize,
    status: u16,
    code: &'static str,
}

const CASES: [Case; 5] = [
    Case {
        key: "rooms_per_user",
        value: MOST as u64,
        step: |world, person, _| make_room(world, person, json!({})).boxed(),
        allowed: MOST,
        status: 403,
        code: "forbidden",
    },
    Case {
        key: "user_metadata_bytes",
        value: METADATA_BYTES,
        step: |world, person, _| make_room(world, person, json!({"metadata": {"a": noise()}})).boxed(),
        allowed: 1,
        status: 403,
        code: "forbidden",
    },
    Case {
        key: "invites_per_room",
        value: MOST as u64,
        step: |world, person, _| invite(world, person).boxed(),
        allowed: MOST,
        status: 403,
        code: "forbidden",
    },
    Case {
        key: "user_imports_per_hour",
        value: MOST as u64,
        step: |world, person, n| import(world, person, n, 1).boxed(),
        allowed: MOST,
        status: 429,
        code: "rate_limited",
    },
    Case {
        // 200 lines count as two submits.
        key: "user_submits_per_minute",
        value: 3,
        step: |world, person, n| import(world, person, n, 200).boxed(),
        allowed: 1,
        status: 429,
        code: "rate_limited",
    },
];

/// It does not compress.
fn noise() -> String {
    (0..10).map(|_| format!("{:016x}", rand::random::<u64>())).collect()
}

async fn make_room(world: &World, person: &Person, mut wish: Value) -> Answer {
    wish["slug"] = format!("quota-{:016x}", rand::random::<u64>()).into();
    world.api(person).post("/v1/rooms", &wish).await.unwrap()
}

/// Of a room that the person makes once; its slug is the person's id.
async fn room_of(world: &World, person: &Person) -> String {
    let wish = json!({"slug": person.user.to_lowercase(), "schema": "drawing"});
    let made = world.api(person).post("/v1/rooms", &wish).await.unwrap();
    assert!(made.status == 201 || made.status == 409, "{}", made.text);
    format!("/v1/rooms/{}", person.user.to_lowercase())
}

async fn invite(world: &World, person: &Person) -> Answer {
    let path = format!("{}/invites", room_of(world, person).await);
    world.api(person).post(&path, &json!({"role": "viewer"})).await.unwrap()
}

async fn import(world: &World, person: &Person, n: usize, lines: usize) -> Answer {
    let path = format!("{}/import?op=import-{n}", room_of(world, person).await);
    let lines: Vec<String> = (0..lines).map(|line| rect(&format!("s{n}-{line}"), 1).to_string()).collect();
    let api = world.api_of(n % 2, person).with("content-type", "application/x-ndjson");
    api.send("POST".parse().unwrap(), &path, Some(lines.join("\n"))).await.unwrap()
}

#[track_caller]
fn refused(case: &Case, answer: &Answer) {
    let error = &answer.json()["error"];
    let got = (answer.status.as_u16(), error["code"].as_str().unwrap());
    assert_eq!(got, (case.status, case.code), "{}: {}", case.key, answer.text);
    let explains = error["message"].as_str().unwrap().contains(case.key);
    let waits = answer.headers.contains_key("retry-after");
    assert!(explains || waits, "{} says neither which key nor when: {}", case.key, answer.text);
}

#[tokio::test]
async fn each_quota_refuses_the_first_step_beyond_it() {
    let with = |value: fn(&Case) -> u64| {
        move |options: Options| {
            let options = Options { nodes: 2, shards: 2, replicas: 0, ..options };
            CASES
                .iter()
                .fold(options, |options, case| options.set(&format!("limits.{}", case.key), value(case)))
        }
    };
    let world =
        World::start(|options| with(|case| case.value)(options).set("limits.signins_kept_per_user", MOST))
            .await;
    for case in &CASES {
        let person = world.person("quota");
        for step in 0..case.allowed {
            let answer = (case.step)(&world, &person, step).await;
            assert!(answer.status.is_success(), "{} {step}: {}", case.key, answer.text);
        }
        refused(case, &(case.step)(&world, &person, case.allowed).await);
        let other = world.person("other");
        let answer = (case.step)(&world, &other, 0).await;
        assert!(answer.status.is_success(), "{} of another user: {}", case.key, answer.text);
    }
    a_repeat_and_a_server_are_not_refused(&world).await;
    an_ended_invite_makes_room(&world).await;
    the_oldest_sign_in_ends(&world).await;
}

async fn a_repeat_and_a_server_are_not_refused(world: &World) {
    let person = world.person("full");
    let first = make_room(world, &person, json!({})).await.json();
    make_room(world, &person, json!({})).await;
    let again = json!({"slug": first["slug"]});
    let taken = world.api(&person).post("/v1/rooms", &again).await.unwrap();
    assert_eq!(taken.json()["error"]["code"], "slug_taken", "{}", taken.text);
    let token = world.sign(&json!({"sub": "backend", "scope": "server", "exp": now() + 600}));
    let server = Person { user: "backend".to_owned(), token };
    for _ in 0..=MOST {
        let made = make_room(world, &server, json!({"metadata": {"a": noise()}})).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
}

async fn an_ended_invite_makes_room(world: &World) {
    let person = world.person("inviting");
    let made = invite(world, &person).await.json();
    invite(world, &person).await;
    assert_eq!(invite(world, &person).await.status, 403);
    let path = format!("{}/invites/{}", room_of(world, &person).await, made["id"]);
    let revoked = world.api(&person).send("DELETE".parse().unwrap(), &path, None).await.unwrap();
    assert_eq!(revoked.status, 204, "{}", revoked.text);
    assert_eq!(invite(world, &person).await.status, 201);
}

async fn the_oldest_sign_in_ends(world: &World) {
    let node = Api::new(&world.cluster().nodes()[0].url());
    let email = format!("{:08x}@quota.test", rand::random::<u32>());
    let account = json!({"email": email, "password": "correct horse", "name": "Ann"});
    let mut signed_in = vec![node.post("/v1/signup", &account).await.unwrap().json()];
    for _ in 0..MOST {
        signed_in.push(node.post("/v1/signin", &account).await.unwrap().json());
    }
    let refresh = async |sign_in: &Value| {
        let body = json!({"refresh_token": sign_in["refresh_token"]});
        node.post("/v1/token/refresh", &body).await.unwrap().status.as_u16()
    };
    let mut answers = Vec::new();
    for sign_in in &signed_in {
        answers.push(refresh(sign_in).await);
    }
    assert_eq!(answers, [401, 200, 200]);
}
