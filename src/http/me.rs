//! The caller: who they are, what they change of it, and that they be forgotten.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::App;
use super::answer;
use super::body::Json;
use super::error::{Answer, ApiError};
use super::openapi::schemas;
use super::people::{check_name, user_json};
use super::signed_in::SignedIn;
use crate::directory::AccountChange;
use crate::ids::UserId;
use crate::protocol::{Code, ObjectWriter};

const PHOTO_URL_MAX_BYTES: usize = 2048;
const PHOTO_DATA_MAX_BYTES: usize = 48 * 1024;
/// After so long the caller is answered and the rest goes on without them.
const ERASURE_PATIENCE: Duration = Duration::from_secs(10);

/// Does what is left to do for somebody whose erasure has begun; false if some
/// of it will be done later.
pub type Eraser = Arc<dyn Fn(UserId) -> BoxFuture<'static, bool> + Send + Sync>;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangeMe)]
pub(super) struct Change {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 64)]
    name: Option<Option<String>>,
    /// An http(s) address of at most 2 KiB, or a data:image/… of at most 48 KiB; null for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, required = false)]
    photo: Option<Option<String>>,
}

/// In a merge patch null is not the same as nothing.
pub(super) fn present<'de, D, T>(value: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(value).map(Some)
}

/// Of a token that was not made here, only what it says.
#[utoipa::path(
    get, path = "/v1/me", tag = "people",
    summary = "The caller",
    responses((status = 200, description = "Of a token that was not made here, only what it says", body = schemas::Me)),
)]
pub(super) async fn get(State(app): State<App>, SignedIn(claims): SignedIn) -> Answer<Response> {
    let user = match app.directory.account(&claims.user).await? {
        Some(account) => user_json(&account),
        None => ObjectWriter::object(128)
            .string("id", claims.user.as_str())
            .raw("email", "null")
            .string("name", &claims.name)
            .raw("photo", "null")
            .end(),
    };
    Ok(answer::json(StatusCode::OK, ObjectWriter::object(160).raw("user", &user).end()))
}

/// Tokens that were made before go on saying the old name until they are
/// refreshed.
#[utoipa::path(
    patch, path = "/v1/me", tag = "people",
    summary = "Changes the name or the photo; a merge patch",
    request_body(content((Change = "application/json"), (Change = "application/merge-patch+json"))),
    responses(
        (status = 200, description = "As it is now", body = schemas::Me),
        (status = 404, description = "not_found: the token was not made here", body = schemas::Refused),
    ),
)]
pub(super) async fn change(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    Json(wish): Json<Change>,
) -> Answer<Response> {
    let name = match wish.name {
        Some(None) => return Err(ApiError::bad_message("a person has a name")),
        Some(Some(name)) => {
            check_name(&name)?;
            Some(name)
        }
        None => None,
    };
    if let Some(Some(photo)) = &wish.photo {
        check_photo(photo)?;
    }
    let change = AccountChange { name, photo: wish.photo };
    let account = app.directory.change_account(&claims.user, &change).await?;
    let account = account.ok_or_else(|| ApiError::new(Code::NotFound, "you have no account here"))?;
    let user = ObjectWriter::object(160).raw("user", &user_json(&account)).end();
    Ok(answer::json(StatusCode::OK, user))
}

/// Once this is noted it happens, whatever dies. The answer waits for the rest
/// for a while.
#[utoipa::path(
    delete, path = "/v1/me", tag = "people",
    summary = "Erases the caller: name, email, photo; owned rooms are handed on or archived",
    responses((status = 204, description = "It is done, or noted and under way")),
)]
pub(super) async fn erase(State(app): State<App>, SignedIn(claims): SignedIn) -> Answer<Response> {
    app.directory.begin_erasure(&claims.user).await?;
    app.bus.tell_revoked().await;
    let erased = tokio::time::timeout(ERASURE_PATIENCE, (app.eraser)(claims.user.clone())).await;
    if !matches!(erased, Ok(true)) {
        tracing::warn!(user = %claims.user, "an erasure goes on in the background");
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// An address, or the picture itself: nothing that a page could run.
fn check_photo(photo: &str) -> Answer<()> {
    let plain = photo.bytes().all(|byte| byte.is_ascii_graphic());
    let web = ["https://", "http://"].iter().any(|scheme| photo.starts_with(scheme));
    let pictures = ["png", "jpeg", "webp", "gif"];
    let data = photo.strip_prefix("data:image/").and_then(|rest| rest.split_once(";base64,"));
    let data = data.is_some_and(|(kind, _)| pictures.contains(&kind));
    let fits = web && photo.len() <= PHOTO_URL_MAX_BYTES || data && photo.len() <= PHOTO_DATA_MAX_BYTES;
    if plain && fits {
        return Ok(());
    }
    let message = "a photo is an http(s) address of at most 2 KiB, or a data:image/… of at most 48 KiB";
    Err(ApiError::bad_message(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_are_addresses_or_pictures() {
        for photo in ["https://x.test/a.png", "data:image/png;base64,iVBORw0KGgo="] {
            assert!(check_photo(photo).is_ok(), "{photo}");
        }
        let long = format!("https://{}", "x".repeat(3000));
        for photo in [
            "",
            "javascript:alert(1)",
            "data:text/html;base64,x",
            "data:image/svg+xml;base64,x",
            &long,
            "https://a b",
        ] {
            assert!(check_photo(photo).is_err(), "{photo}");
        }
    }
}
