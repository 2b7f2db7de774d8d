//! The submits of one session that are not answered yet, and their answers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ids::{OpId, RoomId};
use crate::log::{Outcome, Rejection};
use crate::metrics::gateway;
use crate::protocol::server::{self, Collision, Effect};
use crate::protocol::{CloseCode, Json, MessageId};
use crate::room::Outbox;
use crate::store::append::Unknown;

/// With so many unanswered, the session's reader stops reading.
pub const IN_FLIGHT_MAX: u32 = 256;

/// Counts what is in flight. Cheap to clone.
#[derive(Clone)]
pub struct InFlight {
    permits: Arc<Semaphore>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize)) }
    }
}

impl InFlight {
    /// A place for one more; `None` when there is none now.
    pub fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Waits for a place. Cancel-safe.
    pub async fn enter(&self) -> OwnedSemaphorePermit {
        self.permits.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    pub fn is_empty(&self) -> bool {
        self.permits.available_permits() == IN_FLIGHT_MAX as usize
    }

    /// Waits until everything is answered. Cancel-safe.
    pub async fn none(&self) {
        drop(self.permits.acquire_many(IN_FLIGHT_MAX).await);
    }
}

/// Who is to be told what became of a submit.
pub struct Receipt {
    pub id: Option<MessageId>,
    pub room: RoomId,
    pub op: OpId,
    pub outbox: Outbox,
    /// Given back when this is dropped, answered or not.
    pub place: OwnedSemaphorePermit,
}

impl Receipt {
    /// Runs on an append lane: encodes and queues, nothing else.
    pub fn settle(self, outcome: Result<Outcome, Unknown>) {
        match outcome {
            Ok(outcome) => {
                let answer = answer_to_submit(self.id.as_ref(), self.room, &self.op, &outcome);
                self.outbox.answer(answer);
            }
            // Neither yes nor no is known to be true: the client comes back and
            // submits the same op again.
            Err(Unknown) => self.outbox.close(CloseCode::ShardUnavailable),
        }
        drop(self.place);
    }
}

/// The one answer to a decided submit, over whichever transport it came.
pub fn answer_to_submit(id: Option<&MessageId>, room: RoomId, op: &OpId, outcome: &Outcome) -> Json {
    match outcome {
        Outcome::Accepted(ack) => {
            let (position, version) = (ack.position, ack.version);
            let effect = Effect { position, version, duplicate: ack.duplicate, cleared: ack.cleared };
            server::ack(id, room, op, &effect)
        }
        Outcome::Rejected(Rejection { refusal, current }) => {
            gateway::rejected(refusal.code);
            let current = current
                .as_ref()
                .map(|current| Collision { version: current.version, shape: current.shape.as_deref() });
            server::reject(id, room, op, refusal, current)
        }
    }
}
