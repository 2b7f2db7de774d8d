//! Submits in a batch, each with its own answer, in order and not atomic.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::time::Instant;

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::error::{Answer, ApiError};
use super::openapi::schemas;
use super::path::{RoomParam, RoomPath};
use super::signed_in::SignedIn;
use super::{App, answer, body};
use crate::auth::Claims;
use crate::ids::{OpId, RoomId, UserId};
use crate::log::{Authority, Outcome, Submit};
use crate::metrics::gateway;
use crate::protocol::{
    ClientMessage, Code, FrameLimits, Json, ObjectWriter, Refusal, push_string, read_message, server, strict,
};
use crate::session::answer_to_submit;
use crate::store::append::Unknown;

const BODY_BYTES: usize = 8 << 20;
const ITEMS_MAX: usize = 1000;

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes `Batch`, whose items are read one by one")]
pub(super) struct Submits {
    /// `submit` messages of the WebSocket protocol: `op`, `kind` and the kind's body.
    #[schema(max_items = 1000, value_type = Vec<HashMap<String, serde_json::Value>>)]
    items: Vec<serde_json::Value>,
    /// On whose behalf; only for tokens with the scope `server`.
    #[schema(nullable = false)]
    user: Option<String>,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    /// On whose behalf; only for servers.
    user: Option<String>,
}

/// What becomes of one item.
enum Item {
    Answered(Json),
    Waiting(OpId, oneshot::Receiver<Result<Outcome, Unknown>>),
}

#[utoipa::path(
    post, path = "/v1/rooms/{room}/events", tag = "events",
    summary = "Submits in order, each with its own answer; not atomic",
    params(RoomParam),
    request_body = Submits,
    responses((status = 200, description = "An answer an item", body = schemas::Answers)),
)]
pub(super) async fn submit(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    request: Request,
) -> Answer<Response> {
    let text = charged_text(&app, &claims, request).await?;
    let batch: Batch<'_> = serde_json::from_str(&text).map_err(|error| {
        let code = if error.is_data() { Code::BadMessage } else { Code::BadJson };
        ApiError::new(code, error.to_string())
    })?;
    if batch.items.len() > ITEMS_MAX {
        return Err(ApiError::new(Code::TooLarge, "a batch may have 1000 items"));
    }
    if is_charged(&claims) {
        app.limits.batch_messages(&claims.user, batch.items.len())?;
    }
    let behalf = behalf(&claims, batch.user.as_deref())?;
    let room = app.access.readable(&claims, &room).await?;
    if let Some(count) = u32::try_from(batch.items.len()).ok().and_then(NonZeroU32::new) {
        app.limits.user_submits(&claims.user, count).await?;
    }
    let deadline = Instant::now() + app.submit_timeout;
    let limits = app.limits.configured();
    let limits =
        FrameLimits { frame_bytes: 0, message_bytes: limits.message_bytes, json_depth: limits.json_depth };
    let items: Vec<Item> = batch
        .items
        .iter()
        .enumerate()
        .map(|(index, item)| send(&app, &claims, &behalf, room, (index, item.get()), limits, deadline))
        .collect();
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        answers.push(match item {
            Item::Answered(json) => json,
            Item::Waiting(op, outcome) => match outcome.await {
                Ok(Ok(outcome)) => answer_to_submit(None, room, &op, &outcome),
                Ok(Err(Unknown)) | Err(_) => return Err(unknown()),
            },
        });
    }
    let list = ObjectWriter::object(1024).array("items", answers.iter().map(Json::as_str));
    Ok(answer::json(StatusCode::OK, list.end()))
}

/// A program with scope `server` writes for many users.
fn is_charged(claims: &Claims) -> bool {
    claims.authority != Authority::Server
}

/// The body. The user pays for its bytes: for a declared length before the node reads
/// the body, for the rest before the node parses it.
async fn charged_text(app: &App, claims: &Claims, request: Request) -> Answer<String> {
    if !is_charged(claims) {
        return body::text(request, BODY_BYTES).await;
    }
    let declared = usize::try_from(request.body().size_hint().lower()).unwrap_or(usize::MAX).min(BODY_BYTES);
    if let Err(refusal) = app.limits.batch_bytes(&claims.user, declared) {
        body::discard(request.into_body()).await;
        return Err(refusal.into());
    }
    let text = body::text(request, BODY_BYTES).await?;
    app.limits.batch_bytes(&claims.user, text.len().saturating_sub(declared))?;
    Ok(text)
}

