//! Signing up, in and out.

use std::time::{Duration, Instant};

use roomgate::dev::{Answer, Api, connect};
use serde_json::{Value, json};

use crate::stopwatch::Stopwatch;
use crate::world::{World, now, refused};

/// Nobody else's.
fn email(name: &str) -> String {
    format!("{name}-{:016x}@Example.test", rand::random::<u64>())
}

fn api(world: &World, node: usize) -> Api {
    Api::new(&world.cluster().nodes()[node].url())
}

async fn sign_up(api: &Api, email: &str) -> Value {
    let wish = json!({"email": email, "password": "correct horse", "name": "Ann"});
    let answer = api.post("/v1/signup", &wish).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()
}

async fn sign_in(api: &Api, email: &str, password: &str) -> Answer {
    api.post("/v1/signin", &json!({"email": email, "password": password})).await.unwrap()
}

#[tokio::test]
async fn an_account_made_on_one_node_signs_in_on_another() {
    let world = World::shared();
    let email = email("ann");
    let made = sign_up(&api(world, 0), &email).await;
    let keys: Vec<_> = made.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["expires_at", "refresh_token", "token", "user"]);
    let expires_in = made["expires_at"].as_u64().unwrap() - now() * 1000;
    assert!((890_000..=900_999).contains(&expires_in), "15 minutes, not {expires_in} ms");

    let signed_in = sign_in(&api(world, 1), &email.to_uppercase(), "correct horse").await;
    assert_eq!(signed_in.status, 200);
    assert_eq!(signed_in.json()["user"], made["user"]);
    let me =
        api(world, 2).signed_in(signed_in.json()["token"].as_str().unwrap()).get("/v1/me").await.unwrap();
    assert_eq!(me.json(), json!({"user": made["user"]}));
    assert_eq!(made["user"], json!({"id": made["user"]["id"], "email": email, "name": "Ann", "photo": null}));
    let again = json!({"email": email.to_lowercase(), "password": "another one", "name": "Eve"});
    refused(&api(world, 1).post("/v1/signup", &again).await.unwrap(), 409, "email_taken");
}

#[tokio::test]
async fn an_unknown_email_and_a_wrong_password_look_the_same() {
    let world = World::shared();
    let api = api(world, 0);
    let known = email("ann");
    sign_up(&api, &known).await;
    let (mut times, mut bodies) = ([Duration::MAX; 2], [Value::Null, Value::Null]);
    let is_alike =
        |[known, unknown]: [Duration; 2]| (0.6..1.7).contains(&(known.as_secs_f64() / unknown.as_secs_f64()));
    // The least of many: what else the machine does only adds to it.
    for round in 0..40 {
        if round >= 8 && is_alike(times) {
            break;
        }
        for (who, address) in [known.as_str(), &email("nobody")].into_iter().enumerate() {
            let asked = Instant::now();
            let answer = sign_in(&api, address, "wrong horse").await;
            times[who] = times[who].min(asked.elapsed());
            refused(&answer, 401, "unauthenticated");
            bodies[who] = answer.json()["error"]["message"].clone();
        }
    }
    assert_eq!(bodies[0], bodies[1]);
    assert!(is_alike(times), "known {:?}, unknown {:?}", times[0], times[1]);
}

#[tokio::test]
async fn refresh_tokens_rotate_over_nodes_and_a_copied_one_ends_them_all() {
    let world = World::shared();
    let first = sign_up(&api(world, 0), &email("ann")).await;
    let refresh = async |node, token: &Value| {
        api(world, node).post("/v1/token/refresh", &json!({"refresh_token": token})).await.unwrap()
    };
    let second = refresh(1, &first["refresh_token"]).await;
    assert_eq!(second.status, 200);
    assert_eq!(second.json()["user"], first["user"]);
    assert_ne!(second.json()["refresh_token"], first["refresh_token"]);
    refused(&refresh(2, &first["refresh_token"]).await, 401, "unauthenticated");
    refused(&refresh(0, &second.json()["refresh_token"]).await, 401, "unauthenticated");
    refused(&refresh(0, &json!("made up")).await, 401, "unauthenticated");
}

