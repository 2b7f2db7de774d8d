//! A room's whole log as lines, for as long as that takes.
//!
//! Guarantees: exactly the events up to the head that the answer names, in order
//! and without a hole, then the line `end`; without that line it was cut. Never
//! more than a page in memory: the next one is read when the client has taken
//! this one.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tracing::Instrument;

use super::App;
use super::error::Answer;
use super::freshness::tell;
use crate::ids::RoomId;
use crate::position::{Position, Seq};
use crate::protocol::ObjectWriter;
use crate::routing::Freshness;
use crate::store::history::{History, ReadError};

/// Where an export stands.
struct Export {
    history: History,
    room: RoomId,
    after: Seq,
    /// Where it ends. Every page is read where this position is in the log: if a
    /// failover takes it away, the export is cut rather than mixed.
    to: Position,
    ended: bool,
}

pub(super) async fn stream(app: &App, room: RoomId, after: Seq, freshness: Freshness) -> Answer<Response> {
    let head = app.history.head(room, freshness).await?;
    let mut export = Export { history: app.history.clone(), room, after, to: head.head, ended: false };
    // So that what can't be exported is refused with a status.
    let first = export.next().await?;
    // The rest is read when the handler has long returned.
    let request = tracing::Span::current();
    let rest = stream::try_unfold((export, request), async |(mut export, request)| {
        let lines = export.next().instrument(request.clone()).await.inspect_err(|error| {
            tracing::warn!(parent: &request, room = %export.room, after = %export.after, %error, "an export was cut");
        })?;
        Ok::<_, ReadError>(lines.map(|lines| (lines, (export, request))))
    });
    let body = Body::from_stream(stream::StreamExt::chain(stream::iter(first.map(Ok)), rest));
    let content_type = HeaderValue::from_static("application/x-ndjson");
    let response = ([(CONTENT_TYPE, content_type)], body).into_response();
    Ok(tell(response, Some(head.head), &head.served_by, head.fallback))
}

impl Export {
    /// The next page as lines; the last one is the end's.
    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let mut lines = String::new();
        if self.after < self.to.seq {
            let page = self.history.log(self.room, self.after, Freshness::AtLeast(self.to)).await?;
            for event in page.value.iter().take_while(|event| event.position.seq <= self.to.seq) {
                lines.push_str(event.to_json().as_str());
                lines.push('\n');
                self.after = event.position.seq;
            }
        }
        if self.after >= self.to.seq {
            self.ended = true;
            let end = ObjectWriter::message("end", 40).number("seq", self.to.seq.0).end();
            lines.push_str(&end);
            lines.push('\n');
        }
        Ok(Some(lines.into()))
    }
}
