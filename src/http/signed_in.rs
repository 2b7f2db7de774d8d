//! Who asks.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::App;
use super::address::ClientAddress;
use super::error::{Answer, ApiError};
use crate::auth::{Claims, Verifier};
use crate::log::Authority;
use crate::protocol::Code;

/// A request with a valid `Authorization: Bearer`.
pub(super) struct SignedIn(pub Claims);

impl FromRequestParts<App> for SignedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        match claims(&parts.headers, &app.verifier)? {
            Some(claims) => Ok(Self(claims)),
            None => Err(ApiError::new(Code::Unauthenticated, "sign in: Authorization: Bearer is missing")),
        }
    }
}

/// Charges each request that may change something to its user, or else to its
/// address, before anything is done for it. Servers are the operators' own programs.
pub(super) async fn charge_writes(
    State(app): State<App>,
    ClientAddress(from): ClientAddress,
    request: Request,
    next: Next,
) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    // A bad token is refused by the route.
    let allowed = match claims(request.headers(), &app.verifier) {
        Ok(Some(claims)) if claims.authority == Authority::Server => Ok(()),
        Ok(Some(claims)) => app.limits.user_write(&claims.user),
        Ok(None) | Err(_) => app.limits.address_write(from),
    };
    match allowed {
        Ok(()) => next.run(request).await,
        Err(refusal) => ApiError::from(refusal).into_response(),
    }
}

/// `None` without the header; a bad one is refused.
pub(super) fn claims(headers: &HeaderMap, verifier: &Verifier) -> Answer<Option<Claims>> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let token = token.ok_or_else(|| ApiError::new(Code::Unauthenticated, "Authorization must be Bearer"))?;
    Ok(Some(verifier.verify(token)?))
}