#[tokio::test]
async fn who_signed_out_gets_no_new_token() {
    let world = World::shared();
    let email = email("ann");
    let [here, there] = [sign_up(&api(world, 0), &email).await, {
        sign_in(&api(world, 1), &email, "correct horse").await.json()
    }];
    let out = json!({"refresh_token": here["refresh_token"]});
    assert_eq!(api(world, 2).post("/v1/signout", &out).await.unwrap().status, 204);
    refused(&api(world, 0).post("/v1/token/refresh", &out).await.unwrap(), 401, "unauthenticated");
    // Without a refresh token: on every device.
    let signed_in = api(world, 0).signed_in(there["token"].as_str().unwrap());
    let everywhere = signed_in.send("POST".parse().unwrap(), "/v1/signout", None).await.unwrap();
    assert_eq!(everywhere.status, 204, "{}", everywhere.text);
    let other = json!({"refresh_token": there["refresh_token"]});
    refused(&api(world, 0).post("/v1/token/refresh", &other).await.unwrap(), 401, "unauthenticated");
    refused(&api(world, 0).post("/v1/signout", &json!({})).await.unwrap(), 401, "unauthenticated");
}

#[tokio::test]
async fn sign_ups_that_are_no_sign_ups_are_refused() {
    let world = World::shared();
    let api = api(world, 0);
    let with = |field: &str, value: Value| {
        let mut wish = json!({"email": email("ann"), "password": "correct horse", "name": "Ann"});
        wish[field] = value;
        wish.to_string()
    };
    let post = "POST";
    for (body, status, code) in [
        (with("password", json!("short")), 400, "bad_message"),
        (with("password", json!("x".repeat(129))), 400, "bad_message"),
        (with("password", json!("x".repeat(1 << 20))), 413, "too_large"),
        (with("password", json!(12_345_678)), 400, "bad_message"),
        (with("email", json!("nobody")), 400, "bad_message"),
        (with("email", json!(null)), 400, "bad_message"),
        (with("name", json!("")), 400, "bad_message"),
        (with("name", json!("x".repeat(65))), 400, "bad_message"),
        (with("name", json!("\u{0}")), 400, "bad_json"),
        ("{\"email\":\"a@b\",\"email\":\"c@d\"}".to_owned(), 400, "bad_json"),
        ("[1]".to_owned(), 400, "bad_message"),
        ("{".to_owned(), 400, "bad_json"),
        ("[".repeat(100), 422, "too_deep"),
    ] {
        let answer = api.send(post.parse().unwrap(), "/v1/signup", Some(body)).await.unwrap();
        refused(&answer, status, code);
    }
    let long = sign_in(&api, "a@b.test", &"x".repeat(200)).await;
    refused(&long, 401, "unauthenticated");
}

#[tokio::test]
async fn names_with_newlines_and_markup_come_back_as_they_are() {
    let world = World::shared();
    let name = "Ann\r\n\u{1b}[31m<script>alert(1)</script>\u{202e}🦀 ' OR true --";
    let wish = json!({"email": email("ann"), "password": "correct horse", "name": name});
    let made = api(world, 0).post("/v1/signup", &wish).await.unwrap();
    assert_eq!(made.json()["user"]["name"], name);
}

#[tokio::test]
async fn guessing_is_slowed_down_for_accounts_and_rooms_alike() {
    let world = World::start(|options| {
        let options = options.set("limits.signins_per_minute", 4).set("limits.signups_per_minute", 3);
        roomgate::dev::Options { shards: 1, replicas: 0, nodes: 1, ..options }
    })
    .await;
    let api = api(&world, 0);
    let email = email("ann");
    sign_up(&api, &email).await;
    // How many more there may be depends on when the demo account was made.
    let more = futures_util::future::join_all((0..4).map(async |_| {
        let wish = json!({"email": self::email("eve"), "password": "correct horse", "name": "Eve"});
        api.post("/v1/signup", &wish).await.unwrap().status.as_u16()
    }));
    assert!(more.await.contains(&429), "sign-ups of an address are limited");
    for _ in 0..4 {
        refused(&sign_in(&api, &email, "wrong horse").await, 401, "unauthenticated");
    }
    let slowed = sign_in(&api, &email, "correct horse").await;
    refused(&slowed, 429, "rate_limited");
    let retry_after: u64 = slowed.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&retry_after), "{retry_after}");

    // The same for the password of a room.
    let (owner, guesser) = (world.person("olga"), world.person("gus"));
    let wish = json!({"slug": "secret-room", "password": "open sesame"});
    assert_eq!(world.api(&owner).post("/v1/rooms", &wish).await.unwrap().status, 201);
    let guess = async |password: &str| {
        let body = json!({"password": password}).to_string();
        let path = "/v1/rooms/secret-room/members/me";
        world.api(&guesser).send("PUT".parse().unwrap(), path, Some(body)).await.unwrap()
    };
    for _ in 0..4 {
        refused(&guess("open barley").await, 403, "bad_password");
    }
    refused(&guess("open sesame").await, 429, "rate_limited");
}

