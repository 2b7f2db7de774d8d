//! The audit trail of a room, for its owners and for operators.

use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use uuid::Uuid;

use super::App;
use super::answer;
use super::error::Answer;
use super::openapi::schemas;
use super::paging::{Page, next_cursor};
use super::path::{RoomParam, RoomPath};
use super::query::Query;
use super::rooms::PATIENCE;
use super::signed_in::SignedIn;
use crate::ids::RoomId;
use crate::protocol::ObjectWriter;
use crate::store::rooms::{NotePlace, Rooms, TrailNote};

/// The cursor is the place of the last note that was listed.
#[utoipa::path(
    get, path = "/v1/rooms/{room}/audit", tag = "rooms",
    summary = "The changes of members, access, invites and archive, the newest first; by owners",
    params(RoomParam, Page),
    responses((status = 200, description = "The newest first", body = schemas::Trail)),
)]
pub(super) async fn list(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    Query(page): Query<Page>,
) -> Answer<Response> {
    let room = app.access.managed(&claims, &room).await?;
    trail(&app.rooms, room, &page).await
}

pub(super) async fn trail(rooms: &Rooms, room: RoomId, page: &Page) -> Answer<Response> {
    let limit = page.limit()?;
    let before = page.after(place)?.unwrap_or(NotePlace::NEWEST);
    let (notes, more) = rooms.trail(room, before, limit, Instant::now() + PATIENCE).await?;
    let list = ObjectWriter::object(1024).array("items", notes.iter().map(note_json));
    let next = notes.last().filter(|_| more).map(|note| format!("{}.{}", note.place.at_us, note.place.id));
    Ok(answer::json(StatusCode::OK, next_cursor(list, next)))
}

fn place(cursor: &str) -> Option<NotePlace> {
    let (at_us, id) = cursor.split_once('.')?;
    let place = NotePlace { at_us: at_us.parse().ok()?, id: Uuid::parse_str(id).ok()? };
    (0..=NotePlace::NEWEST.at_us).contains(&place.at_us).then_some(place)
}

fn note_json(note: &TrailNote) -> String {
    let json = ObjectWriter::object(192)
        .number("at", note.place.at_us / 1000)
        .string("actor", &note.actor)
        .string("action", &note.action);
    // `room N`, then perhaps `user U` or `invite I`.
    match note.target.splitn(4, ' ').collect::<Vec<_>>()[..] {
        [_, _, "user", user] => json.string("user", user),
        [_, _, "invite", invite] => {
            json.maybe(invite.parse::<i64>().ok(), |json, id| json.number("invite", id))
        }
        _ => json,
    }
    .end()
}
