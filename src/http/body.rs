//! JSON bodies, read strictly: bounded, in time, no duplicate keys.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::http::{Method, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::App;
use super::content::Content;
use super::error::{Answer, ApiError};
use crate::protocol::{Code, strict};

const JSON_TYPES: &[&str] = &["application/json"];
/// Of a PATCH: here each takes a merge patch, which has a type of its own (RFC 7396).
const PATCH_TYPES: &[&str] = &["application/json", "application/merge-patch+json"];

/// Some editors begin a file with it. It is no part of the text.
pub(super) const BYTE_ORDER_MARK: &str = "\u{feff}";

/// A body that has not arrived by then is given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// For everything but batches of events.
const BODY_BYTES: usize = 64 * 1024;

/// How much of a body that is too large is read to no use, and how long a pause
/// in it is waited for.
const DISCARD_BYTES: usize = 4 << 20;
const DISCARD_PAUSE: Duration = Duration::from_millis(250);

/// A JSON object of at most 64 KiB as a `T`.
pub(super) struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let text = text(request, BODY_BYTES).await?;
        parse(&text, app.limits.configured().json_depth).map(Json)
    }
}

/// The same where a body is optional: an empty one is `{}`.
pub(super) struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let has_body = request.headers().contains_key(header::TRANSFER_ENCODING)
            || request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
        let text = if has_body { text(request, BODY_BYTES).await? } else { String::new() };
        let text = if text.is_empty() { "{}" } else { &text };
        parse(text, app.limits.configured().json_depth).map(OptionalJson)
    }
}

/// The body as text, if it is JSON by its header and has at most `most` bytes.
pub(super) async fn text(request: Request, most: usize) -> Answer<String> {
    let types = if request.method() == Method::PATCH { PATCH_TYPES } else { JSON_TYPES };
    check_content_type(request.headers(), types)?;
    let (head, body) = request.into_parts();
    let bytes = in_time(Content::of(&head.headers, body)?, most).await?;
    let text = String::from_utf8(bytes.into());
    let text = text.map_err(|_| ApiError::new(Code::BadJson, "the body is not UTF-8"))?;
    Ok(text.strip_prefix(BYTE_ORDER_MARK).map(str::to_owned).unwrap_or(text))
}

/// The request with its body read and decoded: at most 64 KiB of any type.
pub(super) async fn whole(request: Request) -> Answer<Request<Bytes>> {
    let (mut head, body) = request.into_parts();
    let bytes = in_time(Content::of(&head.headers, body)?, BODY_BYTES).await?;
    head.headers.remove(header::CONTENT_ENCODING);
    Ok(Request::from_parts(head, bytes))
}

async fn in_time(content: Content, most: usize) -> Answer<Bytes> {
    tokio::time::timeout(BODY_TIMEOUT, collect(content, most)).await.map_err(|_| late())?
}

pub(super) fn late() -> ApiError {
    ApiError::bad_message("the body took too long to arrive").with_status(StatusCode::REQUEST_TIMEOUT)
}

/// Reads `text` as an object; `depth` 0 means no limit.
pub(super) fn parse<T: DeserializeOwned>(text: &str, depth: usize) -> Answer<T> {
    let depth = if depth == 0 { usize::MAX } else { depth };
    let object = strict::object(text, depth)?;
    serde_json::from_value(Value::Object(object)).map_err(|error| ApiError::bad_message(error.to_string()))
}

async fn collect(mut content: Content, most: usize) -> Answer<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(data) = content.next().await? {
        if bytes.len() + data.len() > most {
            content.discard().await;
            return Err(ApiError::new(Code::TooLarge, format!("the body may have {most} bytes")));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// Reads on for a while: a connection that is closed with bytes unread is reset,
/// and the client would never see why it was refused.
pub(super) async fn discard(mut body: Body) {
    let mut discarded = 0;
    while discarded < DISCARD_BYTES
        && let Ok(Some(Ok(frame))) = tokio::time::timeout(DISCARD_PAUSE, body.frame()).await
    {
        discarded += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// The first of `wanted` is the one that is asked for.
pub(super) fn check_content_type(headers: &HeaderMap, wanted: &[&str]) -> Answer<()> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = declared.split(';').next().unwrap_or_default().trim();
    if wanted.iter().any(|wanted| media_type.eq_ignore_ascii_case(wanted)) {
        return Ok(());
    }
    let asked_for = wanted.first().copied().unwrap_or_default();
    let error = ApiError::bad_message(format!("send the body as Content-Type: {asked_for}"));
    Err(error.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}
