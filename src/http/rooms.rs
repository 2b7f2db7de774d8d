//! Rooms: create, find, list.

use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::answer;
use super::body::Json;
use super::error::{Answer, ApiError};
use super::freshness::{Fresh, FreshParams, tell};
use super::idempotency::Makes;
use super::openapi::{OnceParams, RoomParam, schemas};
use super::query::Query;
use super::signed_in::SignedIn;
use crate::auth::check_password_rules;
use crate::config::Secret;
use crate::directory::DirectoryError;
use crate::ids::{InvalidId, RoomId, Slug, UserId};
use crate::protocol::{Access, Code, Object, ObjectWriter, Role, RoomRef, Schema};
use crate::routing::Freshness;
use crate::store::rooms::refusals::{needs_password, two_doors};
use crate::store::rooms::{METADATA_MAX_BYTES, NewRoom, RoomFacts, RoomsError, Wanted};

const NAME_MAX_CHARS: usize = 128;
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
pub(super) const PAGE_DEFAULT: usize = 50;
pub(super) const PAGE_MAX: usize = 1000;

/// `{room}` of a path: an id or a slug. Digits alone are an id.
pub(super) struct RoomPath(pub RoomRef);

#[derive(Deserialize)]
struct Named {
    room: String,
}

impl FromRequestParts<App> for RoomPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Path(Named { room: text }) =
            Path::from_request_parts(parts, app).await.map_err(|_| malformed())?;
        let named = match text.parse::<u64>() {
            Ok(id) => RoomId::new(id).map(RoomRef::Id),
            Err(_) => Slug::new(&text).map(RoomRef::Slug),
        };
        // What can't be a room isn't one.
        named.map(Self).map_err(|_: InvalidId| RoomsError::Unknown.refusal().into())
    }
}

pub(super) fn malformed() -> ApiError {
    ApiError::new(Code::BadMessage, "the address is malformed")
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateRoom)]
pub(super) struct Create {
    #[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9-]{2,62}$")]
    slug: Slug,
    /// The slug, if it has none.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// Makes the access `password`.
    #[schema(value_type = Option<String>, format = Password, min_length = 8, max_length = 128)]
    password: Option<Secret>,
    access: Option<Access>,
    schema: Option<Schema>,
    default_role: Option<Role>,
    /// At most 16 KiB of JSON.
    #[schema(value_type = Option<HashMap<String, serde_json::Value>>)]
    metadata: Option<Object>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// At most 1000 are given.
    #[param(value_type = Option<u32>, minimum = 1, default = 50)]
    pub limit: Option<String>,
    pub cursor: Option<String>,
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
        new.password = Some(app.passwords.hash(password).await?);
    }
    new.room = app.directory.reserve_room(&new).await.map_err(refused)?;
    app.rooms.insert(&new, deadline).await.map_err(RoomsError::refusal)?;
    app.directory.activate_slug(&new.slug, new.room).await.map_err(refused)?;
    let wanted = Wanted { room: new.room, user: None, freshness: Freshness::Primary, deadline };
    let found = app.rooms.find(wanted).await.map_err(RoomsError::refusal)?;
    let mut response = answer::json(StatusCode::CREATED, room_json(&found.facts));
    let location = HeaderValue::from_str(&format!("/v1/rooms/{}", new.room)).expect("digits and slashes");
    response.headers_mut().insert(LOCATION, location);
    Ok(tell(response, Some(found.facts.head), &found.served_by, None))
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
    let response = answer::json(StatusCode::OK, room_json(&found.facts));
    Ok(tell(response, Some(found.facts.head), &found.served_by, found.fallback))
}

pub(super) async fn mine(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    Query(page): Query<Page>,
    Fresh(freshness): Fresh,
) -> Answer<Response> {
    let limit = limit(page.limit.as_deref(), PAGE_DEFAULT)?;
    let after = page.cursor.as_deref().map(|cursor| {
        let id = cursor.parse().ok().and_then(|id| RoomId::new(id).ok());
        id.ok_or_else(foreign_cursor)
    });
    // A position is one room's; over all of them it can't be asked for.
    let freshness = match freshness {
        Freshness::AtLeast(_) => Freshness::Primary,
        other => other,
    };
    let deadline = Instant::now() + PATIENCE;
    let found = app.rooms.of_user(&claims.user, after.transpose()?, limit, freshness, deadline).await;
    let found = found.map_err(RoomsError::refusal)?;
    let list = ObjectWriter::object(1024).array("items", found.rooms.iter().map(room_json));
    let response = answer::json(StatusCode::OK, next_cursor(list, found.next.map(|id| id.to_string())));
    Ok(tell(response, None, &found.served_by, found.fallback))
}

pub(super) fn foreign_cursor() -> ApiError {
    ApiError::new(Code::BadMessage, "this is not a cursor of this list")
}

/// `null` ends a list.
pub(super) fn next_cursor(list: ObjectWriter, next: Option<String>) -> String {
    match next {
        Some(cursor) => list.string("next_cursor", &cursor),
        None => list.raw("next_cursor", "null"),
    }
    .end()
}

/// `?limit=`, at most [`PAGE_MAX`].
pub(super) fn limit(text: Option<&str>, default: usize) -> Answer<usize> {
    let Some(text) = text else { return Ok(default) };
    match text.parse::<usize>() {
        Ok(limit) if limit > 0 => Ok(limit.min(PAGE_MAX)),
        _ => Err(ApiError::new(Code::BadMessage, "limit is an integer of 1 or more")),
    }
}

pub(super) fn check_name(name: &str) -> Answer<()> {
    if name.trim().is_empty() || name.chars().count() > NAME_MAX_CHARS {
        return Err(ApiError::new(Code::BadMessage, "a room's name has 1 to 128 characters"));
    }
    Ok(())
}

/// Without the password's hash, which takes time.
fn checked(room: RoomId, owner: &UserId, wish: &Create) -> Answer<NewRoom> {
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
        return Err(ApiError::new(Code::TooLarge, "metadata may have 16 KiB"));
    }
    Ok(NewRoom {
        room,
        slug: wish.slug.clone(),
        name: name.to_owned(),
        owner: owner.clone(),
        access,
        default_role: wish.default_role.unwrap_or(Role::Editor),
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

fn refused(error: DirectoryError) -> ApiError {
    error.refusal().into()
}
