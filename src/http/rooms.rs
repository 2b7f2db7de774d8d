//! Rooms: create, find.

use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::App;
use super::answer;
use super::body::Json;
use super::error::{Answer, ApiError};
use super::freshness::{Fresh, FreshParams, tell};
use super::idempotency::{Makes, OnceParams};
use super::openapi::schemas;
use super::path::{RoomParam, RoomPath};
use super::signed_in::SignedIn;
use crate::auth::{Payer, check_password_rules};
use crate::config::Secret;
use crate::ids::{RoomId, Slug, UserId};
use crate::log::Authority;
use crate::protocol::{Access, DefaultRole, Object, ObjectWriter, Schema};
use crate::routing::Freshness;
use crate::store::rooms::refusals::{needs_password, too_much_metadata, two_doors};
use crate::store::rooms::{Found, METADATA_MAX_BYTES, NewRoom, RoomFacts, Wanted};

const NAME_MAX_CHARS: usize = 128;
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateRoom)]
pub(super) struct Create {
    /// Not of digits alone, which name a room by its id.
    #[schema(
        value_type = String, min_length = 3, max_length = 63,
        pattern = "^([0-9]*[a-z]|[0-9]+-)[a-z0-9-]*$",
    )]
    slug: Slug,
    /// The slug, if it has none.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// Makes the access `password`.
    #[schema(value_type = Option<String>, format = Password, min_length = 8, max_length = 128)]
    password: Option<Secret>,
    access: Option<Access>,
    schema: Option<Schema>,
    default_role: Option<DefaultRole>,
    /// At most 16 KiB of JSON.
    #[schema(value_type = Option<HashMap<String, serde_json::Value>>)]
    metadata: Option<Object>,
}

/// Directory `creating`, the shard's rows, directory `active`: whoever is
/// stopped in between goes on by asking again, or the janitor does.
#[utoipa::path(
    post, path = "/v1/rooms", tag = "rooms",
    summary = "Makes a room",
    params(OnceParams),
    request_body = Create,
    responses(
        (status = 201, description = "The room", body = schemas::Room),
        (status = 403, description = "forbidden: too many rooms, or too much metadata in all", body = schemas::Refused),
        (status = 409, description = "slug_taken, idempotency_mismatch", body = schemas::Refused),
    ),
)]
pub(super) async fn create(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    makes: Option<Extension<Makes>>,
    Json(wish): Json<Create>,
) -> Answer<Response> {
    let deadline = Instant::now() + PATIENCE;
    let mut new = checked(Makes::room(makes)?, &claims.user, &wish)?;
    if let Some(password) = wish.password {
        new.password = Some(app.passwords.hash(password, Payer::User(&claims.user)).await?);
    }
    let limits = app.limits.configured();
    let is_server = claims.authority == Authority::Server;
    if wish.metadata.is_some() && !is_server {
        app.rooms.check_metadata(&claims.user, new.metadata.len(), limits.user_metadata_bytes).await?;
    }
    let most = if is_server { 0 } else { limits.rooms_per_user };
    new.room = app.directory.reserve_room(&new, most).await?;
    app.rooms.insert(&new, deadline).await?;
    app.directory.activate_slug(&new.slug, new.room).await?;
    let mut response = as_written(&app, StatusCode::CREATED, new.room, deadline).await?;
    let location = HeaderValue::from_str(&format!("/v1/rooms/{}", new.room)).expect("digits and slashes");
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

#[utoipa::path(
    get, path = "/v1/rooms/{room}", tag = "rooms",
    summary = "A room",
    params(RoomParam, FreshParams),
    responses((status = 200, description = "The room", body = schemas::Room)),
)]
pub(super) async fn get(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    Fresh(freshness): Fresh,
) -> Answer<Response> {
    let found = app.access.look(&claims, &room, Some(freshness)).await?;
    Ok(found_room(StatusCode::OK, &found))
}

/// The room as the primary has it, after a change.
pub(super) async fn as_written(
    app: &App,
    status: StatusCode,
    room: RoomId,
    deadline: Instant,
) -> Answer<Response> {
    let wanted = Wanted { room, user: None, freshness: Freshness::Primary, deadline };
    Ok(found_room(status, &app.rooms.find(wanted).await?))
}

fn found_room(status: StatusCode, found: &Found) -> Response {
    let response = answer::json(status, room_json(&found.facts));
    tell(response, Some(found.facts.head), &found.served_by, found.fallback)
}

pub(super) fn check_name(name: &str) -> Answer<()> {
    if name.trim().is_empty() || name.chars().count() > NAME_MAX_CHARS {
        return Err(ApiError::bad_message("a room's name has 1 to 128 characters"));
    }
    Ok(())
}

/// Without the password's hash, which takes time.
fn checked(room: RoomId, owner: &UserId, wish: &Create) -> Answer<NewRoom> {
    if wish.slug.is_digits() {
        return Err(ApiError::bad_message("digits alone are a room's id: a slug has a letter or - as well"));
    }
    let name = wish.name.as_deref().unwrap_or(wish.slug.as_str());
    check_name(name)?;
    let access = match (&wish.password, wish.access) {
        (Some(password), None | Some(Access::Password)) => {
            check_password_rules(password)?;
            Access::Password
        }
        (Some(_), Some(_)) => return Err(two_doors().into()),
        (None, Some(Access::Password)) => return Err(needs_password().into()),
        (None, access) => access.unwrap_or(Access::Public),
    };
    let metadata = wish
        .metadata
        .as_ref()
        .map_or_else(|| "{}".to_owned(), |object| serde_json::Value::Object(object.clone()).to_string());
    if metadata.len() > METADATA_MAX_BYTES {
        return Err(too_much_metadata().into());
    }
    Ok(NewRoom {
        room,
        slug: wish.slug.clone(),
        name: name.to_owned(),
        owner: owner.clone(),
        access,
        default_role: wish.default_role.unwrap_or(DefaultRole::Editor),
        schema: wish.schema.unwrap_or(Schema::Drawing),
        password: None,
        metadata: metadata.into(),
    })
}

pub(super) fn room_json(facts: &RoomFacts) -> String {
    let counters = ObjectWriter::object(48).number("visits", facts.visits).number("events", facts.head.seq.0);
    let room = ObjectWriter::object(512 + facts.metadata.len())
        .number("room", facts.room.get())
        .string("slug", facts.slug.as_str())
        .string("name", &facts.name)
        .string("schema", facts.schema.as_str())
        .string("access", facts.access.as_str())
        .string("default_role", facts.default_role.as_str())
        .string("owner", facts.owner.as_str())
        .boolean("has_password", facts.password.is_some())
        .raw("metadata", &facts.metadata)
        .raw("counters", &counters.end())
        .number("epoch", facts.head.epoch.0)
        .number("head", facts.head.seq.0)
        .number("created_at", facts.created_at.0)
        .number("updated_at", facts.updated_at.0);
    let room = or_null(room, "archived_at", facts.archived_at.map(|at| at.0));
    or_null(room, "retention_ms", facts.retention_ms).end()
}

pub(super) fn or_null(object: ObjectWriter, key: &str, value: Option<impl Into<i128>>) -> ObjectWriter {
    match value {
        Some(value) => object.number(key, value),
        None => object.raw(key, "null"),
    }
}
