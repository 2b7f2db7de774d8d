//! Who is here: told to the sessions of this node and, by the bus, to the others.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::super::presence::{Behind, Change, LISTED_MAX};
use super::{Command, Room};
use crate::bus::NodeId;
use crate::ids::{RoomId, SessionId};
use crate::protocol::Json;
use crate::protocol::server::{self, Member, PresenceChange};

/// How long presence changes wait to be told together.
pub(super) const PRESENCE_TICK: Duration = Duration::from_millis(250);
/// Until others have stored what they are about to store: after the bus was away,
/// or while this room could not listen yet.
const RECALL_DELAY: Duration = Duration::from_secs(2);

impl Room {
    /// With the other nodes.
    pub(super) fn share_member(&self, member: &Member) {
        let stored = serde_json::to_string(member).expect("strings always serialize");
        self.context.bus.presence_enter(self.id, &member.session, stored);
    }

    pub(super) fn tell_presence_soon(&mut self) {
        if self.presence.has_untold() {
            self.timers.presence.get_or_insert(Instant::now() + PRESENCE_TICK);
        }
    }

    pub(super) fn tell_presence(&mut self) {
        let change = self.presence.take_untold();
        let count = self.presence.count();
        let is_listed = count <= LISTED_MAX;
        let shown = if is_listed { change.clone() } else { Change::default() };
        let shared = message(self.id, &shown, count);
        let about: BTreeSet<&SessionId> = shown.sessions().collect();
        let left: BTreeSet<&SessionId> = change.left.iter().collect();
        for (session, entry) in &mut self.sessions {
            if !left.is_empty() {
                // Whoever is told that somebody left must not see them move later.
                entry.outbox.keep_signals(|room, from| room != self.id || !left.contains(from));
            }
            let as_all = entry.is_live() && entry.behind.is_empty() && !about.contains(session);
            if as_all && change.is_empty() {
                continue;
            }
            let fed = if as_all {
                entry.outbox.try_feed(&shared)
            } else {
                entry.behind.add(&shown, !change.is_empty());
                if !entry.is_live() {
                    continue;
                }
                match self.presence.change_since(&entry.behind, session) {
                    Some(own) if is_listed => entry.outbox.try_feed(&message(self.id, &own, count)),
                    Some(_) => entry.outbox.try_feed(&shared),
                    None => Ok(()),
                }
            };
            if fed.is_ok() {
                entry.behind = Behind::default();
            } else {
                entry.behind.add(&shown, !change.is_empty());
                self.timers.presence.get_or_insert(Instant::now() + PRESENCE_TICK);
            }
        }
    }

    /// Asks the bus who is here on other nodes, once at a time.
    pub(super) fn recall_members(&mut self) {
        if self.recalling || !self.context.bus.shares_presence() {
            return self.recall_soon();
        }
        self.recalling = true;
        self.presence.recall_begins();
        let (context, room, itself) = (self.context.clone(), self.id, self.itself.clone());
        self.context.tasks.spawn("room-members", async move {
            let members = context.remote_members(room).await;
            // An error means that the room has ended.
            if itself.send(Command::Remote { members }).await.is_err() {}
        });
    }

    pub(super) fn recalled(&mut self, members: Option<Vec<(NodeId, Member)>>) {
        self.recalling = false;
        match members {
            Some(members) => self.replace_remote(members),
            None => self.recall_soon(),
        }
    }

    /// Nobody knows who is here on other nodes.
    pub(super) fn forget_remote(&mut self) {
        self.presence.recall_begins();
        self.replace_remote(Vec::new());
        self.recall_soon();
    }

    pub(super) fn recall_soon(&mut self) {
        self.timers.recall.get_or_insert(Instant::now() + RECALL_DELAY);
    }

    fn replace_remote(&mut self, members: Vec<(NodeId, Member)>) {
        self.presence.replace_remote(members);
        self.tell_presence_soon();
    }
}

fn message(room: RoomId, change: &Change, count: usize) -> Json {
    server::presence(&PresenceChange { room, joined: &change.joined, left: &change.left, count })
}
