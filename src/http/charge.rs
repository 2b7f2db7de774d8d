//! Each request is charged to its user, or else to its address, before anything is done
//! for it: the bytes that it may take up, and its number if it may change something.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use tokio::sync::Mutex;

use super::address::ClientAddress;
use super::error::ApiError;
use super::signed_in::{SignedIn, claims};
use super::{App, import};
use crate::limits::network;
use crate::log::Authority;
use crate::memory::{Owner, Reservation, SMALL_BYTES};
use crate::store::PAGE_BYTES;

/// A body of 64 KiB as bytes, text and values, and an answer without a list.
const SMALL: usize = SMALL_BYTES;
/// A page as rows, as texts and as a body.
const PAGE: usize = 3 * PAGE_BYTES;
/// A body of 8 MiB with its items and their answers.
const BATCH: usize = 20 << 20;
/// A batch of lines that is staged.
const LINES: usize = 4 << 20;

/// The reads that answer with less than a page.
const SMALL_READS: [&str; 10] = [
    "/",
    "/ws",
    "/v1/ws",
    "/health",
    "/openapi.json",
    "/v1/openapi.json",
    "/v1/me",
    "/v1/rooms/{room}",
    "/v1/rooms/{room}/live",
    "/v1/rooms/{room}/presence",
];

const SUBMITS: &str = "/v1/rooms/{room}/events";

/// The memory of a request, in its extensions, and then of its answer's body until that
/// is sent.
#[derive(Clone)]
pub(super) struct Held(pub Arc<Mutex<Reservation>>);

/// The most bytes that a request takes up at a time. A read is a page unless it is
/// known to be less.
fn cost(method: &Method, route: Option<&str>) -> usize {
    match route {
        // Files of the page are part of the binary.
        None => SMALL,
        Some(route) if method.is_safe() && SMALL_READS.contains(&route) => SMALL,
        Some(_) if method.is_safe() => PAGE,
        Some(SUBMITS) => BATCH,
        Some(import::ROUTE) => LINES,
        Some(_) => SMALL,
    }
}

pub(super) async fn charge(
    State(app): State<App>,
    ClientAddress(from): ClientAddress,
    mut request: Request,
    next: Next,
) -> Response {
    // A bad token is refused by the route.
    let claims = claims(request.headers(), &app.verifier).ok().flatten();
    let owner = match &claims {
        Some(claims) if claims.authority == Authority::Server => Owner::Node,
        Some(claims) => Owner::User(claims.user.clone()),
        None => Owner::Address(network(from)),
    };
    let allowed = match &owner {
        _ if request.method().is_safe() => Ok(()),
        Owner::User(user) => app.limits.user_write(user),
        Owner::Address(_) => app.limits.address_write(from),
        Owner::Node => Ok(()),
    };
    if let Err(refusal) = allowed {
        return ApiError::from(refusal).into_response();
    }
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let held = match app.memory.reserve(&owner, cost(request.method(), route)).await {
        Ok(held) => Held(Arc::new(Mutex::new(held))),
        Err(refusal) => return ApiError::from(refusal).into_response(),
    };
    if let Some(claims) = claims {
        request.extensions_mut().insert(SignedIn(claims));
    }
    request.extensions_mut().insert(held.clone());
    let mut response = next.run(request).await;
    // A stream goes on with pages of its own.
    if let Some(bytes) = response.body().size_hint().upper() {
        held.0.lock().await.shrink_to(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    response.extensions_mut().insert(held);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_memory_is_the_one_that_is_reserved() {
        let document = include_str!("../../docs/costs.md");
        let rows = document.split_once("## Routes").unwrap().1.split_once("## Messages").unwrap().0;
        for line in rows.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = line.split('|').skip(1).map(|cell| cell.trim().trim_matches('`'));
            let (name, memory) = (cells.next().unwrap(), cells.nth(1).unwrap());
            let (method, route) = name.split_once(' ').unwrap();
            let bytes = cost(&method.parse().unwrap(), Some(route));
            let told =
                if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) };
            assert_eq!(memory.split(',').next(), Some(told.as_str()), "{name}");
        }
    }

    #[test]
    fn a_route_that_nobody_thought_of_pays_for_a_page() {
        let get = |route| cost(&Method::GET, Some(route));
        assert_eq!(get("/v1/rooms/{room}/something-new"), PAGE);
        assert_eq!(cost(&Method::HEAD, Some("/v1/rooms")), PAGE);
        assert_eq!(get(SUBMITS), PAGE);
        assert_eq!(cost(&Method::POST, Some(SUBMITS)), BATCH);
        assert_eq!(cost(&Method::POST, Some(import::ROUTE)), LINES);
        assert_eq!(cost(&Method::PATCH, Some("/v1/me")), SMALL);
        assert_eq!(cost(&Method::GET, None), SMALL);
    }
}
