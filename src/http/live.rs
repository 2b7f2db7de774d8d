//! A room's events as Server-Sent Events.

use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::address::{ClientAddress, charge_connection};
use super::error::{Answer, ApiError, method_not_allowed};
use super::openapi::schemas;
use super::path::{RoomParam, RoomPath};
use super::query::Query;
use super::signed_in::claims;
use super::takeover::TakeOver;
use crate::auth::Claims;
use crate::position::Position;
use crate::protocol::Code;
use crate::session::Wish;

const LAST_EVENT_ID: &str = "last-event-id";
/// nginx and those who follow it keep nothing back.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// From `POST /v1/tickets`, instead of a bearer.
    ticket: Option<String>,
    /// For the first connection of an `EventSource`, which can't set headers.
    #[param(pattern = r"^[0-9]{1,15}\.[0-9]{1,15}$")]
    last_event_id: Option<String>,
}

#[utoipa::path(
    get, path = "/v1/rooms/{room}/live", tag = "rooms",
    summary = "The room as Server-Sent Events: a snapshot, or with `Last-Event-ID` what came since, then all that comes",
    params(RoomParam, Asked, ("Last-Event-ID" = Option<String>, Header, description = "A position `epoch.seq`")),
    responses(
        (status = 200, description = "Event names are message types, ids positions", body = String, content_type = "text/event-stream"),
        (status = 429, description = "rate_limited", body = schemas::Refused),
    ),
)]
pub(super) async fn live(
    State(app): State<App>,
    ClientAddress(address): ClientAddress,
    RoomPath(room): RoomPath,
    Query(asked): Query<Asked>,
    request: Request,
) -> Answer<Response> {
    // A HEAD would open a stream that nobody reads.
    if request.method() != Method::GET {
        return Err(method_not_allowed().await);
    }
    let from = position(request.headers(), asked.last_event_id.as_deref())?;
    app.sessions.admit_stream(address)?;
    charge_connection(&app, request.extensions(), address)?;
    let claims = who(&app, request.headers(), asked.ticket.as_deref()).await?;
    let stream = app.sessions.open_stream(Wish { claims, room, from }).await?;
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Whoever compresses keeps back what it hasn't seen enough of.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    response.extensions_mut().insert(TakeOver::by(stream));
    Ok(response)
}

/// By the header, else by a ticket, which is spent with this.
async fn who(app: &App, headers: &HeaderMap, ticket: Option<&str>) -> Answer<Claims> {
    if let Some(claims) = claims(headers, &app.verifier)? {
        return Ok(claims);
    }
    let missing = "sign in: Authorization: Bearer, or ?ticket= from POST /v1/tickets, is missing";
    let ticket = ticket.ok_or_else(|| ApiError::new(Code::Unauthenticated, missing))?;
    let ticket = app.verifier.verify_ticket(ticket)?;
    let is_first = app.directory.spend_ticket(ticket.id, ticket.expires_at).await;
    if !is_first? {
        return Err(ApiError::new(Code::Unauthenticated, "this ticket was used; get another one"));
    }
    Ok(ticket.claims)
}

/// The browser's own header is newer than what the page wrote into the address.
fn position(headers: &HeaderMap, asked: Option<&str>) -> Answer<Option<Position>> {
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
    match header.filter(|text| !text.is_empty()).or(asked.filter(|text| !text.is_empty())) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(position) => Ok(Some(position)),
            Err(_) => Err(ApiError::bad_message("Last-Event-ID is written epoch.seq")),
        },
    }
}
