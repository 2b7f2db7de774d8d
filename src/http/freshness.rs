//! How new the answer to a read must be, and where it came from.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::HeaderValue;
use axum::http::request::Parts;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::answer::{FALLBACK, POSITION, SERVED_BY};
use super::error::{Answer, ApiError};
use super::query::Query;
use crate::position::Position;
use crate::routing::{Freshness, Reason, ServedBy};

pub(super) const MIN_SEQ: &str = "roomgate-min-seq";

/// What the reader asked for; the node's default if nothing.
pub(super) struct Fresh(pub Freshness);

#[derive(Deserialize)]
struct Asked {
    min_seq: Option<String>,
    max_stale_ms: Option<String>,
    freshness: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `Fresh` reads")]
pub(super) struct FreshParams {
    /// A position `epoch.seq` that the answer must contain; also as the header `Roomgate-Min-Seq`.
    #[param(pattern = r"^[0-9]{1,15}\.[0-9]{1,15}$")]
    min_seq: Option<String>,
    /// How old the answer may be; 0 is the primary's.
    #[param(minimum = 0)]
    max_stale_ms: Option<u64>,
    /// Only `primary`.
    #[param(pattern = "^primary$")]
    freshness: Option<String>,
}

impl FromRequestParts<App> for Fresh {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Query(asked) = Query::<Asked>::from_request_parts(parts, app).await?;
        let header = parts.headers.get(MIN_SEQ).map(|value| value.to_str().unwrap_or_default());
        choose(&asked, header, app.max_stale).map(Self)
    }
}

/// The strictest wish counts.
fn choose(asked: &Asked, header: Option<&str>, default: Duration) -> Answer<Freshness> {
    let position = asked.min_seq.as_deref().or(header).map(|text| {
        let position = text.parse::<Position>();
        position.map_err(|_| bad("min_seq is written epoch.seq"))
    });
    let position = position.transpose()?;
    let max_stale = asked.max_stale_ms.as_deref().map(|text| {
        let ms = text.parse::<u64>().map(Duration::from_millis);
        ms.map_err(|_| bad("max_stale_ms is an integer of 0 or more"))
    });
    let max_stale = max_stale.transpose()?;
    match asked.freshness.as_deref() {
        Some("primary") => return Ok(Freshness::Primary),
        None => {}
        Some(_) => return Err(bad("freshness may be primary")),
    }
    Ok(match (position, max_stale) {
        (Some(position), _) => Freshness::AtLeast(position),
        (None, Some(Duration::ZERO)) => Freshness::Primary,
        (None, Some(bound)) => Freshness::MaxStale(bound),
        (None, None) => Freshness::MaxStale(default),
    })
}

/// Says in the headers what was read.
pub(super) fn tell(
    mut response: Response,
    position: Option<Position>,
    served_by: &ServedBy,
    fallback: Option<Reason>,
) -> Response {
    let headers = response.headers_mut();
    let mut insert = |name, text: &str| {
        // Endpoint names come from the configuration and may hold anything.
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    if let Some(position) = position {
        insert(POSITION, &position.to_string());
    }
    insert(SERVED_BY, &served_by.to_string());
    if let Some(reason) = fallback {
        insert(FALLBACK, reason.as_str());
    }
    response
}

fn bad(message: &'static str) -> ApiError {
    ApiError::bad_message(message)
}
