//! The operators' listener: loopback by default, never behind the balancer.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::answer;
use super::error::method_not_allowed;
use super::health::Probe;
use crate::metrics;
use crate::protocol::{Code, ObjectWriter};

/// The text format of Prometheus.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn admin_router(probe: Probe) -> Router {
    Router::new()
        .route("/metrics", get(prometheus))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .fallback(async || super::error::ApiError::new(Code::NotFound, "there is nothing at this address"))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn(answer::finish))
        .with_state(probe)
}

async fn prometheus() -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], metrics::render()).into_response()
}

/// The process turns.
async fn live() -> Response {
    answer::json(StatusCode::OK, ObjectWriter::object(32).string("status", "ok").end())
}

async fn ready(State(probe): State<Probe>) -> Response {
    let facts = probe();
    if facts.is_ready() {
        answer::json(StatusCode::OK, facts.json("ready"))
    } else {
        answer::json(StatusCode::SERVICE_UNAVAILABLE, facts.json("not ready"))
    }
}
