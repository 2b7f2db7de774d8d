//! `GET /chats/{roomId}` of the drawing app's first protocol: the live shapes
//! as the messages that drew them.
//!
//! The answer's position is stored before the answer is sent, so that the
//! client's join continues from it. Without a primary that stores it, the request
//! is refused: a join would silently miss events. The primary also answers the
//! read, because a client that has joined replaces its shapes with the answer: a
//! replica may lack an event that the socket has brought.

use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::App;
use super::answer;
use super::error::Answer;
use super::freshness::{Fresh, tell};
use super::legacy::{Token, claims};
use super::path::RoomPath;
use super::query::Query;
use super::rooms::PATIENCE;
use crate::log::app_shapes;
use crate::protocol::ObjectWriter;
use crate::routing::Freshness;

/// The newest ones, in the order of the log.
const MESSAGES_MAX: usize = 1000;

pub(super) async fn list(
    State(app): State<App>,
    RoomPath(room): RoomPath,
    Query(token): Query<Token>,
    headers: HeaderMap,
    Fresh(freshness): Fresh,
) -> Answer<Response> {
    let claims = claims(&app, &token, &headers)?;
    let room = app.access.readable(&claims, &room).await?;
    let deadline = Instant::now() + PATIENCE;
    let freshness = match freshness {
        Freshness::MaxStale(_) => Freshness::Primary,
        asked => asked,
    };
    let read = app.rooms.drawn(room, MESSAGES_MAX, freshness).await?;
    app.rooms.note_legacy_read(room, claims.reader_of(room), read.head, deadline).await?;
    let messages = read.shapes.iter().map(|drawn| {
        let shape = app_shapes::to_app(&drawn.json);
        ObjectWriter::object(shape.len() + 160)
            .number("id", drawn.seq.0)
            .number("roomId", room.get())
            .string("userId", drawn.user.as_str())
            .string("message", &ObjectWriter::object(shape.len() + 16).raw("shape", &shape).end())
            .number("createdAt", drawn.at.0)
            .end()
    });
    let text = ObjectWriter::object(4096).array("messages", messages).end();
    Ok(tell(answer::json(StatusCode::OK, text), Some(read.head), &read.served_by, read.fallback))
}
