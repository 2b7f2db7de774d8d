//! What the `{…}` of an address name.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use utoipa::IntoParams;

use super::App;
use super::error::{Answer, ApiError};
use crate::ids::{InvalidId, InviteId, Slug, UserId};
use crate::protocol::RoomRef;
use crate::store::rooms::RoomsError;
use crate::store::rooms::refusals::no_such_invite;

/// An id or a slug.
pub(super) struct RoomPath(pub RoomRef);

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what `RoomPath` reads")]
pub(super) struct RoomParam {
    /// The room's id, or its slug.
    #[param(min_length = 1, max_length = 63)]
    room: String,
}

impl FromRequestParts<App> for RoomPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let text = segment(parts, app, "room").await?;
        let named = Slug::new(&text).map(RoomRef::Slug).or_else(|_| text.parse().map(RoomRef::Id));
        // What can't be a room isn't one.
        named.map(Self).map_err(|_: InvalidId| RoomsError::Unknown.into())
    }
}

pub(super) struct UserPath(pub UserId);

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what `UserPath` reads")]
pub(super) struct UserParam {
    #[param(pattern = "^[A-Za-z0-9_.:@|-]{1,64}$")]
    user: String,
}

impl FromRequestParts<App> for UserPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let user = UserId::new(&segment(parts, app, "user").await?);
        user.map(Self).map_err(|invalid| ApiError::bad_message(invalid.to_string()))
    }
}

pub(super) struct InvitePath(pub InviteId);

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what `InvitePath` reads")]
pub(super) struct InviteParam {
    invite: i64,
}

impl FromRequestParts<App> for InvitePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let invite = segment(parts, app, "invite").await?.parse();
        invite.map(Self).map_err(|_: InvalidId| no_such_invite().into())
    }
}

async fn segment(parts: &mut Parts, app: &App, name: &str) -> Answer<String> {
    let read = RawPathParams::from_request_parts(parts, app).await.ok();
    let text = read.as_ref().and_then(|params| params.iter().find(|(key, _)| *key == name));
    let text = text.map(|(_, text)| text.to_owned());
    text.ok_or_else(|| ApiError::bad_message("the address is malformed"))
}
