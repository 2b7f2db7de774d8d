//! A room's shapes, now or as they were, all pages at one seq.
//!
//! A page is read alone, by the order of ids. The cursor names the position, so every
//! node can go on with it: in the same way while the room has not changed, else from a
//! state that is made of a snapshot and the log and kept for the next page. `?seq=`
//! asks for such a state from the first page on.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use moka::future::Cache;
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::answer;
use super::charge::Held;
use super::error::{Answer, ApiError};
use super::freshness::{Fresh, FreshParams, tell};
use super::openapi::schemas;
use super::paging::{foreign_cursor, limit, next_cursor};
use super::path::{RoomParam, RoomPath};
use super::query::Query;
use super::signed_in::SignedIn;
use crate::clock::UnixMillis;
use crate::ids::RoomId;
use crate::memory::Reservation;
use crate::position::{Position, Seq};
use crate::protocol::{Code, ObjectWriter, Refusal};
use crate::routing::{Freshness, Reason, ServedBy};
use crate::store::PAGE_BYTES;
use crate::store::history::{ReadError, ShapeQuery, Snapshot, SnapshotShape};

const LIMIT_DEFAULT: usize = 500;

/// From one page to the request for the next.
const PINNED_FOR: Duration = Duration::from_secs(120);

/// Of encoded shapes, over all rooms; least recently used out.
const PINNED_BYTES: u64 = 64 << 20;

/// How many events are read for the state at a seq. Snapshots are nearer than
/// that, except while the job that makes them is behind.
const REPLAY_MAX: u64 = 10_000;

/// For a list that was begun, which is kept going even then.
const CONTINUE_MAX: u64 = 200_000;

/// States whose next page may be asked for, or that were asked for by seq.
pub(super) struct Pins {
    cache: Cache<(RoomId, Position), Arc<Snapshot>>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wish {
    /// Only shapes of this type.
    #[serde(rename = "type")]
    shape_type: Option<String>,
    /// The state as it was behind this event; the head's without it.
    #[param(value_type = Option<u64>, minimum = 0)]
    seq: Option<String>,
    cursor: Option<String>,
    /// At most 1000 are given.
    #[param(value_type = Option<u32>, minimum = 1, default = 500)]
    limit: Option<String>,
}

/// A page of a state, and the server that knew it.
struct Found {
    position: Position,
    page: Vec<SnapshotShape>,
    more: bool,
    served_by: ServedBy,
    fallback: Option<Reason>,
}

/// Where a list goes on.
struct Cursor {
    position: Position,
    issued_at: UnixMillis,
    /// The last shape that was given.
    after: String,
}

#[utoipa::path(
    get, path = "/v1/rooms/{room}/shapes", tag = "shapes",
    summary = "The live shapes, now or at a seq; all pages at one position",
    params(RoomParam, Wish, FreshParams),
    responses((status = 200, description = "By id", body = schemas::Shapes)),
)]
pub(super) async fn list(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    Query(wish): Query<Wish>,
    Fresh(freshness): Fresh,
    Extension(held): Extension<Held>,
) -> Answer<Response> {
    let limit = limit(wish.limit.as_deref(), LIMIT_DEFAULT)?;
    let cursor = wish.cursor.as_deref().map(Cursor::parse).transpose()?;
    let room = app.access.readable(&claims, &room).await?;
    let query = ShapeQuery {
        after: cursor.as_ref().map_or("", |cursor| cursor.after.as_str()),
        shape_type: wish.shape_type.as_deref(),
        limit,
    };
    let mut held = held.0.lock().await;
    let found = match (&cursor, wish.seq.as_deref()) {
        (Some(cursor), _) => next(&app, room, &query, cursor.position, &mut held).await?,
        (None, Some(seq)) => then(&app, room, &query, seq, freshness, &mut held).await?,
        (None, None) => stored(&app, room, &query, freshness).await?,
    };
    let Found { position, page, more, served_by, fallback } = found;
    let list = ObjectWriter::object(4096)
        .number("epoch", position.epoch.0)
        .number("seq", position.seq.0)
        .array("items", page.iter().map(|shape| shape.json.as_str()));
    let next = page
        .last()
        .filter(|_| more)
        .map(|shape| Cursor { position, issued_at: UnixMillis::now(), after: shape.id.clone() }.text());
    Ok(tell(answer::json(StatusCode::OK, next_cursor(list, next)), Some(position), &served_by, fallback))
}

