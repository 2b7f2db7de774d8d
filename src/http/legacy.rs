//! The drawing app's own REST calls, where its first protocol is spoken: accounts
//! and rooms under the app's addresses, in its words.
//!
//! Each call is a call of the API with other names. The answers are the API's,
//! with the members that the app reads besides: `userId`, `roomId`, `adminId`.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::Response;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::address::Caller;
use super::body::Json;
use super::error::{Answer, ApiError};
use super::freshness::Fresh;
use super::path::RoomPath;
use super::query::Query;
use super::signed_in::SignedIn;
use super::{App, answer, people, rooms};
use crate::auth::Claims;
use crate::ids::{InvalidId, Slug};
use crate::protocol::{Code, Object, RoomRef};
use crate::store::rooms::RoomsError;

/// The longest slug.
const SLUG_MAX: usize = 63;
/// The longest name of a person.
const NAME_MAX: usize = 64;

#[derive(Deserialize)]
pub(super) struct Token {
    token: Option<String>,
}

/// The app sends its token with or without `Bearer`, or in the address.
pub(super) fn claims(app: &App, query: &Token, headers: &HeaderMap) -> Answer<Claims> {
    let token = query.token.as_deref().or_else(|| bare_token(headers));
    let token = token.ok_or_else(|| ApiError::new(Code::Unauthenticated, "a token is needed"))?;
    Ok(app.verifier.verify(token)?)
}

fn bare_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    Some(value.split_once(' ').map_or(value, |(_, token)| token.trim()))
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    #[serde(alias = "username")]
    email: String,
    password: String,
    name: Option<String>,
}

/// `{email, password, name}`; the app may call the email `username`, and leave out
/// the name.
pub(super) async fn sign_up(
    app: State<App>,
    caller: Caller,
    Json(wish): Json<Credentials>,
) -> Answer<Response> {
    let before_at = wish.email.split('@').next().unwrap_or_default();
    let name = wish.name.unwrap_or_else(|| before_at.chars().take(NAME_MAX).collect());
    let wish = api_body(json!({"email": wish.email, "password": wish.password, "name": name}))?;
    with_user_id(people::sign_up(app, caller, Json(wish)).await?).await
}

pub(super) async fn sign_in(
    app: State<App>,
    caller: Caller,
    Json(wish): Json<Credentials>,
) -> Answer<Response> {
    let wish = api_body(json!({"email": wish.email, "password": wish.password}))?;
    with_user_id(people::sign_in(app, caller, Json(wish)).await?).await
}

#[derive(Deserialize)]
pub(super) struct NewRoom {
    /// For people; the slug is made of it.
    name: Option<String>,
    slug: Option<String>,
    password: Option<String>,
}

/// `{name}` or `{slug}`, and a password if the room is to have one.
pub(super) async fn create_room(
    State(app): State<App>,
    Query(token): Query<Token>,
    headers: HeaderMap,
    Json(wish): Json<NewRoom>,
) -> Answer<Response> {
    let claims = claims(&app, &token, &headers)?;
    let called = wish.slug.as_ref().or(wish.name.as_ref());
    let slug = slug_of(called.ok_or_else(|| ApiError::bad_message("a room needs a name"))?);
    let wish = api_body(json!({"slug": slug, "name": wish.name, "password": wish.password}))?;
    let created = rooms::create(State(app), SignedIn(claims), None, Json(wish)).await?;
    changed(created, |room| {
        room.insert("roomId".to_owned(), room.get("room").cloned().unwrap_or_default());
        room.insert("adminId".to_owned(), room.get("owner").cloned().unwrap_or_default());
    })
    .await
}

/// By its name, its slug or its id: `{room: {id, slug, adminId, …}}`.
pub(super) async fn room(
    State(app): State<App>,
    Path(called): Path<String>,
    Query(token): Query<Token>,
    headers: HeaderMap,
    fresh: Fresh,
) -> Answer<Response> {
    let claims = claims(&app, &token, &headers)?;
    let named = Slug::new(&slug_of(&called)).map(RoomRef::Slug).or_else(|_| called.parse().map(RoomRef::Id));
    let named = RoomPath(named.map_err(|_: InvalidId| RoomsError::Unknown)?);
    changed(rooms::get(State(app), SignedIn(claims), named, fresh).await?, |room| {
        let mut found = std::mem::take(room);
        found.insert("id".to_owned(), found.get("room").cloned().unwrap_or_default());
        found.insert("adminId".to_owned(), found.get("owner").cloned().unwrap_or_default());
        room.insert("room".to_owned(), Value::Object(found));
    })
    .await
}

/// A name as a slug: its letters and digits, with a hyphen for each gap.
fn slug_of(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let slug = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    slug.chars().take(SLUG_MAX).collect()
}

/// A body of the API's own call.
fn api_body<T: serde::de::DeserializeOwned>(body: Value) -> Answer<T> {
    serde_json::from_value(body).map_err(|error| ApiError::bad_message(error.to_string()))
}

async fn with_user_id(response: Response) -> Answer<Response> {
    changed(response, |tokens| {
        let id = tokens.get("user").and_then(|user| user.get("id")).cloned().unwrap_or_default();
        tokens.insert("userId".to_owned(), id);
    })
    .await
}

/// An answer of the API with its JSON object changed.
async fn changed(response: Response, change: impl FnOnce(&mut Object)) -> Answer<Response> {
    let (parts, body) = response.into_parts();
    let unreadable = || ApiError::new(Code::Internal, "the answer of the API is not readable");
    let bytes = body.collect().await.map_err(|_| unreadable())?.to_bytes();
    let mut object = serde_json::from_slice::<Object>(&bytes).map_err(|_| unreadable())?;
    change(&mut object);
    let mut response = answer::json(parts.status, Value::Object(object).to_string());
    for (name, value) in &parts.headers {
        response.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_a_slug_and_a_slug_stays() {
        for (name, slug) in [
            ("demo-room", "demo-room"),
            ("My Room", "my-room"),
            ("  Plan #7 (new) ", "plan-7-new"),
            ("Büro", "b-ro"),
            ("", ""),
        ] {
            assert_eq!(slug_of(name), slug);
            assert_eq!(slug_of(slug), slug);
        }
        assert_eq!(slug_of(&"x".repeat(100)).len(), SLUG_MAX);
    }
}