/// Reads one item and queues it behind those before it.
fn send(
    app: &App,
    claims: &Claims,
    behalf: &UserId,
    room: RoomId,
    (index, item): (usize, &str),
    limits: FrameLimits,
    deadline: Instant,
) -> Item {
    let refused = |refusal: &Refusal, answer| {
        gateway::rejected(refusal.code);
        Item::Answered(answer)
    };
    let (text, user) = match completed(item, room, claims) {
        Ok(completed) => completed,
        Err(refusal) => {
            let answer = server::error(None, Some(index), Some("submit"), Some(room), &refusal);
            return refused(&refusal, answer);
        }
    };
    let received = Instant::now();
    let inbound = read_message(&text, Some(index), limits);
    let (op, operation) = match &inbound.message {
        Ok(ClientMessage::Submit { op, operation, .. }) => (op.clone(), operation.clone()),
        Ok(_) => unreachable!("the type was written here"),
        Err(unread) => return refused(&unread.refusal, server::refusal(&inbound, unread)),
    };
    let user = user.unwrap_or_else(|| behalf.clone());
    let submit = Submit::new(room, user, claims.authority, op.clone(), operation);
    let (tell, outcome) = oneshot::channel();
    // Nobody listens any more if the client left; the event stands.
    let answer = Box::new(move |outcome| drop(tell.send(outcome)));
    let trace = app.appender.traces().frame(room, "request", received);
    match app.appender.append(submit, claims.user.clone(), deadline, trace, answer) {
        Ok(()) => Item::Waiting(op, outcome),
        Err(refusal) => {
            gateway::submit_done(gateway::Submit::Refused, received.elapsed());
            refused(&refusal, server::reject(None, room, &op, &refusal, None))
        }
    }
}

/// The item as a `submit` message of this room, and on whose behalf it is.
/// `type` and `room` may be left out, but not contradict.
fn completed(item: &str, room: RoomId, claims: &Claims) -> Result<(String, Option<UserId>), Refusal> {
    let bad = |message: &'static str| Refusal::new(Code::BadMessage, message);
    let entries = strict::entries(item).map_err(|_| bad("an item is a JSON object"))?;
    let mut text = format!("{{\"type\":\"submit\",\"room\":{room}");
    let mut user = None;
    for (key, value) in entries {
        match key.as_ref() {
            "type" if value.get() == "\"submit\"" => {}
            "type" => return Err(Refusal::new(Code::UnknownType, "an item is a submit")),
            "room" if value.get().parse() == Ok(room.get()) => {}
            "room" => return Err(bad("room is not the one of the address")),
            "user" => {
                let text: Cow<'_, str> =
                    serde_json::from_str(value.get()).map_err(|_| bad("user must be a string"))?;
                user = Some(self::behalf(claims, Some(&text)).map_err(|error| error.refusal)?);
            }
            _ => {
                text.push(',');
                push_string(&mut text, &key);
                text.push(':');
                text.push_str(value.get());
            }
        }
    }
    text.push('}');
    Ok((text, user))
}

/// Whose submit it is: the bearer's, unless a server says otherwise.
fn behalf(claims: &Claims, user: Option<&str>) -> Answer<UserId> {
    let Some(user) = user else { return Ok(claims.user.clone()) };
    let user = UserId::new(user).map_err(|invalid| ApiError::bad_message(invalid.to_string()))?;
    if claims.authority == Authority::Server || user == claims.user {
        return Ok(user);
    }
    Err(ApiError::new(Code::Forbidden, "only a token with scope server may act for others"))
}

fn unknown() -> ApiError {
    let message = "it is not known what became of some items; send the same ops again";
    Refusal::new(Code::ShardUnavailable, message).retry_after_ms(1_000).into()
}
