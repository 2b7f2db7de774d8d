//! Which refusals an operation may answer with, by what it takes.

use axum::http::StatusCode;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};

use super::takes;

pub(super) fn add(path: &str, operation: &mut Operation) {
    let is_public = operation.security.as_ref().is_some_and(|security| security.iter().any(is_nothing));
    let is_room = path.contains("{room}");
    let changes = operation.request_body.is_some();
    let rules: [(bool, u16, &str); 12] = [
        (true, 400, "bad_json, bad_message: the request is malformed"),
        (!is_public, 401, "unauthenticated, token_expired: no valid token was shown"),
        (!is_public, 403, "forbidden, password_required, bad_password"),
        (is_room, 404, "room_unknown, not_found"),
        (changes, 408, "bad_message: the body took too long to arrive"),
        (takes(operation, "min_seq"), 409, "position_lost, ahead_of_log: of `min_seq`"),
        (takes(operation, "Idempotency-Key"), 409, "idempotency_mismatch, or a conflict with what there is"),
        (is_room, 410, "room_archived, below_retention, cursor_expired"),
        (changes, 413, "too_large"),
        (
            changes,
            415,
            "bad_message: send JSON as application/json, lines as application/x-ndjson, either plain or in gzip",
        ),
        (changes, 422, "too_deep, invalid_shape"),
        (true, 503, "read_only, shard_unavailable, overloaded, unavailable: try again"),
    ];
    for (_, status, about) in rules.into_iter().filter(|(applies, _, _)| *applies) {
        refusal(operation, status, about);
    }
    if changes {
        refusal(operation, 429, "rate_limited");
    }
}

/// `security(())`: a token is not needed.
fn is_nothing(requirement: &utoipa::openapi::security::SecurityRequirement) -> bool {
    serde_json::to_value(requirement)
        .is_ok_and(|value| value.as_object().is_some_and(serde_json::Map::is_empty))
}

/// What the handler says itself stands.
fn refusal(operation: &mut Operation, status: u16, about: &str) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Refused"))).build();
    let mut response = ResponseBuilder::new().description(about).content("application/json", content);
    let waits = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    if waits.iter().any(|wait| wait.as_u16() == status) {
        let seconds = utoipa::openapi::Object::with_type(utoipa::openapi::Type::Integer);
        let header = utoipa::openapi::header::HeaderBuilder::new()
            .schema(seconds)
            .description(Some("Seconds until trying again makes sense."))
            .build();
        response = response.header("Retry-After", header);
    }
    operation.responses.responses.entry(status.to_string()).or_insert_with(|| response.build().into());
}