impl Pins {
    pub fn new() -> Self {
        let bytes =
            |snapshot: &Snapshot| snapshot.shapes.iter().map(|shape| shape.json.len() + 128).sum::<usize>();
        let cache = Cache::builder()
            .weigher(move |_, snapshot: &Arc<Snapshot>| u32::try_from(bytes(snapshot)).unwrap_or(u32::MAX))
            .max_capacity(PINNED_BYTES)
            .time_to_idle(PINNED_FOR)
            .build();
        Self { cache }
    }
}

/// The page of a state in memory.
fn page(snapshot: &Snapshot, query: &ShapeQuery<'_>) -> (Vec<SnapshotShape>, bool) {
    let begin = snapshot.shapes.partition_point(|shape| shape.id.as_str() <= query.after);
    let is_wanted = |shape: &&SnapshotShape| {
        query.shape_type.is_none() || shape.shape_type.as_deref() == query.shape_type
    };
    let mut wanted = snapshot.shapes[begin..].iter().filter(is_wanted);
    let (mut page, mut bytes) = (Vec::new(), 0);
    while page.len() < query.limit && bytes < PAGE_BYTES {
        let Some(shape) = wanted.next() else { return (page, false) };
        bytes += shape.json.len();
        page.push(shape.clone());
    }
    (page, wanted.next().is_some())
}

/// The page as it is now; only it is read.
async fn stored(app: &App, room: RoomId, query: &ShapeQuery<'_>, freshness: Freshness) -> Answer<Found> {
    let read = app.history.shapes(room, query, freshness).await?;
    let (Snapshot { position, shapes: page }, more) = read.value;
    Ok(Found { position, page, more, served_by: read.served_by, fallback: read.fallback })
}

/// The page of the cursor's list: as it is now if the room has not changed, else of the
/// state at the cursor's position.
async fn next(
    app: &App,
    room: RoomId,
    query: &ShapeQuery<'_>,
    position: Position,
    held: &mut Reservation,
) -> Answer<Found> {
    if app.pins.cache.get(&(room, position)).await.is_none() {
        let now = app.history.shapes(room, query, Freshness::AtLeast(position)).await;
        let now = now.map_err(expired_if_lost)?;
        if now.head == position {
            let (Snapshot { shapes: page, .. }, more) = now.value;
            return Ok(Found { position, page, more, served_by: now.served_by, fallback: now.fallback });
        }
    }
    let freshness = Freshness::MaxStale(app.max_stale);
    let state = state_at(app, room, position, CONTINUE_MAX, freshness, held).await;
    let state = state.map_err(|error| expired_if_lost((*error).clone()))?;
    let (page, more) = page(&state, query);
    Ok(Found { position, page, more, served_by: ServedBy::Memory, fallback: None })
}

/// The list ends if its position, or the beginning of the log, is gone.
fn expired_if_lost(error: ReadError) -> Refusal {
    match error {
        ReadError::Lost(_) | ReadError::NotPrepared(_) => expired(),
        other => other.refusal(),
    }
}

/// The page of the state as it was.
async fn then(
    app: &App,
    room: RoomId,
    query: &ShapeQuery<'_>,
    seq: &str,
    freshness: Freshness,
    held: &mut Reservation,
) -> Answer<Found> {
    let bad = |_| ApiError::bad_message("seq is an integer of 0 or more");
    let seq = Seq(seq.parse().map_err(bad)?);
    let read = app.history.position_of(room, seq, freshness).await?;
    let position = read.value;
    let state = state_at(app, room, position, REPLAY_MAX, freshness, held).await;
    let state = state.map_err(|error| error.refusal())?;
    let (page, more) = page(&state, query);
    Ok(Found { position, page, more, served_by: read.served_by, fallback: read.fallback })
}

/// The state at a position, made once for all who ask for it at a time.
async fn state_at(
    app: &App,
    room: RoomId,
    position: Position,
    most: u64,
    freshness: Freshness,
    held: &mut Reservation,
) -> Result<Arc<Snapshot>, Arc<ReadError>> {
    let made = async { app.history.state_at(room, position, most, freshness, held).await.map(Arc::new) };
    app.pins.cache.try_get_with((room, position), made).await
}

