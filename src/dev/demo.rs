//! Somebody to sign in as and a room to draw in, made through the HTTP API.

use std::time::Instant;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::api::{Answer, Api};
use super::service::{POLL, READY_WAIT};
use super::{Error, report};

const EMAIL: &str = "demo@roomgate.test";
const PASSWORD: &str = "draw-together";
const SLUG: &str = "demo";

/// Idempotent: finds what an earlier start has made.
pub(super) async fn seed(url: &str) -> Result<report::Demo, Error> {
    let api = Api::new(url);
    let person = json!({"email": EMAIL, "password": PASSWORD, "name": "Demo"});
    let mut session = answered(|| api.post("/v1/signup", &person)).await?;
    if session.status == StatusCode::CONFLICT {
        let known = json!({"email": EMAIL, "password": PASSWORD});
        session = answered(|| api.post("/v1/signin", &known)).await?;
    }
    let token = field(&session, "token")?;
    let api = api.signed_in(token.as_str().unwrap_or_default());
    let wanted = json!({"slug": SLUG, "name": "Demo"});
    let mut room = answered(|| api.post("/v1/rooms", &wanted)).await?;
    if room.status == StatusCode::CONFLICT {
        let path = format!("/v1/rooms/{SLUG}");
        room = answered(|| api.get(&path)).await?;
    }
    let id = field(&room, "room")?;
    Ok(report::Demo {
        email: EMAIL.to_owned(),
        password: PASSWORD.to_owned(),
        room: id.as_u64().unwrap_or_default(),
        slug: SLUG.to_owned(),
    })
}

/// Asks again while there is nobody to answer: a busy machine's balancer may have
/// given its nodes up for a moment.
async fn answered<A>(ask: impl Fn() -> A) -> Result<Answer, Error>
where
    A: Future<Output = Result<Answer, Error>>,
{
    let until = Instant::now() + READY_WAIT;
    loop {
        let answer = ask().await?;
        if answer.status != StatusCode::SERVICE_UNAVAILABLE || Instant::now() >= until {
            return Ok(answer);
        }
        sleep(POLL).await;
    }
}

fn field(answer: &Answer, name: &str) -> Result<Value, Error> {
    match answer.json().get(name) {
        Some(value) if answer.status.is_success() => Ok(value.clone()),
        _ => Err(Error::Other(format!("the demo could not be made: {} {}", answer.status, answer.text))),
    }
}
