//! Shapes in bulk: a body of lines, a shape each, into one range of events.
//!
//! Guarantees: never more than a batch of lines in memory, however long the body;
//! while it arrives nothing of the room is locked. A line that can't be taken is
//! named with its code and stops no other.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use utoipa::IntoParams;
use xxhash_rust::xxh3::Xxh3;

use super::content::Content;
use super::error::{Answer, ApiError};
use super::openapi::schemas;
use super::path::{RoomParam, RoomPath};
use super::query::Query;
use super::signed_in::SignedIn;
use super::{App, answer, body, rooms};
use crate::auth::Claims;
use crate::ids::{OpId, RoomId, UserId};
use crate::log::{Authority, Digest, app_shapes};
use crate::protocol::{Code, Exact, Refusal, Role, RoomRef, Schema, Shape, strict};
use crate::routing::Freshness;
use crate::store::bounds;
use crate::store::imports::{Import, Line, Staging};
use crate::store::rooms::Wanted;
use crate::store::rooms::refusals::editors_only;

pub(super) const ROUTE: &str = "/v1/rooms/{room}/import";
/// From the first byte to the answer.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(900);

/// A shape a line goes by several names; none of them is registered.
const LINES_TYPES: &[&str] = &[
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/jsonlines",
];

const BODY_BYTES: u64 = 256 << 20;
const LINES_MAX: u32 = 100_000;
/// A pause in the body that is longer ends it.
const BODY_PAUSE: Duration = Duration::from_secs(30);
/// Lines are staged when so many, or so many bytes of them, have come.
const BATCH_LINES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;
/// So many lines cost about as much as one submit in a transaction of its own.
const LINES_A_SUBMIT: usize = 100;
/// After so many lines it is logged how far an import has come.
const LOG_LINES: u32 = 20_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wish {
    /// The same op with the same body again has no second effect. An import of no
    /// shape leaves the op unused.
    #[param(required = true, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    op: Option<String>,
}

/// What a line is measured by.
#[derive(Clone, Copy)]
struct Rules {
    schema: Schema,
    /// The drawing app's own forms are taken too.
    legacy: bool,
    line_bytes: usize,
    depth: usize,
}

#[utoipa::path(
    post, path = "/v1/rooms/{room}/import", tag = "shapes",
    summary = "Many shapes, a line each, into one range of events",
    params(RoomParam, Wish),
    request_body(content(
        (String = "application/x-ndjson"), (String = "application/ndjson"), (String = "application/jsonl"),
    )),
    responses(
        (status = 200, description = "How many, and which lines were not taken", body = schemas::Imported),
        (status = 409, description = "op_reused", body = schemas::Refused),
    ),
)]
pub(super) async fn import(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    Query(wish): Query<Wish>,
    request: Request,
) -> Answer<Response> {
    let op = wish
        .op
        .as_deref()
        .ok_or_else(|| ApiError::bad_message("op is required: the same op again has one effect"))?;
    let op = OpId::new(op).map_err(|invalid| ApiError::bad_message(invalid.to_string()))?;
    body::check_content_type(request.headers(), LINES_TYPES)?;
    let (head, body) = request.into_parts();
    let content = Content::of(&head.headers, body)?;
    let (room, schema) = allowed(&app, &claims, &room).await?;
    let charged = (claims.authority == Authority::Member).then(|| claims.user.clone());
    if let Some(user) = &charged {
        app.limits.user_import(user).await?;
    }
    let limits = app.limits.configured();
    let depth = if limits.json_depth == 0 { usize::MAX } else { limits.json_depth };
    let rules = Rules { schema, legacy: app.legacy_protocol, line_bytes: limits.message_bytes, depth };
    let import = Import { room, user: claims.user, authority: claims.authority, op };
    let begun = Instant::now();
    let mut arriving = Arriving::new(app.clone(), rules, app.imports.begin(import), charged);
    let done = match arriving.take_all(content).await {
        Ok(()) => arriving.finish().await,
        Err(error) => Err(error),
    };
    let lines = arriving.lines.number;
    // After success there is nothing left; a failure is not retried with it.
    if done.is_err() {
        app.imports.discard(arriving.staging).await;
    }
    let text = done?;
    tracing::info!(%room, lines, took = ?begun.elapsed(), "an import ended");
    Ok(answer::json(StatusCode::OK, text))
}

