//! The way to a WebSocket.

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::response::{IntoResponse, Response};

use super::address::{ClientAddress, charge_connection};
use super::error::ApiError;
use super::openapi::schemas;
use super::{App, page};
use crate::session::Sessions;

#[utoipa::path(
    get, path = "/v1/ws", tag = "service",
    summary = "A WebSocket of the subprotocol `roomgate.v1`",
    security(()),
    responses(
        (status = 101, description = "Upgraded"),
        (status = 403, description = "forbidden: a foreign Origin", body = schemas::Refused),
        (status = 426, description = "bad_message: Sec-WebSocket-Version must be 13", body = schemas::Refused),
        (status = 429, description = "rate_limited", body = schemas::Refused),
    ),
)]
pub(super) async fn upgrade(State(app): State<App>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let from = match ClientAddress::from_request_parts(&mut parts, &app).await {
        Ok(ClientAddress(from)) => from,
        Err(never) => match never {},
    };
    let mut request = Request::from_parts(parts, body);
    if let Err(refusal) = charge_connection(&app, request.extensions(), from) {
        return ApiError::from(refusal).into_response();
    }
    match app.sessions.upgrade(&mut request, from) {
        Ok(response) => response.map(|()| Body::empty()),
        Err(refused) => ApiError::from(refused.refusal).with_status(refused.status).into_response(),
    }
}

/// `/` is the page to a browser's navigation and a socket to its WebSocket.
pub(super) async fn upgrade_or_page(app: State<App>, request: Request) -> Response {
    if Sessions::is_upgrade(request.headers()) {
        upgrade(app, request).await
    } else {
        page::asset(request).await
    }
}
