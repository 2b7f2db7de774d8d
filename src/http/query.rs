//! What stands behind the `?` of an address.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// Refused like any other malformed request if it can't be read, or names
/// something twice.
pub(super) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        #[expect(clippy::disallowed_types, reason = "its refusals become ours")]
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(wish)) => Ok(Self(wish)),
            Err(error) => Err(ApiError::bad_message(error.body_text())),
        }
    }
}
