//! Who asks.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::App;
use super::error::{Answer, ApiError};
use crate::auth::{Claims, Verifier};
use crate::protocol::Code;

/// A request with a valid `Authorization: Bearer`. In the extensions of a request that
/// was charged to its user.
#[derive(Clone)]
pub(super) struct SignedIn(pub Claims);

impl FromRequestParts<App> for SignedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        if let Some(Self(claims)) = parts.extensions.get() {
            return Ok(Self(claims.clone()));
        }
        match claims(&parts.headers, &app.verifier)? {
            Some(claims) => Ok(Self(claims)),
            None => Err(ApiError::new(Code::Unauthenticated, "sign in: Authorization: Bearer is missing")),
        }
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
