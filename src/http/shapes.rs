//! A room's shapes, all pages at one seq.
//!
//! The cursor names the position, so every node can go on with it: from the
//! pinned snapshot where it was read, elsewhere from the room's state if that
//! has not moved, else by folding the log up to there.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use moka::future::Cache;
use serde::Deserialize;

use super::App;
use super::answer;
use super::error::{Answer, ApiError};
use super::freshness::{Fresh, tell};
use super::rooms::{RoomPath, limit, next_cursor};
use super::signed_in::SignedIn;
use crate::clock::UnixMillis;
use crate::ids::RoomId;
use crate::log::Fold;
use crate::position::Position;
use crate::protocol::{Code, ObjectWriter, Refusal, server};
use crate::routing::{Freshness, ServedBy};
use crate::store::history::{ReadError, Snapshot, SnapshotShape};

const PAGE_DEFAULT: usize = 500;

/// A page ends early rather than grow beyond this.
const PAGE_BYTES: usize = 4 << 20;

/// From one page to the request for the next.
const PINNED_FOR: Duration = Duration::from_secs(120);

/// Of encoded shapes, over all rooms; least recently used out.
const PINNED_BYTES: u64 = 64 << 20;

/// A longer log is not folded for a page of an old state.
const FOLD_MAX: u64 = 200_000;

/// Snapshots whose next page may be asked for.
pub(super) struct Pins {
    cache: Cache<(RoomId, Position), Arc<Snapshot>>,
}

#[derive(Deserialize)]
pub(super) struct Wish {
    #[serde(rename = "type")]
    shape_type: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// Where a list goes on.
struct Cursor {
    position: Position,
    issued_at: UnixMillis,
    /// The last shape that was given.
    after: String,
}

pub(super) async fn list(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    Query(wish): Query<Wish>,
    Fresh(freshness): Fresh,
) -> Answer<Response> {
    let limit = limit(wish.limit.as_deref(), PAGE_DEFAULT)?;
    let cursor = wish.cursor.as_deref().map(Cursor::parse).transpose()?;
    let room = app.access.readable(&claims, &room).await?;
    let (snapshot, served_by, fallback) = match &cursor {
        Some(cursor) => (pinned(&app, room, cursor.position).await?, ServedBy::Memory, None),
        None => {
            let read = app.history.snapshot(room, freshness).await.map_err(|error| error.refusal())?;
            (Arc::new(read.value), read.served_by, read.fallback)
        }
    };
    let after = cursor.as_ref().map(|cursor| cursor.after.as_str());
    let (page, last) = page(&snapshot, wish.shape_type.as_deref(), after, limit);
    let list = ObjectWriter::object(4096)
        .number("epoch", snapshot.position.epoch.0)
        .number("seq", snapshot.position.seq.0)
        .array("items", page.iter().map(|shape| shape.json.as_str()));
    let next = page.last().filter(|_| !last).map(|shape| {
        Cursor { position: snapshot.position, issued_at: UnixMillis::now(), after: shape.id.clone() }.text()
    });
    let position = snapshot.position;
    let text = next_cursor(list, next.clone());
    if next.is_some() {
        app.pins.cache.insert((room, position), snapshot).await;
    }
    Ok(tell(answer::json(StatusCode::OK, text), Some(position), &served_by, fallback))
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

/// The shapes after `after`, of one type if it is given, and whether there are
/// no more of them.
fn page<'a>(
    snapshot: &'a Snapshot,
    shape_type: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> (Vec<&'a SnapshotShape>, bool) {
    let begin = after.map_or(0, |after| snapshot.shapes.partition_point(|shape| shape.id.as_str() <= after));
    let mut wanted = snapshot.shapes[begin..]
        .iter()
        .filter(|shape| shape_type.is_none() || shape.shape_type.as_deref() == shape_type);
    let (mut page, mut bytes) = (Vec::new(), 0);
    while page.len() < limit && bytes < PAGE_BYTES {
        let Some(shape) = wanted.next() else { return (page, true) };
        bytes += shape.json.len();
        page.push(shape);
    }
    let last = wanted.next().is_none();
    (page, last)
}

/// The state at `position`, once for all who ask for it at a time.
async fn pinned(app: &App, room: RoomId, position: Position) -> Answer<Arc<Snapshot>> {
    let made = app.pins.cache.try_get_with((room, position), rebuild(app, room, position)).await;
    made.map_err(|refusal| Refusal::clone(&refusal).into())
}

async fn rebuild(app: &App, room: RoomId, position: Position) -> Result<Arc<Snapshot>, Refusal> {
    let freshness = Freshness::AtLeast(position);
    let now = app.history.snapshot(room, freshness).await.map_err(gone)?.value;
    if now.position == position {
        return Ok(Arc::new(now));
    }
    if position.seq.0 > FOLD_MAX {
        return Err(expired());
    }
    let mut fold = Fold::default();
    while fold.head.seq < position.seq {
        let events = app.history.log(room, fold.head.seq, freshness).await.map_err(gone)?.value;
        let before = fold.head.seq;
        for event in events.iter().take_while(|event| event.position.seq <= position.seq) {
            fold.apply(event).map_err(|error| {
                tracing::error!(%room, %error, "the log can't be folded");
                Refusal::new(Code::Internal, "the room's log can't be read")
            })?;
        }
        if fold.head.seq == before {
            return Err(expired());
        }
    }
    let shapes = fold.live().map(|(id, version, data)| SnapshotShape {
        id: id.as_str().to_owned(),
        shape_type: data.shape_type.as_deref().map(str::to_owned),
        json: server::shape_item(version, &data.json),
    });
    let mut shapes: Vec<SnapshotShape> = shapes.collect();
    shapes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Ok(Arc::new(Snapshot { position, shapes }))
}

/// A position that is in the log no more, or whose beginning isn't.
fn gone(error: ReadError) -> Refusal {
    match error {
        ReadError::Lost(_) => expired(),
        other => other.refusal(),
    }
}

fn expired() -> Refusal {
    Refusal::new(Code::CursorExpired, "this list can't be continued; begin anew")
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
        let cursor = Self::read(text)
            .ok_or_else(|| ApiError::new(Code::BadMessage, "this is not a cursor of this list"))?;
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
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let (shapes, last) = page(snapshot, shape_type, after.as_deref(), limit);
            ids.extend(shapes.iter().map(|shape| shape.id.clone()));
            if last {
                return ids;
            }
            after = shapes.last().map(|shape| shape.id.clone());
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
