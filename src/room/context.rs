//! What every room of this node shares.

use tokio::sync::Notify;

use super::announcement::Announcement;
use super::states::States;
use crate::bus::Bus;
use crate::bus::NodeId;
use crate::config;
use crate::ids::RoomId;
use crate::limits::Limits;
use crate::protocol::server::Member;
use crate::store::history::History;
use crate::store::rooms::Rooms;
use crate::tasks::Tasks;
use crate::traces::Traces;

pub struct Context {
    pub node: NodeId,
    pub history: History,
    pub rooms: Rooms,
    pub bus: Bus,
    pub tasks: Tasks,
    pub sessions: config::Sessions,
    /// Announcements may have been lost: the heads are compared at once.
    pub heads_due: Notify,
    pub states: States,
    pub traces: Traces,
    pub limits: Limits,
}

impl Context {
    pub fn new(
        node: NodeId,
        history: History,
        rooms: Rooms,
        bus: Bus,
        tasks: Tasks,
        sessions: config::Sessions,
        states: States,
    ) -> Self {
        let (heads_due, traces) = (Notify::new(), Traces::default());
        let limits = Limits::new(&config::Limits::default());
        Self { node, history, rooms, bus, tasks, sessions, heads_due, states, traces, limits }
    }

    pub fn limited_by(self, limits: &Limits) -> Self {
        Self { limits: limits.clone(), ..self }
    }

    pub fn traced_by(self, traces: &Traces) -> Self {
        Self { traces: traces.clone(), ..self }
    }

    /// Tells the other nodes. Never waits; while Redis is away, or when its queue
    /// is full, it is dropped, and the other nodes find what they miss in the log.
    pub fn announce(&self, room: RoomId, announcement: &Announcement) {
        self.bus.publish(room, announcement.encode(self.node));
    }

    /// Who is in `room` on other nodes; `None` while the bus is away.
    pub async fn remote_members(&self, room: RoomId) -> Option<Vec<(NodeId, Member)>> {
        if !self.bus.shares_presence() {
            return None;
        }
        let stored = self.bus.members(room).await.ok()?;
        let member = |(node, text): &(NodeId, String)| Some((*node, serde_json::from_str(text).ok()?));
        Some(stored.iter().filter_map(member).collect())
    }
}
