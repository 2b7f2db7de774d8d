//! Passwords: changed by their owner, or set by a token from a mail.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future;
use roomgate::dev::{Answer, Api, Options};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::stopwatch::Stopwatch;
use crate::world::{Person, World, refused};

const OLD: &str = "correct horse";
const NEW: &str = "battery staple";
const PROMISED: Duration = Duration::from_secs(5);

fn api(world: &World, node: usize) -> Api {
    Api::new(&world.cluster().nodes()[node].url())
}

fn person(tokens: &Value) -> Person {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Person { user: text(&tokens["user"]["id"]), token: text(&tokens["token"]) }
}

/// A new account: its e-mail address and the tokens of its sign-ins.
async fn account(world: &World, devices: usize) -> (String, Vec<Value>) {
    let email = format!("ann-{:016x}@x.test", rand::random::<u64>());
    let wish = json!({"email": email, "password": OLD, "name": "Ann"});
    let made = api(world, 0).post("/v1/signup", &wish).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    let mut all = vec![made.json()];
    while all.len() < devices {
        all.push(sign_in(world, &email, OLD).await.json());
    }
    (email, all)
}

async fn sign_in(world: &World, email: &str, password: &str) -> Answer {
    api(world, 0).post("/v1/signin", &json!({"email": email, "password": password})).await.unwrap()
}

async fn change(world: &World, node: usize, person: &Person, old: &str, new: &str) -> Answer {
    let body = json!({"current_password": old, "new_password": new}).to_string();
    let api = world.api_of(node, person);
    api.send("PUT".parse().unwrap(), "/v1/me/password", Some(body)).await.unwrap()
}

async fn rotates(world: &World, tokens: &Value) -> bool {
    let body = json!({"refresh_token": tokens["refresh_token"]});
    api(world, 0).post("/v1/token/refresh", &body).await.unwrap().status == 200
}

