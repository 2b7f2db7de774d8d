//! The operators' listener: loopback by default, never behind the balancer.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::answer;
use super::error::{Answer, ApiError, method_not_allowed};
use super::health::{Probe, Watched};
use crate::directory::Directory;
use crate::ids::UserId;
use crate::metrics;
use crate::protocol::{Code, ObjectWriter};

/// The text format of Prometheus.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the operators' listener is built on.
#[derive(Clone)]
pub struct AdminParts {
    pub probe: Probe,
    pub watched: Watched,
    pub directory: Directory,
}

pub fn admin_router(parts: AdminParts) -> Router {
    Router::new()
        .route("/metrics", get(prometheus))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/health/detailed", get(detailed))
        .route("/admin/erasures/{user}", get(erasure))
        .fallback(async || ApiError::new(Code::NotFound, "there is nothing at this address"))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn(answer::finish))
        .with_state(parts)
}

async fn prometheus() -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], metrics::render()).into_response()
}

/// The process turns.
async fn live() -> Response {
    answer::json(StatusCode::OK, ObjectWriter::object(32).string("status", "ok").end())
}

async fn ready(State(parts): State<AdminParts>) -> Response {
    let facts = (parts.probe)();
    if facts.is_ready() {
        answer::json(StatusCode::OK, facts.json("ready"))
    } else {
        answer::json(StatusCode::SERVICE_UNAVAILABLE, facts.json("not ready"))
    }
}

/// Everything the node depends on. Always 200: whether to send users here is
/// `ready`'s to say.
async fn detailed(State(parts): State<AdminParts>) -> Response {
    axum::Json(parts.watched.look()).into_response()
}

/// How far the erasure of a person has come.
async fn erasure(State(parts): State<AdminParts>, Path(user): Path<String>) -> Answer<Response> {
    let unknown = || ApiError::new(Code::NotFound, "this person did not ask to be forgotten");
    let user = UserId::new(&user).map_err(|_| unknown())?;
    let found = parts.directory.erasure(&user).await?;
    let erasure = found.ok_or_else(unknown)?;
    let rooms = ObjectWriter::object(64)
        .number("transferred", erasure.transferred)
        .number("archived", erasure.archived)
        .end();
    let state = if erasure.done_at.is_some() { "done" } else { "under way" };
    let told = ObjectWriter::object(256)
        .string("user", user.as_str())
        .string("state", state)
        .number("asked_at", erasure.asked_at.0)
        .maybe(erasure.done_at, |told, at| told.number("done_at", at.0))
        .maybe(erasure.checked_at, |told, at| told.number("checked_at", at.0))
        .raw("rooms", &rooms)
        .end();
    Ok(answer::json(StatusCode::OK, told))
}
