//! `GET /openapi.json` and the compression of answers.

use std::collections::BTreeSet;

use roomgate::dev::Api;
use serde_json::{Value, json};

use crate::world::World;

#[tokio::test]
async fn every_public_route_is_described_with_what_it_refuses() {
    let world = World::shared();
    let document = Api::new(&world.cluster().nodes()[0].url()).get("/openapi.json").await.unwrap().json();
    let described: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    for known in ["POST /v1/signup", "PUT /v1/rooms/{room}/members/me", "GET /v1/rooms/{room}/shapes"] {
        assert!(described.contains(known), "{known} in {described:?}");
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} says what it does");
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.keys().any(|status| status < &"300".to_owned()), "{method} {path}");
            assert!(answers.contains_key("503"), "{method} {path}");
            let is_public = operation["security"] == json!([{}]);
            assert!(answers.contains_key("403") || is_public, "{method} {path}");
        }
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(!document.pointer(reference).unwrap_or(&Value::Null).is_null(), "{reference}");
    }
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_can_read_it() {
    let world = World::shared();
    let url = format!("{}/openapi.json", world.cluster().nodes()[0].url());
    let size = async |accepts: &str| {
        let output = tokio::process::Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{size_download} %header{content-encoding}", "-H"])
            .arg(format!("Accept-Encoding: {accepts}"))
            .arg(&url)
            .output()
            .await
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (plain, packed) = (size("identity").await, size("gzip").await);
    let bytes = |told: &str| told.split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(packed.ends_with(" gzip") && !plain.ends_with("gzip"), "{plain}, {packed}");
    assert!(bytes(&packed) * 3 < bytes(&plain), "{plain}, {packed}");
}
