//! The caller's sign-ins: listed, and ended one by one.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use utoipa::IntoParams;
use uuid::Uuid;

use super::App;
use super::answer;
use super::error::{Answer, ApiError};
use super::openapi::schemas;
use super::signed_in::SignedIn;
use crate::directory::SignIn;
use crate::protocol::{Code, ObjectWriter};

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes the path; the handler reads a text")]
pub(super) struct SignInParam {
    /// The id of a sign-in, from the list.
    #[param(format = "uuid")]
    sign_in: String,
}

#[utoipa::path(
    get, path = "/v1/me/sign-ins", tag = "people",
    summary = "The caller's sign-ins that have not ended, the last refreshed one first",
    responses((status = 200, description = "All of them, at most 1000; `next_cursor` is always null", body = schemas::SignIns)),
)]
pub(super) async fn list(State(app): State<App>, SignedIn(claims): SignedIn) -> Answer<Response> {
    let sign_ins = app.directory.sign_ins(&claims.user).await?;
    let items = sign_ins.iter().map(|sign_in| sign_in_json(sign_in, claims.login));
    let list = ObjectWriter::object(1024).array("items", items).raw("next_cursor", "null").end();
    Ok(answer::json(StatusCode::OK, list))
}

/// As a sign-out on that device.
#[utoipa::path(
    delete, path = "/v1/me/sign-ins/{sign_in}", tag = "people",
    summary = "Ends one of the caller's sign-ins: its tokens and its sessions",
    params(SignInParam),
    responses(
        (status = 204, description = "It has ended, now or before"),
        (status = 404, description = "not_found: the caller has no such sign-in", body = schemas::Refused),
    ),
)]
pub(super) async fn end(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    Path(sign_in): Path<String>,
) -> Answer<Response> {
    let unknown =
        || ApiError::new(Code::NotFound, "you have no such sign-in; GET /v1/me/sign-ins lists yours");
    let sign_in = Uuid::parse_str(&sign_in).map_err(|_| unknown())?;
    if !app.directory.end_sign_in(&claims.user, sign_in).await? {
        return Err(unknown());
    }
    app.bus.tell_revoked().await;
    tracing::info!(user = %claims.user, %sign_in, "sign-in ended by its user");
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn sign_in_json(sign_in: &SignIn, current: Option<Uuid>) -> String {
    let json = ObjectWriter::object(256)
        .string("id", &sign_in.id.to_string())
        .number("created_at", sign_in.created_at.0)
        .number("refreshed_at", sign_in.refreshed_at.0)
        .number("expires_at", sign_in.expires_at.0);
    let json = match &sign_in.agent {
        Some(agent) => json.string("agent", agent),
        None => json.raw("agent", "null"),
    };
    json.raw("current", if current == Some(sign_in.id) { "true" } else { "false" }).end()
}
