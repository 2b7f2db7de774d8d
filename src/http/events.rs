//! A room's log, page by page or as a stream.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::{Answer, ApiError};
use super::freshness::{Fresh, FreshParams, tell};
use super::openapi::schemas;
use super::paging::{limit, next_cursor};
use super::path::{RoomParam, RoomPath};
use super::query::Query;
use super::signed_in::SignedIn;
use super::{App, answer, export};
use crate::clock::UnixMillis;
use crate::ids::UserId;
use crate::position::Seq;
use crate::protocol::ObjectWriter;
use crate::store::history::EventQuery;

const LIMIT_DEFAULT: usize = 100;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wish {
    /// Events behind this seq.
    #[param(value_type = Option<u64>, minimum = 0)]
    after: Option<String>,
    cursor: Option<String>,
    /// At most 1000 are given.
    #[param(value_type = Option<u32>, minimum = 1, default = 100)]
    limit: Option<String>,
    /// Only this user's.
    #[param(pattern = "^[A-Za-z0-9_.:@|-]{1,64}$")]
    user: Option<String>,
    #[param(value_type = Option<u64>, minimum = 0)]
    since_ms: Option<String>,
    /// `ndjson`: all of them as lines, and at the end `{"type":"end","seq":…}`; without that line it was cut.
    #[param(pattern = "^ndjson$")]
    stream: Option<String>,
}

/// The cursor is the seq that was read to; so it works on every node.
#[utoipa::path(
    get, path = "/v1/rooms/{room}/events", tag = "events",
    summary = "The log, page by page or as a stream",
    params(RoomParam, Wish, FreshParams),
    responses((status = 200, description = "In the order of the log", content(
        (schemas::Events = "application/json"), (String = "application/x-ndjson"),
    ))),
)]
pub(super) async fn list(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    Query(wish): Query<Wish>,
    Fresh(freshness): Fresh,
) -> Answer<Response> {
    let query = query(&wish)?;
    let streams = streams(&wish)?;
    let room = app.access.readable(&claims, &room).await?;
    if streams {
        return export::stream(&app, room, query.after, freshness).await;
    }
    let read = app.history.events(room, &query, freshness).await?;
    let list = ObjectWriter::object(4096)
        .number("epoch", read.head.epoch.0)
        .number("head", read.head.seq.0)
        .array("items", read.value.events.iter().map(|event| event.json.as_str()));
    let next = read.value.next.map(|seq| seq.to_string());
    let response = answer::json(StatusCode::OK, next_cursor(list, next));
    Ok(tell(response, Some(read.head), &read.served_by, read.fallback))
}

/// A stream has no pages and leaves nothing out.
fn streams(wish: &Wish) -> Answer<bool> {
    let bad = |message: &'static str| Err(ApiError::bad_message(message));
    match wish.stream.as_deref() {
        None => Ok(false),
        Some("ndjson") if wish.user.is_some() || wish.since_ms.is_some() => bad("a stream has no filters"),
        Some("ndjson") if wish.limit.is_some() || wish.cursor.is_some() => bad("a stream has no pages"),
        Some("ndjson") => Ok(true),
        Some(_) => bad("stream may be ndjson"),
    }
}

fn query(wish: &Wish) -> Answer<EventQuery> {
    let after = match wish.cursor.as_deref().or(wish.after.as_deref()) {
        Some(text) => Seq(number(text, "after is a seq, an integer of 0 or more")?),
        None => Seq::ZERO,
    };
    let user = wish
        .user
        .as_deref()
        .map(|text| UserId::new(text).map_err(|invalid| ApiError::bad_message(invalid.to_string())));
    let since_ms = wish.since_ms.as_deref().map(|text| {
        let ms = number(text, "since_ms is milliseconds since 1970")?;
        // Nothing is newer than that.
        Ok::<_, ApiError>(i64::try_from(ms).unwrap_or(i64::MAX).min(UnixMillis::LAST.0))
    });
    Ok(EventQuery {
        after,
        limit: limit(wish.limit.as_deref(), LIMIT_DEFAULT)?,
        user: user.transpose()?,
        since_ms: since_ms.transpose()?,
    })
}

fn number(text: &str, message: &'static str) -> Answer<u64> {
    text.parse().map_err(|_| ApiError::bad_message(message))
}
