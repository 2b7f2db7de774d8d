//! Tickets: for a browser's `EventSource`, which can set no headers.
//!
//! A ticket is a signed text that names the bearer for 30 s. Nothing is stored
//! when it is made; that it was used is a row of the directory. So it is used
//! once over all nodes, with Redis or without; while the directory is away it is
//! refused (503), and streams with a bearer header go on. In Redis it could be
//! used again after a failover, and on every node while Redis is away; and a
//! stored ticket would hold the bearer's name.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::App;
use super::answer;
use super::error::Answer;
use super::openapi::schemas;
use super::signed_in::SignedIn;
use crate::protocol::ObjectWriter;

#[utoipa::path(
    post, path = "/v1/tickets", tag = "service",
    summary = "A ticket that opens one live stream within 30 s, for who can set no headers",
    responses((status = 201, description = "The ticket", body = schemas::Ticket)),
)]
pub(super) async fn issue(State(app): State<App>, SignedIn(claims): SignedIn) -> Answer<Response> {
    let issued = app.signer.ticket(&claims)?;
    let ticket = ObjectWriter::object(512)
        .string("ticket", &issued.token)
        .number("expires_at", issued.expires_at.0)
        .end();
    Ok(answer::json(StatusCode::CREATED, ticket))
}
