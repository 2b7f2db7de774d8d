//! A room is changed, or archived, by its owners.

use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::App;
use super::body::Json;
use super::error::{Answer, ApiError};
use super::me::present;
use super::members::actor;
use super::openapi::schemas;
use super::path::{RoomParam, RoomPath};
use super::rooms::{PATIENCE, as_written, check_name};
use super::signed_in::SignedIn;
use crate::auth::{Payer, check_password_rules};
use crate::config::Secret;
use crate::log::Authority;
use crate::protocol::{Access, DefaultRole, Object};
use crate::store::rooms::Alteration;

/// A merge patch: null puts back what a new room has.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangeRoom)]
pub(super) struct Wish {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, required = false, min_length = 1, max_length = 128)]
    name: Option<Option<String>>,
    /// Itself a merge patch; the result may have 16 KiB.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>, required = false)]
    metadata: Option<Option<Object>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Access>, required = false)]
    access: Option<Option<Access>>,
    /// One makes the access `password`; null takes it away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, required = false, min_length = 8, max_length = 128)]
    password: Option<Option<Secret>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<DefaultRole>, required = false)]
    default_role: Option<Option<DefaultRole>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, required = false, minimum = 0)]
    retention_ms: Option<Option<i64>>,
    /// false opens an archived room again. DELETE archives a room.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<bool>, required = false)]
    archived: Option<Option<bool>>,
    /// Refused: it is the room's for good.
    #[serde(default, deserialize_with = "present")]
    #[schema(ignore)]
    slug: Option<Option<String>>,
}

#[utoipa::path(
    patch, path = "/v1/rooms/{room}", tag = "rooms",
    summary = "Changes the room; by owners",
    params(RoomParam),
    request_body(content((Wish = "application/json"), (Wish = "application/merge-patch+json"))),
    responses((status = 200, description = "The room", body = schemas::Room)),
)]
pub(super) async fn alter(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    Json(wish): Json<Wish>,
) -> Answer<Response> {
    let deadline = Instant::now() + PATIENCE;
    let (mut alteration, password) = checked(wish)?;
    let room = app.access.managed(&claims, &room).await?;
    if let (Some(Some(patch)), Authority::Member) = (&alteration.metadata, claims.authority) {
        let most = app.limits.configured().user_metadata_bytes;
        app.rooms.check_metadata(&claims.user, patch.len(), most).await?;
    }
    if let Some(password) = password {
        alteration.password = Some(Some(app.passwords.hash(password, Payer::User(&claims.user)).await?));
    }
    let revision = app.rooms.alter(room, actor(&claims), &alteration, deadline).await?;
    app.hub.rights_changed(room, revision);
    as_written(&app, StatusCode::OK, room, deadline).await
}

#[utoipa::path(
    delete, path = "/v1/rooms/{room}", tag = "rooms",
    summary = "Archives the room: whoever is in it is put out within 5 s, and nobody enters it until an owner opens it again; by owners",
    params(RoomParam),
    responses((status = 204, description = "Archived")),
)]
pub(super) async fn archive(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
) -> Answer<Response> {
    let room = app.access.managed(&claims, &room).await?;
    let revision = app.rooms.archive(room, actor(&claims), Instant::now() + PATIENCE).await?;
    app.hub.rights_changed(room, revision);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Without a new password, which is still to be hashed.
fn checked(wish: Wish) -> Answer<(Alteration, Option<Secret>)> {
    let bad = |message: &'static str| Err(ApiError::bad_message(message));
    if wish.slug.is_some() {
        return bad("a room keeps its slug");
    }
    if let Some(Some(name)) = &wish.name {
        check_name(name)?;
    }
    if wish.retention_ms.flatten().is_some_and(|ms| ms < 0) {
        return bad("retention_ms is an integer of 0 or more");
    }
    if let Some(Some(password)) = &wish.password {
        check_password_rules(password)?;
    }
    if wish.archived == Some(Some(true)) {
        return bad("archived can only be set to false; DELETE archives the room");
    }
    let text = |object: Object| serde_json::Value::Object(object).to_string();
    let alteration = Alteration {
        name: wish.name,
        metadata: wish.metadata.map(|patch| patch.map(text)),
        retention_ms: wish.retention_ms,
        access: wish.access.map(|access| access.unwrap_or(Access::Public)),
        password: matches!(wish.password, Some(None)).then_some(None),
        default_role: wish.default_role.map(|role| role.unwrap_or(DefaultRole::Editor)),
        unarchives: wish.archived.is_some(),
    };
    Ok((alteration, wish.password.flatten()))
}
