//! One client each: the handshake, what it says, what it is told, and how it
//! ends.
//!
//! A session is one task that runs a reader, a writer and a watch side by side
//! over one socket, and leaves its rooms when any of them ends. Guarantees: the
//! answers of one session come in the order of its messages, but for acks, which
//! come in order within a room; what a client costs is bounded (one frame read,
//! one batch written, [`IN_FLIGHT_MAX`] submits, its outbox); nothing is acked
//! that `store::append` has not reported as committed.
//!
//! Knows no SQL and no Redis. The drawing app's first protocol, and Server-Sent
//! Events, are [`dialect::Dialect`]s of the same session.

mod abuse;
mod asked;
mod client_io;
mod conversation;
mod decoder;
mod dialect;
mod echo;
mod ending;
mod event_stream;
mod frame;
mod handshake;
mod legacy;
mod legacy_join;
mod reader;
mod registry;
mod rooms;
mod socket;
mod stream;
mod submits;
mod vitals;
mod watch;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use crate::auth::{Claims, Origins, Verifier};
use crate::config;
use crate::ids::{NodeName, SessionId};
use crate::limits::Limits;
use crate::protocol::server::AnnouncedLimits;
use crate::protocol::{CloseCode, Code, FrameLimits, Refusal};
use crate::room::Hub;
use crate::room::access::Access;
use crate::store::append::Appender;
use crate::tasks::Tasks;

pub use client_io::ClientIo;
pub use handshake::{HandshakeRefusal, upgrade_to_echo};
pub use stream::{Stream, Wish};
pub use submits::{IN_FLIGHT_MAX, answer_to_submit};

use registry::Registry;

/// All sessions of a node. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    shared: Arc<Shared>,
}

/// What sessions are built on.
pub struct Parts {
    pub node: NodeName,
    pub hub: Hub,
    pub access: Access,
    pub appender: Appender,
    pub verifier: Verifier,
    pub limits: Limits,
    pub origins: Origins,
    pub tasks: Tasks,
    pub config: config::Sessions,
    /// Whether the drawing app's first protocol is spoken.
    pub legacy_protocol: bool,
    /// After so long a submit is answered, or its fate is unknown.
    pub submit_timeout: Duration,
}

struct Shared {
    parts: Parts,
    registry: Registry,
}

impl Sessions {
    pub fn new(parts: Parts) -> Self {
        Self { shared: Arc::new(Shared { parts, registry: Registry::default() }) }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.shared.registry.count()
    }

    /// Ends the sessions whose token is such a one, as unauthenticated. Answers
    /// how many there are.
    pub fn end_where(&self, is_meant: impl Fn(&Claims) -> bool) -> usize {
        self.shared.registry.end_where(is_meant, CloseCode::Unauthenticated)
    }

    /// Takes no more, and says goodbye to all that are open: evenly paced over
    /// `window`, each with a delay of its own for coming back. Returns when all
    /// have ended, or after `limit`.
    pub async fn drain(&self, window: Duration, limit: Duration) {
        self.shared.registry.drain(window, limit).await;
    }
}

impl Shared {
    /// Whoever revokes tokens finds the session by this one from now on; one that
    /// was revoked just before is refused here.
    fn sign_in(&self, session: &SessionId, claims: &Claims) -> Result<(), Refusal> {
        self.registry.signed_in(session, claims);
        if self.parts.verifier.is_revoked(claims) {
            return Err(Refusal::new(Code::Unauthenticated, "a valid token is needed"));
        }
        Ok(())
    }

    fn frame_limits(&self) -> FrameLimits {
        let limits = self.parts.limits.configured();
        FrameLimits {
            frame_bytes: limits.frame_bytes,
            message_bytes: limits.message_bytes,
            json_depth: limits.json_depth,
        }
    }

    fn announced_limits(&self) -> AnnouncedLimits {
        let limits = self.parts.limits.configured();
        AnnouncedLimits {
            message_bytes: limits.message_bytes,
            frame_bytes: limits.frame_bytes,
            json_depth: limits.json_depth,
            rooms_per_session: limits.rooms_per_session,
            submits_per_second: limits.submits_per_second,
            submit_burst: limits.submit_burst,
            signals_per_second: limits.signals_per_second,
            sessions_per_user: limits.sessions_per_user,
        }
    }
}

/// Around what a session has done by those who don't know it, where that may be
/// logged. Not around all of it: that would cost every message a little, and a
/// session is where messages are many.
fn log_span(session: &SessionId) -> tracing::Span {
    tracing::info_span!("session", %session)
}
