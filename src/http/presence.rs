//! Who is in a room now, over all nodes.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::App;
use super::answer;
use super::error::Answer;
use super::openapi::schemas;
use super::path::{RoomParam, RoomPath};
use super::signed_in::SignedIn;
use crate::protocol::ObjectWriter;

#[utoipa::path(
    get, path = "/v1/rooms/{room}/presence", tag = "rooms",
    summary = "Who is in the room now, over all nodes",
    params(RoomParam),
    responses((status = 200, description = "The sessions", body = schemas::Presence)),
)]
pub(super) async fn list(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
) -> Answer<Response> {
    let room = app.access.readable(&claims, &room).await?;
    let (count, members) = app.hub.who(room).await;
    let members = members.iter().map(|member| {
        ObjectWriter::object(128)
            .string("session", member.session.as_str())
            .string("user", member.user.as_str())
            .string("name", &member.name)
            .string("role", member.role.as_str())
            .end()
    });
    let presence = ObjectWriter::object(256).number("count", count as u64).array("members", members).end();
    Ok(answer::json(StatusCode::OK, presence))
}
