//! `GET /v1/rooms`: mine, or those whose metadata contains a given object.
//!
//! The answer names the shards that are missing from it, `incomplete`: their rooms
//! come with a later page, once they answer. While they don't, there is a
//! `next_cursor` though the rooms of all other shards have been listed.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::{Answer, ApiError};
use super::freshness::{Fresh, FreshParams, tell};
use super::openapi::schemas;
use super::paging::{Page, next_cursor};
use super::query::Query;
use super::rooms::room_json;
use super::signed_in::SignedIn;
use super::{App, answer};
use crate::protocol::{Code, ObjectWriter, strict};
use crate::routing::Freshness;
use crate::store::rooms::List;

const METADATA_MAX_BYTES: usize = 4 * 1024;
const METADATA_MAX_DEPTH: usize = 16;
/// How long the slowest shard may hold up the answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// A JSON object that the room's metadata contains; at most 4 KiB of UTF-8.
    #[param(max_length = 1024)]
    metadata: Option<String>,
}

#[utoipa::path(
    get, path = "/v1/rooms", tag = "rooms",
    summary = "Rooms that the caller owns or is a member of; or rooms the caller may see, by their metadata",
    params(Asked, Page, FreshParams),
    responses((status = 200, description = "By id", body = schemas::Rooms)),
)]
pub(super) async fn list(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    Query(asked): Query<Asked>,
    Query(page): Query<Page>,
    Fresh(freshness): Fresh,
) -> Answer<Response> {
    // A position is one room's; over all of them it can't be asked for.
    let freshness = match freshness {
        Freshness::AtLeast(_) => Freshness::Primary,
        other => other,
    };
    let cursor = page.after(|text| text.parse().ok())?.unwrap_or_default();
    let list = List { user: &claims.user, limit: page.limit()?, freshness, patience: PATIENCE };
    let found = match asked.metadata {
        None => app.rooms.of_user(list, &cursor).await?,
        Some(metadata) => {
            check(&metadata)?;
            app.rooms.search(list, &metadata, &cursor).await?
        }
    };
    let names = found.incomplete.iter().map(|shard| format!("\"{shard}\""));
    let list = ObjectWriter::object(1024)
        .array("items", found.rooms.iter().map(room_json))
        .array("incomplete", names);
    let next = found.next.map(|cursor| cursor.to_string());
    let response = answer::json(StatusCode::OK, next_cursor(list, next));
    Ok(tell(response, None, &found.served_by, found.fallback))
}

fn check(metadata: &str) -> Answer<()> {
    if metadata.len() > METADATA_MAX_BYTES {
        return Err(ApiError::bad_message("metadata that is looked for may have 4 KiB"));
    }
    match strict::object(metadata, METADATA_MAX_DEPTH) {
        Ok(_) => Ok(()),
        Err(refusal) => match refusal.code {
            Code::BadJson => Err(refusal.into()),
            Code::TooDeep => Err(ApiError::bad_message("metadata that is looked for may be nested 16 deep")),
            _ => Err(ApiError::bad_message("metadata that is looked for is a JSON object")),
        },
    }
}
