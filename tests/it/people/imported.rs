//! Accounts that were brought from elsewhere, with bcrypt hashes.

use roomgate::dev::{Api, connect};
use serde_json::json;

use crate::world::World;

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
