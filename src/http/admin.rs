//! The operators' listener: loopback by default, never behind the balancer.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::answer;
use super::audit;
use super::error::{Answer, ApiError, method_not_allowed};
use super::health::{Probe, Watched};
use super::paging::Page;
use super::query::Query;
use crate::auth::HostPort;
use crate::directory::Directory;
use crate::ids::{RoomId, UserId};
use crate::metrics;
use crate::protocol::{Code, ObjectWriter};
use crate::store::rooms::Rooms;

/// The text format of Prometheus.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the operators' listener is built on.
#[derive(Clone)]
pub struct AdminParts {
    pub probe: Probe,
    pub watched: Watched,
    pub directory: Directory,
    pub rooms: Rooms,
    /// `listen.admin_hosts`.
    pub hosts: Arc<[String]>,
}

pub fn admin_router(parts: AdminParts) -> Router {
    Router::new()
        .route("/metrics", get(prometheus))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/health/detailed", get(detailed))
        .route("/admin/erasures/{user}", get(erasure))
        .route("/admin/rooms/{room}/audit", get(trail))
        .fallback(async || ApiError::new(Code::NotFound, "there is nothing at this address"))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(parts.hosts.clone(), check_host))
        .layer(axum::middleware::from_fn(answer::finish))
        .with_state(parts)
}

/// A page in an operator's browser may have made its own name point here (DNS
/// rebinding). It can't have done so with an address, nor with a name without a
/// dot, which nobody can register.
async fn check_host(State(hosts): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| HostPort::parse(host.as_bytes()));
    if host.as_ref().is_none_or(|host| is_ours(&host.host, &hosts)) {
        return next.run(request).await;
    }
    let text = "the operators' listener is not known by this name: add it to listen.admin_hosts";
    ApiError::new(Code::Forbidden, text).into_response()
}

fn is_ours(host: &str, names: &[String]) -> bool {
    let is_address = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
    is_address || !host.contains('.') || names.iter().any(|name| name.eq_ignore_ascii_case(host))
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

/// As the room's owners read it; also of a room that was deleted.
async fn trail(
    State(parts): State<AdminParts>,
    Path(room): Path<String>,
    Query(page): Query<Page>,
) -> Answer<Response> {
    let id = room.parse().ok().and_then(|id| RoomId::new(id).ok());
    let id = id.ok_or_else(|| ApiError::bad_message("operators name a room by its id"))?;
    audit::trail(&parts.rooms, id, &page).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_nobody_can_register_reaches_operators_routes() {
        let names = ["node-1.roomgate.svc".to_owned()];
        for host in ["127.0.0.1", "10.0.0.5", "[::1]", "localhost", "node-1", "NODE-1.roomgate.svc"] {
            assert!(is_ours(host, &names), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "node-1.roomgate.svc.evil.example", "1.2.3"] {
            assert!(!is_ours(host, &names), "{host}");
        }
    }
}