#[tokio::test]
async fn of_500_sign_ins_at_once_most_are_told_when_to_come_back_and_sockets_go_on() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(2, &alice).await;
    client.join(room).await;
    // Nobody else checks passwords on this node.
    let api = api(world, 2);
    let mut idle = latencies(&mut client, 100).await;
    let flood = futures_util::future::join_all((0..500).map(|n| {
        let (api, email) = (api.clone(), email(&format!("n{n}")));
        async move { sign_in(&api, &email, "wrong horse").await }
    }));
    let drawing = async {
        let pings = latencies(&mut client, 300).await;
        let mut acks = Vec::new();
        for n in 0..50 {
            let asked = Stopwatch::start();
            let ack = client.submit(room, &format!("op{n}"), &json!({"kind": "message", "data": n})).await;
            assert_eq!(ack["type"], "ack", "{ack}");
            acks.push(asked.elapsed());
        }
        (pings, acks)
    };
    let (answers, (mut pings, mut acks)) = futures_util::future::join(flood, drawing).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    println!(
        "{} checked, {} shed; pings p99 {:?} (idle {:?}), acks p99 {:?}",
        count(401),
        count(503),
        p99(&mut pings),
        p99(&mut idle),
        p99(&mut acks)
    );
    assert!(count(401) > 0 && count(503) > 250 && count(401) + count(503) == 500);
    for shed in answers.iter().filter(|answer| answer.status == 503) {
        refused(shed, 503, "overloaded");
        let wait: u64 = shed.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    assert!(p99(&mut acks) < Duration::from_secs(2), "an ack took {:?}", p99(&mut acks));
}

async fn latencies(client: &mut crate::client::Client, count: usize) -> Vec<Duration> {
    let mut latencies = Vec::new();
    for _ in 0..count {
        let asked = Stopwatch::start();
        client.ask(&json!({"type": "ping"}), "pong").await;
        latencies.push(asked.elapsed());
    }
    latencies
}

fn p99(latencies: &mut [Duration]) -> Duration {
    latencies.sort();
    latencies[latencies.len() * 99 / 100]
}

#[tokio::test]
async fn an_email_is_one_person_in_every_form() {
    let world = World::shared();
    let node = api(world, 0);
    let tag = format!("{:016x}", rand::random::<u64>());
    let forms =
        ["ren\u{e9}", "Rene\u{301}", "REN\u{c9}"].map(|name| format!("{name}-{tag}@m\u{fc}nchen.test"));
    let domains = ["xn--mnchen-3ya", "MU\u{308}NCHEN"].map(|host| format!("ren\u{e9}-{tag}@{host}.test"));
    let forms = [&forms[..], &domains].concat();
    let sign_up = async |email: &str| {
        let wish = json!({"email": email, "password": "correct horse", "name": "Ren\u{e9}"});
        node.post("/v1/signup", &wish).await.unwrap()
    };
    let made = sign_up(&forms[1]).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.json()["user"]["email"], forms[0].as_str());
    for form in &forms {
        refused(&sign_up(form).await, 409, "email_taken");
        let found = sign_in(&node, form, "correct horse").await;
        assert_eq!(found.json()["user"]["id"], made.json()["user"]["id"], "{form}: {}", found.text);
    }

    // Older accounts of one address in two forms stay two: each opens by its own form
    // and its own password, and there is no third one.
    let directory = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    let [composed, decomposed] = ["zo\u{eb}", "zoe\u{308}"].map(|name| format!("{name}-{tag}@x.test"));
    for (id, email) in [("composed", &composed), ("decomposed", &decomposed)] {
        let hash = bcrypt::hash(format!("password of {id}"), 4).unwrap();
        let insert =
            "INSERT INTO directory.account (id, email, name, password_hash) VALUES ($1, $2, 'Zo\u{eb}', $3)";
        directory.execute(insert, &[&format!("{id}-{tag}"), email, &hash]).await.unwrap();
    }
    for (id, email, other) in [("composed", &composed, "decomposed"), ("decomposed", &decomposed, "composed")]
    {
        let found = sign_in(&node, email, &format!("password of {id}")).await;
        assert_eq!(found.json()["user"]["id"], format!("{id}-{tag}"), "{}", found.text);
        refused(&sign_in(&node, email, &format!("password of {other}")).await, 401, "unauthenticated");
        refused(&sign_up(email).await, 409, "email_taken");
    }
    // One in a single form opens by the others.
    directory.execute("DELETE FROM directory.account WHERE email = $1", &[&composed]).await.unwrap();
    let found = sign_in(&node, &composed, "password of decomposed").await;
    assert_eq!(found.json()["user"]["id"], format!("decomposed-{tag}"), "{}", found.text);
    refused(&sign_up(&composed).await, 409, "email_taken");
}
