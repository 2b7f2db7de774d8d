//! How a session ends: who asked for it, with which code, and what the client
//! is told about coming back.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::protocol::server;
use crate::protocol::{CloseCode, Json};

/// A request from outside that the session go. The first code stands.
#[derive(Default)]
pub struct Ending {
    code: Mutex<Option<CloseCode>>,
    asked: Notify,
}

impl Ending {
    pub fn ask(&self, code: CloseCode) {
        self.code.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(code);
        self.asked.notify_one();
    }

    /// Cancel-safe.
    pub async fn asked(&self) -> CloseCode {
        loop {
            let asked = self.asked.notified();
            if let Some(code) = *self.code.lock().unwrap_or_else(PoisonError::into_inner) {
                return code;
            }
            asked.await;
        }
    }
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client said so.
    Left,
    /// The connection broke.
    Gone,
    /// The server closes.
    Close(CloseCode),
}

impl End {
    /// For metrics: what the connection ended with.
    pub fn code(self) -> CloseCode {
        match self {
            Self::Left => CloseCode::Normal,
            Self::Gone => CloseCode::GoingAway,
            Self::Close(code) => code,
        }
    }
}

/// The last message of a session that the server ends on its own account, and
/// not because the client broke the protocol.
pub fn goodbye(code: CloseCode) -> Option<Json> {
    use CloseCode as C;
    let reconnect_after_ms = match code {
        C::Normal | C::ProtocolError | C::Unsupported | C::InvalidPayload | C::TooBig => return None,
        // Everybody is told another delay, so that nobody meets a stampede.
        C::GoingAway | C::Restart => rand::random_range(0..2_000),
        C::Overload | C::SlowConsumer | C::InternalError => rand::random_range(1_000..5_000),
        C::ShardUnavailable => rand::random_range(500..2_000),
        C::HeartbeatTimeout => 0,
        // Coming back makes no sense without a change, such as a new token.
        C::Unauthenticated | C::TokenExpired | C::Kicked | C::RateAbuse | C::ProtocolViolation => 0,
    };
    Some(server::goodbye(code, reconnect_after_ms))
}
