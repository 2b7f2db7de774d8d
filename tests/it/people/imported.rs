//! Accounts that were brought from elsewhere, with bcrypt hashes.

use roomgate::dev::{Api, connect};
use serde_json::json;

use crate::world::{World, refused};

/// "correct horse" and "short" by bcrypt with cost 12.
const LONG: &str = "$2b$12$abcdefghijklmnopqrstuuFDJRuYeKkCzo3Wy7h8SxhBSHBAHiPK2";
const SHORT: &str = "$2y$12$abcdefghijklmnopqrstuuIPfQRMaG23WOveCNRKAeHZVlIYsU5Da";

#[tokio::test]
async fn an_imported_password_opens_its_account_and_is_hashed_anew() {
    let world = World::shared();
    let directory = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    for (imported, password) in [(LONG, "correct horse"), (SHORT, "short")] {
        let id = format!("imported-{:08x}", rand::random::<u32>());
        let email = format!("{id}@x.test");
        let insert =
            "INSERT INTO directory.account (id, email, name, password_hash) VALUES ($1, $2, 'Ann', $3)";
        directory.execute(insert, &[&id, &email, &imported]).await.unwrap();
        let hash = async || -> String {
            let hash = "SELECT password_hash FROM directory.account WHERE id = $1";
            directory.query_one(hash, &[&id]).await.unwrap().get(0)
        };
        let sign_in = async |password: &str| {
            let api = Api::new(&world.cluster().nodes()[1].url());
            api.post("/v1/signin", &json!({"email": email, "password": password})).await.unwrap()
        };
        assert_eq!(sign_in("wrong horse").await.status, 401);
        assert_eq!(hash().await, imported, "only the right password replaces it");
        for _ in 0..2 {
            let signed_in = sign_in(password).await;
            assert_eq!(signed_in.json()["user"]["id"], id.as_str(), "{}", signed_in.text);
            assert!(hash().await.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        }
        assert_eq!(sign_in("wrong horse").await.status, 401);
    }
}

#[tokio::test]
async fn a_password_opens_in_each_unicode_form() {
    let world = World::shared();
    let directory = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    let node = Api::new(&world.cluster().nodes()[0].url());
    let forms = ["pr\u{e9}sident\u{a0}2", "pre\u{301}sident 2"];
    for (made, other) in [(forms[0], forms[1]), (forms[1], forms[0])] {
        let email = format!("{:08x}@x.test", rand::random::<u32>());
        let account = json!({"email": email, "password": made, "name": "Ann"});
        let answer = node.post("/v1/signup", &account).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text);
        for typed in [other, made] {
            let answer = node.post("/v1/signin", &json!({"email": email, "password": typed})).await.unwrap();
            assert_eq!(answer.status, 200, "{typed:?}: {}", answer.text);
        }
        let (olga, bob, eve) = (world.person("olga"), world.person("bob"), world.person("eve"));
        let slug = format!("room-{:016x}", rand::random::<u64>());
        let room =
            world.api(&olga).post("/v1/rooms", &json!({"slug": slug, "password": made})).await.unwrap();
        assert_eq!(room.status, 201, "{}", room.text);
        for (person, typed) in [(&bob, other), (&eve, made)] {
            let join = json!({"type": "join", "slug": slug, "password": typed});
            world.client(1, person).await.ask(&join, "joined").await;
        }
    }
    // A tab can't be typed everywhere, so nobody gets such a password any more.
    for (path, body) in [
        ("/v1/signup", json!({"email": "tab@x.test", "password": "tab\tulator", "name": "Ann"})),
        ("/v1/rooms", json!({"slug": "tabulator", "password": "tab\tulator"})),
    ] {
        refused(&world.api(&world.person("eve")).post(path, &body).await.unwrap(), 400, "bad_message");
    }
    // An account as it was stored before: of the bytes that were typed.
    let typed = "pre\u{301}sident 2";
    let id = format!("decomposed-{:08x}", rand::random::<u32>());
    let email = format!("{id}@x.test");
    let hash = bcrypt_of(typed);
    let insert = "INSERT INTO directory.account (id, email, name, password_hash, updated_at)
                  VALUES ($1, $2, 'Ann', $3, '2020-01-01')";
    directory.execute(insert, &[&id, &email, &hash]).await.unwrap();
    for typed in [typed, "pr\u{e9}sident 2", typed] {
        let answer = node.post("/v1/signin", &json!({"email": email, "password": typed})).await.unwrap();
        assert_eq!(answer.status, 200, "{typed:?}: {}", answer.text);
    }
    let touched = "SELECT updated_at > now() - interval '1 hour' FROM directory.account WHERE id = $1";
    assert!(
        directory.query_one(touched, &[&id]).await.unwrap().get::<_, bool>(0),
        "the new hash is a change"
    );
}

#[tokio::test]
async fn an_imported_room_password_opens_however_short() {
    let world = World::shared();
    let olga = world.person("olga");
    let decomposed = "e\u{301}te\u{301} 1";
    for (stored, typed, others) in [
        (LONG.to_owned(), "correct horse", vec!["correct horse"]),
        (SHORT.to_owned(), "short", vec!["short"]),
        (bcrypt_of(decomposed), decomposed, vec!["\u{e9}t\u{e9} 1", decomposed]),
    ] {
        let slug = format!("room-{:016x}", rand::random::<u64>());
        let wish = json!({"slug": slug, "password": "another one"});
        let room = world.api(&olga).post("/v1/rooms", &wish).await.unwrap().json()["room"].as_u64().unwrap();
        let shard = &world.primaries().await[world.shard_of(room).await];
        let import = format!("UPDATE room SET password_hash = '{stored}' WHERE id = {room}");
        shard.batch_execute(&import).await.unwrap();
        world.replicas_have_caught_up().await;
        let hash = async || -> String {
            let hash = format!("SELECT password_hash FROM room WHERE id = {room}");
            shard.query_one(&hash, &[]).await.unwrap().get(0)
        };
        let enter = async |password: &str| {
            let path = format!("/v1/rooms/{room}/members/me");
            let body = Some(json!({"password": password}).to_string());
            world.api(&world.person("bob")).send("PUT".parse().unwrap(), &path, body).await.unwrap()
        };
        refused(&enter("wrong").await, 403, "bad_password");
        assert_eq!(hash().await, stored, "only the right password replaces it");
        // All at once, with a hash that one of them replaces.
        let many = futures_util::future::join_all((0..4).map(|_| enter(typed))).await;
        assert!(many.iter().all(|answer| answer.status == 200), "{typed:?}: {:?}", many[0].text);
        assert!(hash().await.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{typed:?}");
        for typed in others {
            let answer = enter(typed).await;
            assert_eq!(answer.status, 200, "{typed:?}: {}", answer.text);
        }
        refused(&enter("wrong").await, 403, "bad_password");
    }
}

fn bcrypt_of(password: &str) -> String {
    bcrypt::hash(password, 4).unwrap()
}
