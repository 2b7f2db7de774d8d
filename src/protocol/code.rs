//! The stable strings of the wire: refusal codes and close codes.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

/// Why something was refused: in `error`, in `reject` and in HTTP errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    BadJson,
    BadMessage,
    TooLarge,
    TooDeep,
    UnknownType,
    Unauthenticated,
    TokenExpired,
    Forbidden,
    PasswordRequired,
    BadPassword,
    NotJoined,
    RoomUnknown,
    RoomArchived,
    OpReused,
    ShapeExists,
    ShapeUnknown,
    ShapeDeleted,
    VersionConflict,
    InvalidShape,
    RateLimited,
    ReadOnly,
    ShardUnavailable,
    Overloaded,
    Unavailable,
    EmailTaken,
    SlugTaken,
    NotFound,
    PositionLost,
    AheadOfLog,
    BelowRetention,
    CursorExpired,
    IdempotencyMismatch,
    Internal,
}

impl Code {
    pub const ALL: [Self; 33] = [
        Self::BadJson,
        Self::BadMessage,
        Self::TooLarge,
        Self::TooDeep,
        Self::UnknownType,
        Self::Unauthenticated,
        Self::TokenExpired,
        Self::Forbidden,
        Self::PasswordRequired,
        Self::BadPassword,
        Self::NotJoined,
        Self::RoomUnknown,
        Self::RoomArchived,
        Self::OpReused,
        Self::ShapeExists,
        Self::ShapeUnknown,
        Self::ShapeDeleted,
        Self::VersionConflict,
        Self::InvalidShape,
        Self::RateLimited,
        Self::ReadOnly,
        Self::ShardUnavailable,
        Self::Overloaded,
        Self::Unavailable,
        Self::EmailTaken,
        Self::SlugTaken,
        Self::NotFound,
        Self::PositionLost,
        Self::AheadOfLog,
        Self::BelowRetention,
        Self::CursorExpired,
        Self::IdempotencyMismatch,
        Self::Internal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadMessage => "bad_message",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::UnknownType => "unknown_type",
            Self::Unauthenticated => "unauthenticated",
            Self::TokenExpired => "token_expired",
            Self::Forbidden => "forbidden",
            Self::PasswordRequired => "password_required",
            Self::BadPassword => "bad_password",
            Self::NotJoined => "not_joined",
            Self::RoomUnknown => "room_unknown",
            Self::RoomArchived => "room_archived",
            Self::OpReused => "op_reused",
            Self::ShapeExists => "shape_exists",
            Self::ShapeUnknown => "shape_unknown",
            Self::ShapeDeleted => "shape_deleted",
            Self::VersionConflict => "version_conflict",
            Self::InvalidShape => "invalid_shape",
            Self::RateLimited => "rate_limited",
            Self::ReadOnly => "read_only",
            Self::ShardUnavailable => "shard_unavailable",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::EmailTaken => "email_taken",
            Self::SlugTaken => "slug_taken",
            Self::NotFound => "not_found",
            Self::PositionLost => "position_lost",
            Self::AheadOfLog => "ahead_of_log",
            Self::BelowRetention => "below_retention",
            Self::CursorExpired => "cursor_expired",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A code with a sentence for a person: what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    pub code: Code,
    pub message: Cow<'static, str>,
    /// When trying again makes sense, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }

    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }
}

/// How a session ends. 4000–4099 may reconnect, 4100–4199 must not without a
/// change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    Normal,
    GoingAway,
    ProtocolError,
    Unsupported,
    InvalidPayload,
    TooBig,
    InternalError,
    Restart,
    Overload,
    SlowConsumer,
    HeartbeatTimeout,
    ShardUnavailable,
    Unauthenticated,
    TokenExpired,
    Kicked,
    RateAbuse,
    ProtocolViolation,
}

impl CloseCode {
    pub const ALL: [Self; 17] = [
        Self::Normal,
        Self::GoingAway,
        Self::ProtocolError,
        Self::Unsupported,
        Self::InvalidPayload,
        Self::TooBig,
        Self::InternalError,
        Self::Restart,
        Self::Overload,
        Self::SlowConsumer,
        Self::HeartbeatTimeout,
        Self::ShardUnavailable,
        Self::Unauthenticated,
        Self::TokenExpired,
        Self::Kicked,
        Self::RateAbuse,
        Self::ProtocolViolation,
    ];

    pub fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::ProtocolError => 1002,
            Self::Unsupported => 1003,
            Self::InvalidPayload => 1007,
            Self::TooBig => 1009,
            Self::InternalError => 1011,
            Self::Restart => 1012,
            Self::Overload => 1013,
            Self::SlowConsumer => 4000,
            Self::HeartbeatTimeout => 4001,
            Self::ShardUnavailable => 4002,
            Self::Unauthenticated => 4100,
            Self::TokenExpired => 4101,
            Self::Kicked => 4102,
            Self::RateAbuse => 4103,
            Self::ProtocolViolation => 4104,
        }
    }

    /// The close frame's reason, and the `reason` of `goodbye`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Normal => "bye",
            Self::GoingAway => "going_away",
            Self::ProtocolError => "protocol_error",
            Self::Unsupported => "unsupported",
            Self::InvalidPayload => "invalid_payload",
            Self::TooBig => "too_big",
            Self::InternalError => "internal",
            Self::Restart => "restart",
            Self::Overload => "overload",
            Self::SlowConsumer => "slow_consumer",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::ShardUnavailable => "shard_unavailable",
            Self::Unauthenticated => "unauthenticated",
            Self::TokenExpired => "token_expired",
            Self::Kicked => "kicked",
            Self::RateAbuse => "rate_abuse",
            Self::ProtocolViolation => "protocol_violation",
        }
    }
}
