//! What every answer has: a request id, a bound on its time, its metrics, and
//! for refusals one form of body.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;

use super::error::{Answer, ApiError};
use super::held::hold;
use super::page::Asset;
use super::{freshness, idempotency, import};
use crate::auth::HostPort;
use crate::metrics;
use crate::protocol::{Code, ObjectWriter, Refusal};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const POSITION: HeaderName = HeaderName::from_static("roomgate-position");
pub(super) const SERVED_BY: HeaderName = HeaderName::from_static("roomgate-served-by");
pub(super) const FALLBACK: HeaderName = HeaderName::from_static("roomgate-fallback");

/// No request but an import takes longer; its parts have shorter bounds of their own.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// When a refusal doesn't say when to try again.
const RETRY_AFTER_MS: u64 = 1_000;

/// Headers that pages of other origins may read.
pub(super) fn exposed() -> [HeaderName; 5] {
    [REQUEST_ID, POSITION, SERVED_BY, FALLBACK, header::RETRY_AFTER]
}

/// Headers that pages of other origins may send. `*` stands for every other header
/// but `Authorization`, which a browser wants to see by name (Fetch, 3.3.3).
pub(super) fn accepted() -> [HeaderName; 10] {
    [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::ACCEPT,
        header::IF_NONE_MATCH,
        HeaderName::from_static(idempotency::HEADER),
        HeaderName::from_static("last-event-id"),
        HeaderName::from_static(freshness::MIN_SEQ),
        REQUEST_ID,
        HeaderName::from_static("*"),
    ]
}

/// A JSON body.
pub(super) fn json(status: StatusCode, text: String) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, content_type)], text).into_response()
}

/// The outermost layer.
pub(super) async fn finish(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let id = request_id(request.headers());
    let is_import = route.as_ref().is_some_and(|route| route.as_str() == import::ROUTE);
    let limit = if is_import { import::TIME_LIMIT } else { TIME_LIMIT };
    // What is logged of the request, wherever it happens, says which one it was.
    let route_text = route.as_ref().map_or("none", MatchedPath::as_str);
    let span = tracing::info_span!("request", request_id = id.to_str().ok(), %method, route = route_text);
    let host = check_host(&request);
    let work = async {
        match host {
            Ok(()) => next.run(request).await,
            Err(error) => error.into_response(),
        }
    };
    let mut response = run(work, limit).instrument(span).await;

    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        metrics::gateway::rejected(refusal.code);
        if refusal.code == Code::RateLimited {
            metrics::gateway::rate_limited("http");
        }
        refuse(&mut response, &refusal, &id);
    }
    let is_asset = response.extensions().get::<Asset>().is_some();
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let route = route.as_ref().map_or(if is_asset { "/{asset}" } else { "none" }, MatchedPath::as_str);
    metrics::http::request_done(method.as_str(), route, response.status().as_u16(), started.elapsed());
    hold(response)
}

/// RFC 9112, 3.2: two readers of one request must not see two hosts.
fn check_host(request: &Request) -> Answer<()> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, None) if request.version() < Version::HTTP_11 => Ok(()),
        (Some(host), None) if host.is_empty() || HostPort::parse(host.as_bytes()).is_some() => Ok(()),
        _ => Err(ApiError::bad_message("a request has one header Host, which is written host:port")),
    }
}

/// Neither a panic nor an endless wait goes unanswered.
async fn run(work: impl Future<Output = Response>, limit: Duration) -> Response {
    match tokio::time::timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!("a request's handler panicked");
            ApiError::new(Code::Internal, "something is wrong here; the operators know").into_response()
        }
        Err(_) => ApiError::new(Code::Unavailable, "this took too long; try again").into_response(),
    }
}

/// The client's, if it is one, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let valid = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=128).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(b))
    };
    headers.get(REQUEST_ID).filter(valid).cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::now_v7().simple().to_string();
        HeaderValue::from_str(&id).expect("hex is a header value")
    })
}

fn refuse(response: &mut Response, refusal: &Refusal, id: &HeaderValue) {
    let error = ObjectWriter::object(128)
        .string("code", refusal.code.as_str())
        .string("message", &refusal.message)
        .string("request_id", id.to_str().unwrap_or_default())
        .end();
    *response.body_mut() = Body::from(ObjectWriter::object(160).raw("error", &error).end());
    let status = response.status();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let seconds = refusal.retry_after_ms.unwrap_or(RETRY_AFTER_MS).div_ceil(1000).max(1);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}
