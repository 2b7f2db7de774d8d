//! The whiteboard's files, built into the binary.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::error::{ApiError, method_not_allowed};
use crate::protocol::Code;

#[derive(RustEmbed)]
#[folder = "web/"]
struct Files;

/// Marks an answer that is one of the page's files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asset;

/// The page talks to where it came from and to nobody else, and runs no code
/// but its own files.
const SECURITY: &[(HeaderName, &str)] = &[
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
         font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Asked for again every time, and not sent again while it is the same.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The file of the path; `/` is `index.html`.
pub(super) async fn asset(request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    let Some(file) = Files::get(path) else {
        return ApiError::new(Code::NotFound, "there is nothing at this address").into_response();
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return method_not_allowed().await.into_response();
    }
    serve(path, &file, request.headers())
}

fn serve(path: &str, file: &EmbeddedFile, asked: &HeaderMap) -> Response {
    let etag = etag(file);
    let known = asked.get(header::IF_NONE_MATCH).is_some_and(|value| is_known(value, &etag));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let content_type = HeaderValue::from_static(content_type(path));
        ([(header::CONTENT_TYPE, content_type)], Body::from(file.data.clone().into_owned())).into_response()
    };
    response.extensions_mut().insert(Asset);
    let headers = response.headers_mut();
    headers.insert(header::ETAG, HeaderValue::from_str(&etag).expect("quoted hex is a header value"));
    for (name, value) in SECURITY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn etag(file: &EmbeddedFile) -> String {
    let digest = file.metadata.sha256_hash();
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

fn is_known(asked: &HeaderValue, etag: &str) -> bool {
    let tags = asked.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.map(|tag| tag.trim_start_matches("W/")).any(|tag| tag == etag || tag == "*")
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("json") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}
