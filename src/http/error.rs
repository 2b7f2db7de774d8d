//! Refusals as HTTP: a status for every code, one form for all.

use std::borrow::Cow;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::protocol::{Code, Refusal};

/// A refused request. Its body is written by `answer`, which knows the request
/// id.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub refusal: Refusal,
    pub status: StatusCode,
}

pub(super) type Answer<T> = Result<T, ApiError>;

impl ApiError {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Refusal::new(code, message).into()
    }

    /// The request itself is wrong.
    pub fn bad_message(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::BadMessage, message)
    }

    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

/// Errors of the modules below say themselves what the caller is told.
impl<E: Into<Refusal>> From<E> for ApiError {
    fn from(error: E) -> Self {
        let refusal = error.into();
        Self { status: status(refusal.code), refusal }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self.refusal);
        response
    }
}

pub(super) async fn method_not_allowed() -> ApiError {
    let error = ApiError::new(Code::BadMessage, "this method is not for this address");
    error.with_status(StatusCode::METHOD_NOT_ALLOWED)
}

fn status(code: Code) -> StatusCode {
    match code {
        Code::BadJson | Code::BadMessage | Code::UnknownType => StatusCode::BAD_REQUEST,
        Code::Unauthenticated | Code::TokenExpired => StatusCode::UNAUTHORIZED,
        Code::Forbidden | Code::BadPassword | Code::PasswordRequired => StatusCode::FORBIDDEN,
        Code::RoomUnknown | Code::NotFound | Code::ShapeUnknown => StatusCode::NOT_FOUND,
        Code::NotJoined
        | Code::OpReused
        | Code::ShapeExists
        | Code::ShapeDeleted
        | Code::VersionConflict
        | Code::EmailTaken
        | Code::SlugTaken
        | Code::PositionLost
        | Code::AheadOfLog
        | Code::IdempotencyMismatch => StatusCode::CONFLICT,
        Code::RoomArchived | Code::BelowRetention | Code::CursorExpired => StatusCode::GONE,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::InvalidShape | Code::TooDeep => StatusCode::UNPROCESSABLE_ENTITY,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::ReadOnly | Code::ShardUnavailable | Code::Overloaded | Code::Unavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
