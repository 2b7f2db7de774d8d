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
use uuid::Uuid;

use super::error::{Answer, ApiError};
use super::signed_in::claims;
use super::{App, answer, body};
use crate::directory::idempotency::{ALIVE_EVERY, Attempt, Claim, KeptAnswer};
use crate::ids::RoomId;
use crate::protocol::Code;

const HEADER: &str = "idempotency-key";
const KEY_MAX_BYTES: usize = 255;
/// Answers are short: what was created, as JSON.
const ANSWER_BYTES: usize = 64 * 1024;
/// How long a request waits for another one with its key.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// The id of what the request is to make: the same at every try of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Makes(pub RoomId);

impl Makes {
    /// A new one where the client sent no key.
    pub fn room(makes: Option<Extension<Self>>) -> RoomId {
        makes.map_or_else(RoomId::random, |Extension(Self(room))| room)
    }
}

/// For routes that create. Only answers of success are kept: what was refused
/// had no effect and is judged anew.
pub(super) async fn once(State(app): State<App>, request: Request, next: Next) -> Answer<Response> {
    let Some(key) = key(request.headers())? else { return Ok(next.run(request).await) };
    // Who isn't signed in is refused by the route.
    let Some(claims) = claims(request.headers(), &app.verifier)? else { return Ok(next.run(request).await) };
    let (head, content) = request.into_parts();
    let content = body::whole(content).await?;
    let attempt = Attempt {
        user: claims.user,
        digest: digest(&[head.method.as_str().as_bytes(), head.uri.to_string().as_bytes(), &content]),
        key,
        makes: RoomId::random().as_i64(),
        id: Uuid::new_v4(),
    };
    let makes = match claim(&app, &attempt).await? {
        Ok(makes) => makes,
        Err(kept) => return again(kept),
    };
    let mut request = Request::from_parts(head, Body::from(content));
    request.extensions_mut().insert(Makes(makes));
    let response = while_alive(&app, &attempt, next.run(request)).await;
    finish(&app, &attempt, response).await
}

/// The id to make, or the answer that was given.
async fn claim(app: &App, attempt: &Attempt) -> Answer<Result<RoomId, KeptAnswer>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match app.directory.claim(attempt).await.map_err(|error| error.refusal())? {
            Claim::Ours { makes } => {
                let room = RoomId::from_i64(makes);
                return room.map(Ok).map_err(|_| ApiError::new(Code::Internal, "a kept id can't be read"));
            }
            Claim::Answered(kept) => return Ok(Err(kept)),
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

async fn finish(app: &App, attempt: &Attempt, response: Response) -> Answer<Response> {
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
        body: String::from_utf8_lossy(&content).into_owned(),
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
    let text = text.ok_or_else(|| {
        ApiError::new(Code::BadMessage, "Idempotency-Key has 1 to 255 printable ASCII characters")
    })?;
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