/// Neither token of the sign-in is of use on any node, within the promised time.
async fn is_out(world: &World, tokens: &Value) {
    assert!(!rotates(world, tokens).await);
    let since = Stopwatch::start();
    for node in 0..world.cluster().nodes().len() {
        while world.api_of(node, &person(tokens)).get("/v1/me").await.unwrap().status != 401 {
            assert!(since.elapsed() < PROMISED, "the access token works on node {node}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn ask_for_reset(world: &World, email: &str) -> Answer {
    api(world, 0).post("/v1/auth/reset", &json!({"email": email})).await.unwrap()
}

async fn confirm(world: &World, node: usize, token: &str, password: &str) -> Answer {
    let body = json!({"token": token, "new_password": password});
    api(world, node).post("/v1/auth/reset/confirm", &body).await.unwrap()
}

/// The mails to an address in the sink of the first node, once there are as many.
async fn mails(world: &World, email: &str, count: usize) -> Vec<Value> {
    let sink: PathBuf = world.cluster().nodes()[0].service().log().with_extension("mail");
    mails_in(&sink, email, count).await
}

async fn mails_in(sink: &PathBuf, email: &str, count: usize) -> Vec<Value> {
    let arrived = async {
        loop {
            let text = std::fs::read_to_string(sink).unwrap_or_default();
            let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mails: Vec<Value> = whole.filter(|mail| mail["to"] == email).collect();
            if mails.len() >= count {
                return mails;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), arrived).await.expect("the mail arrives")
}

fn token(mail: &Value) -> String {
    mail["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_changed_password_ends_all_other_sign_ins() {
    let world = World::shared();
    let (email, devices) = account(world, 3).await;
    let [here, there, elsewhere] = [0, 1, 2].map(|n| person(&devices[n]));
    let mut stays = world.client(0, &here).await;
    let mut ended = [world.client(1, &there).await, world.client(2, &elsewhere).await];
    let changed = change(world, 1, &here, OLD, NEW).await;
    assert_eq!(changed.status, 204, "{}", changed.text);
    for session in &mut ended {
        assert_eq!(session.ends().await, Some(4100));
    }
    for tokens in &devices[1..] {
        is_out(world, tokens).await;
    }
    stays.ask(&json!({"type": "ping"}), "pong").await;
    assert_eq!(world.api_of(2, &here).get("/v1/me").await.unwrap().status, 200);
    assert!(rotates(world, &devices[0]).await);
    refused(&sign_in(world, &email, OLD).await, 401, "unauthenticated");
    assert_eq!(sign_in(world, &email, NEW).await.status, 200);
}

#[tokio::test]
async fn changes_without_a_right_are_refused() {
    let world = World::shared();
    let (email, devices) = account(world, 2).await;
    let ann = person(&devices[0]);
    for (old, new, status, code) in [
        ("wrong horse", NEW, 403, "bad_password"),
        (&"x".repeat(4000), NEW, 403, "bad_password"),
        (OLD, "short", 400, "bad_message"),
        (OLD, &"x".repeat(129), 400, "bad_message"),
        (OLD, "Password123!", 400, "bad_message"),
        (OLD, &email, 400, "bad_message"),
    ] {
        refused(&change(world, 0, &ann, old, new).await, status, code);
    }
    let stranger = world.person("bob");
    refused(&change(world, 0, &stranger, OLD, NEW).await, 404, "not_found");
    let body = json!({"current_password": OLD, "new_password": NEW}).to_string();
    let nobody = api(world, 0).send("PUT".parse().unwrap(), "/v1/me/password", Some(body)).await.unwrap();
    refused(&nobody, 401, "unauthenticated");
    assert_eq!(sign_in(world, &email, OLD).await.status, 200);
    assert!(rotates(world, &devices[1]).await, "a refused change ends nothing");
    for common in ["password", "12345678", "Iloveyou1"] {
        let wish = json!({"email": format!("new-{email}"), "password": common, "name": "Ann"});
        refused(&api(world, 0).post("/v1/signup", &wish).await.unwrap(), 400, "bad_message");
    }
}

/// Signs in on a node by the old password until that is refused.
async fn signs_in(world: &World, node: usize, email: &str, begun: &Notify) -> Vec<Value> {
    let wish = json!({"email": email, "password": OLD});
    let mut all = Vec::new();
    loop {
        let answer = api(world, node).post("/v1/signin", &wish).await.unwrap();
        if answer.status == 401 {
            return all;
        }
        assert_eq!(answer.status, 200, "{}", answer.text);
        all.push(answer.json());
        begun.notify_one();
    }
}

#[tokio::test]
async fn a_sign_in_that_races_a_change_gets_no_lasting_token() {
    let world = World::shared();
    for n in 0..6 {
        let (email, devices) = account(world, 1).await;
        let begun = Notify::new();
        let attempts = future::join_all((0..6).map(|task| signs_in(world, task % 3, &email, &begun)));
        let changes = async {
            begun.notified().await;
            tokio::time::sleep(Duration::from_millis(n * 10)).await;
            assert_eq!(change(world, 1, &person(&devices[0]), OLD, NEW).await.status, 204);
        };
        let (attempts, ()) = future::join(attempts, changes).await;
        for tokens in attempts.iter().flatten() {
            is_out(world, tokens).await;
        }
        assert!(rotates(world, &devices[0]).await);
    }
}

#[tokio::test]
async fn a_token_from_a_mail_sets_a_password_once() {
    let world = World::shared();
    let (email, devices) = account(world, 2).await;
    let mut session = world.client(2, &person(&devices[1])).await;
    let unknown = ask_for_reset(world, "nobody@x.test").await;
    let (first, second) =
        (ask_for_reset(world, &email.to_uppercase()).await, ask_for_reset(world, &email).await);
    for answer in [&unknown, &first, &second] {
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (202, ""));
    }
    let mails = mails(world, &email, 2).await;
    assert_eq!((&mails[0]["kind"], &mails[0]["name"]), (&json!("password_reset"), &json!("Ann")));
    let (used, other) = (token(&mails[0]), token(&mails[1]));
    // A request that is refused spends nothing.
    refused(&confirm(world, 1, &used, "password1").await, 400, "bad_message");
    let confirmed = confirm(world, 1, &used, NEW).await;
    assert_eq!(confirmed.status, 204, "{}", confirmed.text);
    assert_eq!(session.ends().await, Some(4100));
    for tokens in &devices {
        is_out(world, tokens).await;
    }
    for spent in [&used, &other] {
        refused(&confirm(world, 0, spent, "another staple").await, 401, "unauthenticated");
    }
    refused(&sign_in(world, &email, OLD).await, 401, "unauthenticated");
    assert_eq!(sign_in(world, &email, NEW).await.status, 200);
    for strange in ["", "x", &"0".repeat(64), &format!("{used}0")] {
        refused(&confirm(world, 0, strange, NEW).await, 401, "unauthenticated");
    }

    // A change of the password spends the tokens that are out. One that expired is of no
    // use either.
    let owner = person(&sign_in(world, &email, NEW).await.json());
    ask_for_reset(world, &email).await;
    let late = token(&self::mails(world, &email, 3).await[2]);
    assert_eq!(change(world, 0, &owner, NEW, OLD).await.status, 204);
    refused(&confirm(world, 0, &late, NEW).await, 401, "unauthenticated");
    ask_for_reset(world, &email).await;
    let late = token(&self::mails(world, &email, 4).await[3]);
    let admin = &world.primaries().await[0];
    let expire = "UPDATE directory.password_reset SET expires_at = now() WHERE account_id = $1";
    admin.execute(expire, &[&owner.user]).await.unwrap();
    refused(&confirm(world, 0, &late, NEW).await, 401, "unauthenticated");
}

#[tokio::test]
async fn of_two_uses_of_a_token_at_once_one_sets_the_password() {
    let world = World::shared();
    let (email, _) = account(world, 1).await;
    ask_for_reset(world, &email).await;
    let token = token(&mails(world, &email, 1).await[0]);
    let tries = (0..6).map(|n| {
        let (token, password) = (&token, format!("new password no. {n}"));
        async move { (confirm(world, n % 3, token, &password).await.status.as_u16(), password) }
    });
    let answers = future::join_all(tries).await;
    let won: Vec<&String> = answers.iter().filter(|(status, _)| *status == 204).map(|(_, won)| won).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    assert!(answers.iter().all(|(status, _)| [204, 401].contains(status)), "{answers:?}");
    assert_eq!(sign_in(world, &email, won[0]).await.status, 200);
}

/// With the operator's own command, and limits.
#[tokio::test]
async fn mails_are_limited_without_a_word_and_guesses_by_sign_in() {
    let sink = std::env::temp_dir().join(format!("mail-{:016x}", rand::random::<u64>()));
    let world = World::start(|options| {
        let options = options.set("mail.command", format!("tee,-a,{}", sink.display()));
        let options = options.set("limits.resets_per_hour", 2).set("limits.signins_per_minute", 3);
        Options { nodes: 2, shards: 1, replicas: 0, ..options }
    })
    .await;
    let [(email, devices), (last, _)] = [account(&world, 2).await, account(&world, 1).await];
    for n in 0..4 {
        assert_eq!(ask_for_reset(&world, &email).await.status, 202, "{n}");
    }
    ask_for_reset(&world, &last).await;
    let sent = mails_in(&sink, &last, 1).await;
    let to_ann = mails_in(&sink, &email, 2).await;
    assert_eq!((sent.len(), to_ann.len()), (1, 2));
    let stored =
        "SELECT count(*) FROM directory.password_reset WHERE digest = $1 OR encode(digest, 'hex') = $2";
    let admin = &world.primaries().await[0];
    let token = token(&to_ann[0]);
    let found = admin.query_one(stored, &[&token.as_bytes(), &token]).await.unwrap();
    assert_eq!(found.get::<_, i64>(0), 0, "only digests are stored");

    // Wrong passwords of a thief count for the stolen sign-in alone.
    let [owner, thief] = [0, 1].map(|n| person(&devices[n]));
    for node in [0, 1, 0] {
        refused(&change(&world, node, &thief, "wrong horse", NEW).await, 403, "bad_password");
    }
    for node in 0..2 {
        refused(&change(&world, node, &thief, OLD, NEW).await, 429, "rate_limited");
    }
    assert_eq!(sign_in(&world, &email, OLD).await.status, 200);
    assert_eq!(change(&world, 1, &owner, OLD, NEW).await.status, 204);
    std::fs::remove_file(&sink).unwrap();
}