fn expired() -> Refusal {
    Refusal::new(Code::CursorExpired, "this list can't be continued; begin anew")
}

/// What is read prints as something that is read alike.
#[cfg(fuzzing)]
pub fn fuzz_cursor(text: &str) {
    if let Some(cursor) = Cursor::read(text) {
        let again = Cursor::read(&cursor.text()).expect("its own text");
        assert_eq!(
            (again.position, again.issued_at, &again.after),
            (cursor.position, cursor.issued_at, &cursor.after)
        );
    }
}

impl Cursor {
    /// `epoch.seq.issued.hex(after)`: it opens nothing that its holder may not
    /// read anyway, so it needs no signature.
    fn text(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("{}.{}.", self.position, self.issued_at);
        for byte in self.after.bytes() {
            write!(text, "{byte:02x}").expect("writing to a String can't fail");
        }
        text
    }

    fn parse(text: &str) -> Answer<Self> {
        let cursor = Self::read(text).ok_or_else(foreign_cursor)?;
        let age = UnixMillis::now().0.saturating_sub(cursor.issued_at.0);
        if u128::from(age.unsigned_abs()) > PINNED_FOR.as_millis() {
            return Err(expired().into());
        }
        Ok(cursor)
    }

    fn read(text: &str) -> Option<Self> {
        let (rest, after) = text.rsplit_once('.')?;
        let (position, issued_at) = rest.rsplit_once('.')?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> = after
            .as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            })
            .collect();
        Some(Self {
            position: position.parse().ok()?,
            issued_at: UnixMillis(issued_at.parse().ok()?),
            after: String::from_utf8(bytes?).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Seq};

    fn snapshot(count: usize) -> Snapshot {
        let shape = |i: usize| SnapshotShape {
            id: format!("s{i:03}"),
            shape_type: Some(if i.is_multiple_of(3) { "rect" } else { "text" }.to_owned()),
            json: format!("{{\"version\":1,\"shape\":{{\"id\":\"s{i:03}\"}}}}"),
        };
        Snapshot { position: Position::new(Epoch(1), Seq(9)), shapes: (0..count).map(shape).collect() }
    }

    fn walk(snapshot: &Snapshot, shape_type: Option<&str>, limit: usize) -> Vec<String> {
        let (mut ids, mut after) = (Vec::new(), String::new());
        loop {
            let (shapes, more) = page(snapshot, &ShapeQuery { after: &after, shape_type, limit });
            ids.extend(shapes.iter().map(|shape| shape.id.clone()));
            if !more {
                return ids;
            }
            after = shapes.last().map(|shape| shape.id.clone()).unwrap_or_default();
        }
    }

    #[test]
    fn pages_hold_every_shape_once() {
        for count in [0, 1, 9, 10, 11, 100] {
            let snapshot = snapshot(count);
            for limit in [1, 10, 1000] {
                assert_eq!(walk(&snapshot, None, limit).len(), count);
                assert_eq!(walk(&snapshot, Some("rect"), limit).len(), count.div_ceil(3));
            }
        }
    }

    #[test]
    fn a_cursor_comes_back_as_it_went_out_and_expires() {
        let position = Position::new(Epoch(1_700_000_000_000), Seq(12));
        let cursor = Cursor { position, issued_at: UnixMillis::now(), after: "ü.1 \"x\"".to_owned() };
        let read = Cursor::parse(&cursor.text()).unwrap_or_else(|error| panic!("{:?}", error.refusal));
        assert_eq!((read.position, read.after.as_str()), (position, "ü.1 \"x\""));
        let old = Cursor { issued_at: UnixMillis(cursor.issued_at.0 - 121_000), ..cursor };
        assert_eq!(Cursor::parse(&old.text()).err().unwrap().refusal.code, Code::CursorExpired);
        for text in ["", "1.2", "1.2.3.zz", "1.2.3.a", "a.b.c.d", "1.2.3.ff"] {
            assert_eq!(Cursor::parse(text).err().unwrap().refusal.code, Code::BadMessage, "{text}");
        }
    }
}
