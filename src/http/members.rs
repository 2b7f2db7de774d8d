//! Members of a room: become one, leave, list; given a role and removed by its
//! owners, which reaches their sessions on every node.

use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::App;
use super::address::ClientAddress;
use super::answer;
use super::body::{Json, OptionalJson};
use super::error::Answer;
use super::freshness::{Fresh, FreshParams, tell};
use super::openapi::schemas;
use super::paging::{Page, next_cursor};
use super::path::{RoomParam, RoomPath, UserParam, UserPath};
use super::query::Query;
use super::rooms::PATIENCE;
use super::signed_in::SignedIn;
use crate::auth::Claims;
use crate::ids::{RoomId, UserId};
use crate::protocol::{ObjectWriter, Role};
use crate::room::access;
use crate::store::rooms::{Actor, ListedMember};

#[derive(Deserialize, ToSchema)]
pub(super) struct Shown {
    password: Option<String>,
    invite: Option<String>,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Given {
    role: Role,
}

#[utoipa::path(
    put, path = "/v1/rooms/{room}/members/me", tag = "members",
    summary = "Makes the caller a member, with the password or an invite where it takes one",
    params(RoomParam),
    request_body = Option<Shown>,
    responses((status = 200, description = "The membership", body = schemas::Membership)),
)]
pub(super) async fn join(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    ClientAddress(from): ClientAddress,
    RoomPath(room): RoomPath,
    OptionalJson(shown): OptionalJson<Shown>,
) -> Answer<Response> {
    let (password, invite) = (shown.password.as_deref(), shown.invite.as_deref());
    let shown = access::Shown { password, invite, from: Some(from) };
    let admission = app.access.become_member(&claims.user, &room, shown).await?;
    Ok(answer::json(StatusCode::OK, member_json(admission.room, &claims.user, admission.role)))
}

#[utoipa::path(
    put, path = "/v1/rooms/{room}/members/{user}", tag = "members",
    summary = "Gives a role; by owners",
    params(RoomParam, UserParam),
    request_body = Given,
    responses((status = 200, description = "The membership", body = schemas::Membership)),
)]
pub(super) async fn give(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    UserPath(user): UserPath,
    Json(Given { role }): Json<Given>,
) -> Answer<Response> {
    let room = app.access.managed(&claims, &room).await?;
    let revision = app.rooms.set_role(room, actor(&claims), &user, role, Instant::now() + PATIENCE).await?;
    app.hub.rights_changed(room, revision);
    Ok(answer::json(StatusCode::OK, member_json(room, &user, role)))
}

#[utoipa::path(
    delete, path = "/v1/rooms/{room}/members/{user}", tag = "members",
    summary = "Removes a member, whose sessions leave within 5 s; by owners, or oneself",
    params(RoomParam, UserParam),
    responses((status = 204, description = "Removed")),
)]
pub(super) async fn remove(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    UserPath(user): UserPath,
) -> Answer<Response> {
    let room = if claims.user == user {
        app.access.leaving(&claims.user, &room).await?
    } else {
        app.access.managed(&claims, &room).await?
    };
    take_out(&app, &claims, room, &user).await
}

#[utoipa::path(
    delete, path = "/v1/rooms/{room}/members/me", tag = "members",
    summary = "Leaves the room",
    params(RoomParam),
    responses((status = 204, description = "Left")),
)]
pub(super) async fn leave(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
) -> Answer<Response> {
    let room = app.access.leaving(&claims.user, &room).await?;
    take_out(&app, &claims, room, &claims.user).await
}

async fn take_out(app: &App, claims: &Claims, room: RoomId, user: &UserId) -> Answer<Response> {
    let revision = app.rooms.remove(room, actor(claims), user, Instant::now() + PATIENCE).await?;
    if let Some(revision) = revision {
        app.hub.rights_changed(room, revision);
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The cursor is the last user that was listed.
#[utoipa::path(
    get, path = "/v1/rooms/{room}/members", tag = "members",
    summary = "The members",
    params(RoomParam, Page, FreshParams),
    responses((status = 200, description = "By user", body = schemas::Members)),
)]
pub(super) async fn list(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    Query(page): Query<Page>,
    Fresh(freshness): Fresh,
) -> Answer<Response> {
    let (limit, after) = (page.limit()?, page.after(|text| UserId::new(text).ok())?);
    let room = app.access.readable(&claims, &room).await?;
    let deadline = Instant::now() + PATIENCE;
    let found = app.rooms.members(room, after.as_ref(), limit, freshness, deadline).await?;
    let list = ObjectWriter::object(1024).array("items", found.members.iter().map(listed_json));
    let next = found.members.last().filter(|_| found.more).map(|member| member.user.to_string());
    let response = answer::json(StatusCode::OK, next_cursor(list, next));
    Ok(tell(response, Some(found.head), &found.served_by, found.fallback))
}

pub(super) fn actor(claims: &Claims) -> Actor<'_> {
    Actor { user: &claims.user, authority: claims.authority }
}

fn member_json(room: RoomId, user: &UserId, role: Role) -> String {
    ObjectWriter::object(128)
        .number("room", room.get())
        .string("user", user.as_str())
        .string("role", role.as_str())
        .end()
}

fn listed_json(member: &ListedMember) -> String {
    ObjectWriter::object(128)
        .string("user", member.user.as_str())
        .string("role", member.role.as_str())
        .number("joined_at", member.since.0)
        .end()
}
