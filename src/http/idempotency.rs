//! `Idempotency-Key`: whoever repeats a request that creates, because its answer
//! was lost, gets that answer and no second effect.

use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use utoipa::IntoParams;
use uuid::Uuid;

use super::error::{Answer, ApiError};
use super::signed_in::claims;
use super::{App, answer, body};
use crate::directory::idempotency::{ALIVE_EVERY, Attempt, Claim, KeptAnswer};
use crate::ids::{InvalidId, InviteId, RoomId};
use crate::protocol::Code;

pub(super) const HEADER: &str = "idempotency-key";
const KEY_MAX_BYTES: usize = 255;
/// Answers are short: what was created, as JSON.
const ANSWER_BYTES: usize = 64 * 1024;
/// How long a request waits for another one with its key.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what `once` and `once_by_id` read")]
pub(super) struct OnceParams {
    /// The same key with the same request again, within 24 h, gets the first answer and has no second effect.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255)]
    idempotency_key: Option<String>,
}

/// The id of what the request is to make: the same at every try of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Makes(i64);

impl Makes {
    /// A new one where the client sent no key.
    pub fn room(makes: Option<Extension<Self>>) -> Answer<RoomId> {
        let made = |Extension(Self(id))| RoomId::from_i64(id);
        makes.map_or_else(|| Ok(RoomId::random()), made).map_err(unreadable)
    }

    /// Likewise.
    pub fn invite(makes: Option<Extension<Self>>) -> Answer<InviteId> {
        let made = |Extension(Self(id))| InviteId::from_i64(id);
        makes.map_or_else(|| Ok(InviteId::random()), made).map_err(unreadable)
    }
}

fn unreadable(_: InvalidId) -> ApiError {
    ApiError::new(Code::Internal, "a kept id can't be read")
}

/// What is kept of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Answer,
    Nothing,
}

/// For routes that create. Only answers of success are kept: what was refused
/// had no effect and is judged anew.
pub(super) async fn once(State(app): State<App>, request: Request, next: Next) -> Answer<Response> {
    run(&app, Keep::Answer, request, next).await
}

/// The same where the answer tells a secret, which nothing is to keep in clear: a
/// repeat is run again with the id of what was made, and finds it by that.
pub(super) async fn once_by_id(State(app): State<App>, request: Request, next: Next) -> Answer<Response> {
    run(&app, Keep::Nothing, request, next).await
}

async fn run(app: &App, keep: Keep, request: Request, next: Next) -> Answer<Response> {
    let Some(key) = key(request.headers())? else { return Ok(next.run(request).await) };
    // Who isn't signed in is refused by the route.
    let Some(claims) = claims(request.headers(), &app.verifier)? else { return Ok(next.run(request).await) };
    let (head, content) = body::whole(request).await?.into_parts();
    let attempt = Attempt {
        user: claims.user,
        digest: digest(&[head.method.as_str().as_bytes(), head.uri.to_string().as_bytes(), &content]),
        key,
        makes: RoomId::random().as_i64(),
        id: Uuid::new_v4(),
    };
    let (makes, kept) = claim(app, &attempt).await?;
    let mut request = Request::from_parts(head, Body::from(content));
    request.extensions_mut().insert(Makes(makes));
    match kept {
        Some(_) if keep == Keep::Nothing => Ok(next.run(request).await),
        Some(kept) => again(kept),
        None => {
            let response = while_alive(app, &attempt, next.run(request)).await;
            finish(app, &attempt, keep, response).await
        }
    }
}

/// The id of what is to be made, or was: then with the answer that was given.
async fn claim(app: &App, attempt: &Attempt) -> Answer<(i64, Option<KeptAnswer>)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match app.directory.claim(attempt).await? {
            Claim::Ours { makes } => return Ok((makes, None)),
            Claim::Answered { makes, answer } => return Ok((makes, Some(answer))),
            Claim::Mismatch => {
                let message = "this Idempotency-Key was used for another request";
                return Err(ApiError::new(Code::IdempotencyMismatch, message));
            }
            Claim::UnderWay if Instant::now() + PAUSE >= deadline => {
                return Err(ApiError::new(Code::Unavailable, "the same request is under way; try again"));
            }
            Claim::UnderWay => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Says now and then that the request is under way.
async fn while_alive(app: &App, attempt: &Attempt, work: impl Future<Output = Response>) -> Response {
    let alive = async {
        loop {
            tokio::time::sleep(ALIVE_EVERY).await;
            if let Err(error) = app.directory.claim_alive(attempt).await {
                tracing::debug!(%error, "can't say that a request is under way");
            }
        }
    };
    tokio::select! {
        response = work => response,
        () = alive => unreachable!("it never ends"),
    }
}

async fn finish(app: &App, attempt: &Attempt, keep: Keep, response: Response) -> Answer<Response> {
    if !response.status().is_success() {
        if let Err(error) = app.directory.release(attempt).await {
            // It goes silent and is taken over.
            tracing::debug!(%error, "can't free an Idempotency-Key");
        }
        return Ok(response);
    }
    let (head, content) = response.into_parts();
    let content = axum::body::to_bytes(content, ANSWER_BYTES).await;
    let content = content.map_err(|_| ApiError::new(Code::Internal, "an answer is too large to be kept"))?;
    let kept = KeptAnswer {
        status: head.status.as_u16(),
        location: head.headers.get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned),
        body: match keep {
            Keep::Answer => String::from_utf8_lossy(&content).into_owned(),
            Keep::Nothing => String::new(),
        },
    };
    if let Err(error) = app.directory.keep_answer(attempt, &kept).await {
        // A repeat takes the request over and goes on with the same id.
        tracing::warn!(%error, "an answer could not be kept");
    }
    Ok(Response::from_parts(head, Body::from(content)))
}

fn again(kept: KeptAnswer) -> Answer<Response> {
    let unreadable = |_| ApiError::new(Code::Internal, "a kept answer can't be read");
    let status = StatusCode::from_u16(kept.status)
        .map_err(|_| ApiError::new(Code::Internal, "a kept status can't be read"))?;
    let mut response = answer::json(status, kept.body);
    if let Some(location) = kept.location {
        response.headers_mut().insert(LOCATION, HeaderValue::from_str(&location).map_err(unreadable)?);
    }
    Ok(response)
}

fn key(headers: &HeaderMap) -> Answer<Option<String>> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| (1..=KEY_MAX_BYTES).contains(&text.len()));
    let text =
        text.ok_or_else(|| ApiError::bad_message("Idempotency-Key has 1 to 255 printable ASCII characters"))?;
    Ok(Some(text.to_owned()))
}

/// Each part behind its length, so that no two requests look alike.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}
