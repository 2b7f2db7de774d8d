//! Somebody to sign in as and a room to draw in, made through the HTTP API.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::api::{Answer, Api};
use super::{Error, report};

const EMAIL: &str = "demo@roomgate.test";
const PASSWORD: &str = "draw-together";
const SLUG: &str = "demo";

/// Idempotent: finds what an earlier start has made.
pub(super) async fn seed(url: &str) -> Result<report::Demo, Error> {
    let api = Api::new(url);
    let person = json!({"email": EMAIL, "password": PASSWORD, "name": "Demo"});
    let mut session = api.post("/v1/signup", &person).await?;
    if session.status == StatusCode::CONFLICT {
        session = api.post("/v1/signin", &json!({"email": EMAIL, "password": PASSWORD})).await?;
    }
    let token = field(&session, "token")?;
    let api = api.signed_in(token.as_str().unwrap_or_default());
    let mut room = api.post("/v1/rooms", &json!({"slug": SLUG, "name": "Demo"})).await?;
    if room.status == StatusCode::CONFLICT {
        room = api.get(&format!("/v1/rooms/{SLUG}")).await?;
    }
    let id = field(&room, "room")?;
    Ok(report::Demo {
        email: EMAIL.to_owned(),
        password: PASSWORD.to_owned(),
        room: id.as_u64().unwrap_or_default(),
        slug: SLUG.to_owned(),
    })
}

fn field(answer: &Answer, name: &str) -> Result<Value, Error> {
    match answer.json().get(name) {
        Some(value) if answer.status.is_success() => Ok(value.clone()),
        _ => Err(Error::Other(format!("the demo could not be made: {} {}", answer.status, answer.text))),
    }
}
