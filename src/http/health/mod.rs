//! Whether the node can serve, and what is wrong if something is.

mod detail;
mod levels;
mod thresholds;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

pub use detail::Watched;

use super::openapi::schemas;
use super::{App, answer};
use crate::protocol::ObjectWriter;

/// What is known just now; from memory, never by asking a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The node is being stopped.
    pub draining: bool,
    /// It has learned which shard owns which slot.
    pub slots_known: bool,
    /// The directory's primary can be reached.
    pub directory: bool,
    pub shards: usize,
    /// Shards with a primary.
    pub writable_shards: usize,
    /// This node's clock is further from the databases' than tokens tolerate.
    pub clock_wrong: bool,
}

/// Where the facts come from.
pub type Probe = Arc<dyn Fn() -> Facts + Send + Sync>;

impl Facts {
    /// The directory is not asked for: rooms are served without it. A node with a
    /// wrong clock would refuse every token.
    pub fn is_ready(self) -> bool {
        !self.draining && !self.clock_wrong && self.slots_known && self.writable_shards > 0
    }

    pub(super) fn json(self, status: &str) -> String {
        ObjectWriter::object(160)
            .string("status", status)
            .boolean("draining", self.draining)
            .boolean("slots_known", self.slots_known)
            .boolean("directory", self.directory)
            .number("shards", self.shards as u64)
            .number("writable_shards", self.writable_shards as u64)
            .boolean("clock_wrong", self.clock_wrong)
            .end()
    }
}

/// `GET /health`: for everybody, so it says little.
#[utoipa::path(
    get, path = "/health", tag = "service",
    summary = "Whether the service can serve",
    security(()),
    responses(
        (status = 200, description = "It can, perhaps in part", body = schemas::Health),
        (status = 503, description = "It can not", body = schemas::Health),
    ),
)]
pub(super) async fn public(State(app): State<App>) -> Response {
    let facts = (app.probe)();
    let all_up = facts.directory && facts.writable_shards == facts.shards;
    let database = if all_up {
        "ok"
    } else if facts.writable_shards > 0 {
        "degraded"
    } else {
        "down"
    };
    let (status, text) = match (facts.is_ready(), all_up) {
        (true, true) => (StatusCode::OK, "ok"),
        (true, false) => (StatusCode::OK, "degraded"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    answer::json(status, ObjectWriter::object(64).string("status", text).string("database", database).end())
}
