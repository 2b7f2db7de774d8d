//! The rooms that a session is in. It leaves them even if its task panics.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::Shared;
use crate::auth::Claims;
use crate::ids::{RoomId, SessionId};
use crate::position::Position;
use crate::protocol::server::Member;
use crate::protocol::{Code, MessageId, Refusal};
use crate::room::access::Admission;
use crate::room::{self, Outbox};
use crate::store::history::Freshness;

pub struct Rooms {
    shared: Arc<Shared>,
    session: SessionId,
    outbox: Outbox,
    joined: BTreeSet<RoomId>,
    /// What it was shown in rooms that it has left, the latest last.
    left: VecDeque<(RoomId, Freshness)>,
}

/// How many rooms are remembered that a session was in: those of whom it comes
/// back to any time soon.
const LEFT_MAX: usize = 64;

impl Rooms {
    pub fn new(shared: &Arc<Shared>, session: &SessionId, outbox: &Outbox) -> Self {
        let (shared, session, outbox) = (shared.clone(), session.clone(), outbox.clone());
        Self { shared, session, outbox, joined: BTreeSet::new(), left: VecDeque::new() }
    }

    /// Into a room that lets the bearer of `claims` in. `id` is for the answer.
    pub async fn join(
        &mut self,
        id: Option<MessageId>,
        admission: Admission,
        claims: &Claims,
        from: Option<Position>,
    ) -> Result<(), Refusal> {
        let room = admission.room;
        let join = room::Join {
            id,
            room,
            slug: admission.slug,
            member: Member {
                session: self.session.clone(),
                user: claims.user.clone(),
                name: claims.name.to_string(),
                role: admission.role,
            },
            access_rev: admission.facts.access_rev,
            from,
            shown: self.left.iter().find(|(left, _)| *left == room).map(|(_, shown)| *shown),
            outbox: self.outbox.clone(),
        };
        // Before the answer: if the session ends in between, it leaves.
        let was_here = !self.joined.insert(room);
        let joined = self.shared.parts.hub.join(join).await;
        if joined.is_err() {
            self.joined.remove(&room);
            if was_here {
                self.remember(room, Freshness::Primary);
            }
        }
        joined
    }

    pub fn is_joined(&self, room: RoomId) -> bool {
        self.joined.contains(&room)
    }

    pub fn check_joined(&self, room: RoomId) -> Result<(), Refusal> {
        if self.is_joined(room) {
            return Ok(());
        }
        Err(Refusal::new(Code::NotJoined, "join the room first"))
    }

    /// `most` = 0: as many as they like.
    pub fn check_limit(&self, room: RoomId, most: u32) -> Result<(), Refusal> {
        let is_new = !self.joined.contains(&room);
        if most > 0 && is_new && self.joined.len() >= most as usize {
            return Err(Refusal::new(Code::RateLimited, format!("at most {most} rooms a session")));
        }
        Ok(())
    }

    pub async fn leave(&mut self, room: RoomId) {
        if self.joined.remove(&room) {
            let shown = self.shared.parts.hub.leave(room, &self.session).await.await;
            self.remember(room, shown.unwrap_or(Freshness::Primary));
        }
    }

    fn remember(&mut self, room: RoomId, shown: Freshness) {
        self.left.retain(|(left, _)| *left != room);
        self.left.push_back((room, shown));
        if self.left.len() > LEFT_MAX {
            self.left.pop_front();
        }
    }

    pub async fn leave_all(&mut self) {
        while let Some(room) = self.joined.pop_first() {
            drop(self.shared.parts.hub.leave(room, &self.session).await);
        }
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        if self.joined.is_empty() {
            return;
        }
        self.outbox.shut();
        let (joined, session) = (std::mem::take(&mut self.joined), self.session.clone());
        let hub = self.shared.parts.hub.clone();
        self.shared.parts.tasks.spawn("session-leaves", async move {
            for room in joined {
                drop(hub.leave(room, &session).await);
            }
        });
    }
}
