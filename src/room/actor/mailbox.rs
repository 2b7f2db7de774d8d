//! How a room is spoken to: the messages of its mailbox, and the handle that
//! sends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::super::outbox::Outbox;
use super::super::presence::Change;
use crate::bus::NodeId;
use crate::clock::UnixMillis;
use crate::ids::SessionId;
use crate::position::Position;
use crate::protocol::server::{Member, ResyncReason};
use crate::protocol::{Json, Refusal};
use crate::store::history::{EventDigest, Freshness, Head, LogEvent, PageOutcome, ReadError};
use crate::store::rooms::{Rights, RoomsError};
use crate::traces::Carried;

/// Messages that may wait for a room.
const MAILBOX: usize = 1024;

/// Tells a session's feed from the one it had before it joined again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedId(pub(super) u64);

pub enum Command {
    Join {
        member: Member,
        access_rev: u64,
        outbox: Outbox,
        from: Option<Position>,
        reply: oneshot::Sender<Result<Admitted, Refusal>>,
    },
    Leave {
        session: SessionId,
        /// It may come back, and then is to see what holds all that it was shown.
        shown: oneshot::Sender<Freshness>,
    },
    Next {
        session: SessionId,
        feed: FeedId,
        after: Position,
        reply: oneshot::Sender<Next>,
    },
    /// This node's own commits, and what other nodes announce.
    Events {
        events: Vec<LogEvent>,
        committed_at: UnixMillis,
    },
    /// Of events that come next.
    Traces {
        carried: Carried,
    },
    /// A local session's signal, or another node's.
    Signals {
        signals: Vec<(SessionId, Json)>,
        local: bool,
    },
    Presence {
        origin: NodeId,
        change: Change,
    },
    /// Who is here on other nodes; `None` if the bus didn't say.
    Remote {
        members: Option<Vec<(NodeId, Member)>>,
    },
    /// The bus is away, and nobody can tell who is here on other nodes.
    Alone,
    /// What the periodic comparison with the log found.
    Head {
        head: Position,
        access_rev: u64,
        event: Option<EventDigest>,
    },
    /// Who may be here has changed, as of this.
    AccessRev {
        access_rev: u64,
    },
    /// What the primary says of sessions that were judged as of another
    /// `access_rev`.
    Rights {
        asked: Vec<(SessionId, FeedId)>,
        rights: Result<Rights, RoomsError>,
    },
    /// Announcements may have been lost.
    Missed,
    /// The bus came back, perhaps empty.
    BusLost,
    /// Who is here on other nodes may have changed unheard.
    Recall,
    Repaired {
        outcome: Result<PageOutcome, ReadError>,
        from_primary: bool,
    },
    Restarted {
        head: Result<Head, ReadError>,
        reason: ResyncReason,
    },
    /// Would a session at this position be fed without reading the log?
    Covers {
        position: Position,
        reply: oneshot::Sender<bool>,
    },
    Who {
        reply: oneshot::Sender<(usize, Vec<Member>)>,
    },
}

/// What a joiner is told before its pages.
pub struct Admitted {
    pub feed: FeedId,
    pub members: Vec<Member>,
    pub count: usize,
    pub delivered: Position,
    /// Of a session that was here already: what holds all that it was shown.
    pub shown: Option<Freshness>,
    /// The events after the asked position, if memory has them all.
    pub recent: Option<Vec<LogEvent>>,
}

/// What a catching-up session gets next.
pub enum Next {
    /// It has seen all that was delivered, and is fed live from here.
    Live,
    Events(Vec<LogEvent>),
    /// Memory doesn't reach back so far: read the log, which goes at least so far.
    Log {
        head: Position,
    },
    /// Its feed has ended: it left, or joined again.
    Gone,
}

/// A cheap handle to a room's task.
#[derive(Clone)]
pub struct RoomHandle {
    mailbox: mpsc::Sender<Command>,
    missed: Arc<AtomicBool>,
    /// Events came over the bus since the head's event was last compared.
    unproven: Arc<AtomicBool>,
    /// Sessions in the room over all nodes.
    members: Arc<AtomicUsize>,
}

impl RoomHandle {
    pub(super) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (mailbox, commands) = mpsc::channel(MAILBOX);
        (
            Self { mailbox, missed: Arc::default(), unproven: Arc::default(), members: Arc::default() },
            commands,
        )
    }

    /// Whether an announcement found the mailbox full; forgets it.
    pub(super) fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }

    pub(super) fn has_missed(&self) -> bool {
        self.missed.load(Ordering::Acquire)
    }

    pub(super) fn set_members(&self, count: usize) {
        self.members.store(count, Ordering::Relaxed);
    }

    /// The sessions in the room over all nodes, as of its last step.
    pub fn members(&self) -> usize {
        self.members.load(Ordering::Relaxed)
    }

    /// The next head check compares the head's event too.
    pub fn doubt_head(&self) {
        self.unproven.store(true, Ordering::Release);
    }

    /// Whether the head's event is to be compared; forgets it.
    pub fn take_unproven(&self) -> bool {
        self.unproven.swap(false, Ordering::AcqRel)
    }

    /// `Err` when the room has just ended: open it anew.
    pub async fn send(&self, command: Command) -> Result<(), ()> {
        self.mailbox.send(command).await.map_err(drop)
    }

    /// For what the log can replace. Never waits.
    pub fn announce(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.mailbox.try_send(command) {
            self.missed.store(true, Ordering::Release);
        }
    }

    /// For what is outdated soon. Never waits; a full mailbox drops it.
    pub fn hint(&self, command: Command) {
        if self.mailbox.try_send(command).is_err() {}
    }

    pub fn is_ended(&self) -> bool {
        self.mailbox.is_closed()
    }

    pub fn is_same(&self, other: &Self) -> bool {
        self.mailbox.same_channel(&other.mailbox)
    }

    pub async fn covers(&self, position: Position) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Covers { position, reply }).await.is_ok() && answer.await.unwrap_or(false)
    }
}
