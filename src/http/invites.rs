//! Invites: made, listed and revoked by a room's owners.

use std::time::Instant;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::App;
use super::answer;
use super::body::Json;
use super::error::{Answer, ApiError};
use super::idempotency::{Makes, OnceParams};
use super::members::actor;
use super::openapi::schemas;
use super::paging::{Page, next_cursor};
use super::path::{InviteParam, InvitePath, RoomParam, RoomPath};
use super::query::Query;
use super::rooms::{PATIENCE, or_null};
use super::signed_in::SignedIn;
use crate::auth::InviteCode;
use crate::clock::UnixMillis;
use crate::protocol::{Code, ObjectWriter, Role};
use crate::store::rooms::{ListedInvite, NewInvite};

#[derive(Deserialize, ToSchema)]
pub(super) struct Create {
    role: Role,
    /// It must not have passed.
    #[schema(minimum = 0, maximum = 253_402_300_799_999_i64)]
    expires_at: Option<i64>,
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    max_uses: Option<u32>,
}

/// The answer is the one place where the code is told, and is not kept for
/// repeats: a repeat comes here again, with the same id, and the code is made from
/// that.
#[utoipa::path(
    post, path = "/v1/rooms/{room}/invites", tag = "invites",
    summary = "Makes an invite, and tells its code this once; by owners",
    params(RoomParam, OnceParams),
    request_body = Create,
    responses((status = 201, description = "The invite with its code", body = schemas::NewInvite)),
)]
pub(super) async fn create(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    makes: Option<Extension<Makes>>,
    Json(wish): Json<Create>,
) -> Answer<Response> {
    let (expires_at, max_uses) = checked(&wish)?;
    let room = app.access.managed(&claims, &room).await?;
    let id = Makes::invite(makes)?;
    let code = app.signer.invite_code(room, id)?;
    let new = NewInvite { id, digest: code.digest(), role: wish.role, expires_at, max_uses };
    let most = app.limits.configured().invites_per_room;
    let made = app.rooms.add_invite(room, actor(&claims), &new, most, Instant::now() + PATIENCE).await?;
    if made.digest != new.digest {
        let message = "the keys were replaced, so this invite's code can't be told again; make another one";
        return Err(ApiError::new(Code::IdempotencyMismatch, message));
    }
    Ok(answer::json(StatusCode::CREATED, made_json(&made, &code)))
}

/// The cursor is the last invite that was listed.
#[utoipa::path(
    get, path = "/v1/rooms/{room}/invites", tag = "invites",
    summary = "The invites, without their codes; by owners",
    params(RoomParam, Page),
    responses((status = 200, description = "By id", body = schemas::Invites)),
)]
pub(super) async fn list(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    Query(page): Query<Page>,
) -> Answer<Response> {
    let (limit, after) = (page.limit()?, page.after(|text| text.parse().ok())?);
    let room = app.access.managed(&claims, &room).await?;
    let (invites, more) = app.rooms.invites(room, after, limit, Instant::now() + PATIENCE).await?;
    let list = ObjectWriter::object(1024).array("items", invites.iter().map(listed_json));
    let next = invites.last().filter(|_| more).map(|invite| invite.id.to_string());
    Ok(answer::json(StatusCode::OK, next_cursor(list, next)))
}

#[utoipa::path(
    delete, path = "/v1/rooms/{room}/invites/{invite}", tag = "invites",
    summary = "Revokes an invite; who came in by it stays. By owners",
    params(RoomParam, InviteParam),
    responses((status = 204, description = "Revoked")),
)]
pub(super) async fn revoke(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    InvitePath(invite): InvitePath,
) -> Answer<Response> {
    let room = app.access.managed(&claims, &room).await?;
    app.rooms.revoke_invite(room, actor(&claims), invite, Instant::now() + PATIENCE).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn checked(wish: &Create) -> Answer<(Option<UnixMillis>, Option<i32>)> {
    if wish.expires_at.is_some_and(|at| !(0..=UnixMillis::LAST.0).contains(&at)) {
        return Err(ApiError::bad_message(
            "expires_at is milliseconds since 1970, at most those of the year 9999",
        ));
    }
    let max_uses = match wish.max_uses.map(i32::try_from) {
        None => None,
        Some(Ok(uses)) if uses > 0 => Some(uses),
        Some(_) => return Err(ApiError::bad_message("max_uses is an integer from 1 to 2147483647")),
    };
    Ok((wish.expires_at.map(UnixMillis), max_uses))
}

fn made_json(made: &NewInvite, code: &InviteCode) -> String {
    let invite = ObjectWriter::object(192)
        .number("id", made.id.get())
        .string("code", code.reveal())
        .string("role", made.role.as_str());
    let invite = or_null(invite, "expires_at", made.expires_at.map(|at| at.0));
    or_null(invite, "max_uses", made.max_uses).end()
}

fn listed_json(listed: &ListedInvite) -> String {
    let invite = ObjectWriter::object(256).number("id", listed.id.get()).string("role", listed.role.as_str());
    let invite = or_null(invite, "expires_at", listed.expires_at);
    or_null(invite, "max_uses", listed.max_uses)
        .number("uses", listed.uses)
        .boolean("revoked", listed.revoked)
        .string("created_by", listed.created_by.as_str())
        .number("created_at", listed.created_at)
        .end()
}