/// The first look; the right to write is checked again under the room's lock.
async fn allowed(app: &App, claims: &Claims, room: &RoomRef) -> Answer<(RoomId, Schema)> {
    if claims.authority == Authority::Server {
        let room = app.access.resolve(room).await?;
        let deadline = Instant::now() + rooms::PATIENCE;
        let wanted = Wanted { room, user: None, freshness: Freshness::MaxStale(app.max_stale), deadline };
        let found = app.rooms.find(wanted).await?;
        return Ok((room, found.facts.schema));
    }
    let admission = app.access.check(&claims.user, room).await?;
    if admission.role == Role::Viewer {
        return Err(editors_only().into());
    }
    Ok((admission.room, admission.facts.schema))
}

/// An import while its body comes in.
struct Arriving {
    app: App,
    rules: Rules,
    staging: Staging,
    /// The user whose submits the lines count as; none for servers.
    charged: Option<UserId>,
    lines: Lines,
    digest: Xxh3,
    bytes: u64,
    batch: Vec<Line>,
    batch_bytes: usize,
    rejected: Vec<(u32, Code)>,
    logged: u32,
}

impl Arriving {
    fn new(app: App, rules: Rules, staging: Staging, charged: Option<UserId>) -> Self {
        // Twice what a shape may have: it may be written with spaces.
        let lines = Lines::new(rules.line_bytes.saturating_mul(2));
        let digest = Xxh3::new();
        let (batch, rejected) = (Vec::new(), Vec::new());
        let (bytes, batch_bytes, logged) = (0, 0, 0);
        Self { app, rules, staging, charged, lines, digest, bytes, batch, batch_bytes, rejected, logged }
    }

    async fn take_all(&mut self, mut content: Content) -> Answer<()> {
        loop {
            let data = tokio::time::timeout(BODY_PAUSE, content.next()).await.map_err(|_| body::late())??;
            let Some(data) = data else { break };
            if let Err(error) = self.take(&data).await {
                content.discard().await;
                return Err(error);
            }
        }
        if let Some(line) = self.lines.rest() {
            self.line(line)?;
        }
        self.stage().await
    }

    async fn take(&mut self, data: &Bytes) -> Answer<()> {
        self.bytes += data.len() as u64;
        if self.bytes > BODY_BYTES {
            return Err(ApiError::new(Code::TooLarge, "an import may have 256 MiB"));
        }
        self.digest.update(data);
        let mut rest = &data[..];
        while let Some((line, after)) = self.lines.split(rest) {
            rest = after;
            self.line(line)?;
            if self.batch.len() >= BATCH_LINES || self.batch_bytes >= BATCH_BYTES {
                self.stage().await?;
            }
        }
        Ok(())
    }

    fn line(&mut self, (number, line): (u32, Option<Vec<u8>>)) -> Answer<()> {
        if number > LINES_MAX {
            return Err(ApiError::new(Code::TooLarge, "an import may have 100000 lines"));
        }
        let shape = match line.as_deref().map(unmarked) {
            Some(line) if line.trim_ascii().is_empty() => return Ok(()),
            Some(line) => shape(line, self.rules),
            None => Err(Code::TooLarge),
        };
        match shape {
            Ok(shape) => {
                self.batch_bytes += shape.body.json.len();
                self.batch.push(Line { number, shape });
            }
            Err(code) => self.rejected.push((number, code)),
        }
        Ok(())
    }

    async fn stage(&mut self) -> Answer<()> {
        let submits = u32::try_from(self.batch.len().div_ceil(LINES_A_SUBMIT)).ok().and_then(NonZeroU32::new);
        if let (Some(user), Some(submits)) = (&self.charged, submits) {
            self.app.limits.user_submits(user, submits).await?;
        }
        self.app.imports.stage(&mut self.staging, &self.batch).await?;
        self.batch.clear();
        self.batch_bytes = 0;
        if self.lines.number >= self.logged + LOG_LINES {
            self.logged = self.lines.number;
            let (lines, bytes) = (self.lines.number, self.bytes);
            tracing::info!(lines, bytes, rejected = self.rejected.len(), "an import goes on");
        }
        Ok(())
    }

