//! What is committed, as a type: only a transaction that ended well can make
//! one, so nothing else can be announced.

use crate::clock::UnixMillis;
use crate::ids::RoomId;
use crate::log::Event;
use crate::position::Position;
use crate::protocol::Json;
use crate::traces::Carried;

use super::transaction::CommitProof;

/// Events of one room that one transaction put into its log, in seq order and
/// without a hole between them.
#[derive(Debug, Clone)]
pub struct Committed {
    room: RoomId,
    events: Vec<CommittedEvent>,
    committed_at: UnixMillis,
    traces: Carried,
}

/// An event that is in the log, with its one encoding.
#[derive(Debug, Clone)]
pub struct CommittedEvent {
    event: Event,
    json: Json,
}

/// Takes what was committed, before any of its submitters is answered. Called
/// on a lane, in seq order within a room: must neither block nor be slow.
pub trait Announce: Send + Sync + 'static {
    fn announce(&self, committed: Committed);
}

impl Committed {
    /// Groups by room; `events` are in seq order within each room.
    pub(super) fn group(events: Vec<Event>, _proof: &CommitProof) -> Vec<Self> {
        let committed_at = UnixMillis::now();
        let mut groups: Vec<Self> = Vec::new();
        let mut group_of = std::collections::HashMap::new();
        for event in events {
            let at = *group_of.entry(event.room).or_insert_with(|| {
                let (room, traces) = (event.room, Carried::default());
                groups.push(Self { room, events: Vec::new(), committed_at, traces });
                groups.len() - 1
            });
            let json = event.to_json();
            groups[at].events.push(CommittedEvent { event, json });
        }
        groups
    }

    pub fn room(&self) -> RoomId {
        self.room
    }

    /// Never empty.
    pub fn events(&self) -> &[CommittedEvent] {
        &self.events
    }

    /// Of those events that are traced.
    pub fn traces(&self) -> &Carried {
        &self.traces
    }

    pub(super) fn traces_mut(&mut self) -> &mut Carried {
        &mut self.traces
    }

    /// When this node saw COMMIT succeed.
    pub fn committed_at(&self) -> UnixMillis {
        self.committed_at
    }
}

impl CommittedEvent {
    pub fn position(&self) -> Position {
        self.event.position
    }

    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The `event` message; shared by all who receive it.
    pub fn json(&self) -> &Json {
        &self.json
    }
}