    async fn finish(&self) -> Answer<String> {
        let digest = Digest(self.digest.digest128().to_be_bytes());
        let bounds = bounds(&self.app.limits.configured());
        Ok(self.app.imports.finish(&self.staging, digest, &self.rejected, bounds).await?)
    }
}

/// Without a byte order mark. Files that were joined to one have it in the middle.
fn unmarked(line: &[u8]) -> &[u8] {
    line.strip_prefix(body::BYTE_ORDER_MARK.as_bytes()).unwrap_or(line)
}

/// As the shape of a `shape.add`.
fn shape(line: &[u8], rules: Rules) -> Result<Shape, Code> {
    let code = |refusal: Refusal| refusal.code;
    let text = std::str::from_utf8(line).map_err(|_| Code::BadJson)?;
    let value = strict::object(text, rules.depth).map_err(code)?;
    let json = strict::compact(text);
    if rules.line_bytes > 0 && json.len() > rules.line_bytes {
        return Err(Code::TooLarge);
    }
    let translated = (rules.legacy && rules.schema == Schema::Drawing).then(|| app_shapes::to_schema(&value));
    let body = translated.flatten().map_or_else(|| Exact { value, json: json.into() }, Exact::encode);
    let shape = Shape::new(body).map_err(code)?;
    rules.schema.check(&shape.body.value).map_err(code)?;
    Ok(shape)
}

/// Cuts a body into lines, and holds at most one of them, up to a bound.
struct Lines {
    /// Of lines that have ended, or of the one that has begun.
    number: u32,
    partial: Vec<u8>,
    is_too_long: bool,
    most: usize,
}

impl Lines {
    fn new(most: usize) -> Self {
        let most = if most == 0 { usize::MAX } else { most };
        Self { number: 0, partial: Vec::new(), is_too_long: false, most }
    }

    /// The next line that ends in `data`, and what follows it. A line is `None`
    /// if it is too long. Without an end, `data` is kept as a line's beginning.
    #[expect(clippy::type_complexity, reason = "a number, a line, and what is left")]
    fn split<'a>(&mut self, data: &'a [u8]) -> Option<((u32, Option<Vec<u8>>), &'a [u8])> {
        let end = data.iter().position(|byte| *byte == b'\n');
        let part = &data[..end.unwrap_or(data.len())];
        if self.partial.len() + part.len() > self.most {
            self.is_too_long = true;
            self.partial.clear();
        }
        if !self.is_too_long {
            self.partial.extend_from_slice(part);
        }
        let end = end?;
        Some((self.end_line(), &data[end + 1..]))
    }

    /// What follows the last line's end.
    fn rest(&mut self) -> Option<(u32, Option<Vec<u8>>)> {
        let has_rest = self.is_too_long || !self.partial.is_empty();
        has_rest.then(|| self.end_line())
    }

    fn end_line(&mut self) -> (u32, Option<Vec<u8>>) {
        self.number = self.number.saturating_add(1);
        let line = std::mem::take(&mut self.partial);
        (self.number, (!std::mem::take(&mut self.is_too_long)).then_some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as they come out of a body that arrives in pieces of `size` bytes.
    fn cut(body: &[u8], size: usize, most: usize) -> Vec<(u32, Option<String>)> {
        let (mut lines, mut found) = (Lines::new(most), Vec::new());
        for piece in body.chunks(size) {
            let mut rest = piece;
            while let Some((line, after)) = lines.split(rest) {
                rest = after;
                found.push(line);
            }
        }
        found.extend(lines.rest());
        let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
        found.into_iter().map(|(number, line)| (number, line.map(text))).collect()
    }

    #[test]
    fn lines_are_the_same_however_they_arrive_and_a_long_one_is_skipped() {
        let body = b"one\n\nthree is far too long\nfour\nfive";
        let expected = [Some("one"), Some(""), None, Some("four"), Some("five")];
        let expected: Vec<_> = (1..).zip(expected.map(|line| line.map(str::to_owned))).collect();
        for size in 1..body.len() {
            assert_eq!(cut(body, size, 8), expected, "in pieces of {size}");
        }
        assert_eq!(cut(b"", 1, 8), []);
        assert_eq!(cut(b"a\n", 1, 8).len(), 1);
    }
}
