//! Rights: who may no longer be here, and as what the others are. Nobody is in
//! an archived room: whoever was is told, and may stay connected.
//!
//! Each session remembers as of which `access_rev` it was let in or judged. When
//! whoever raised it, or the head check, tells of another one, the primary is asked
//! about all of them together. Submits are judged in their own transactions; this is
//! about seeing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Command, FeedId, Room};
use crate::ids::{SessionId, UserId};
use crate::protocol::{CloseCode, server};
use crate::store::rooms::refusals::archived;
use crate::store::rooms::{Rights, RoomsError};

/// How long the primary may take; the next head check asks again.
const PATIENCE: Duration = Duration::from_secs(2);

impl Room {
    /// An older `access_rev` than known is one as well: a failover may have cut
    /// changes off.
    pub(super) fn check_rights(&mut self, access_rev: u64) {
        if self.judging {
            // What is being asked may be older than this.
            self.judge_next = Some(access_rev);
            return;
        }
        let outdated = || self.sessions.iter().filter(|(_, entry)| entry.access_rev != access_rev);
        let users: BTreeSet<UserId> = outdated().map(|(_, entry)| entry.user.clone()).collect();
        if users.is_empty() {
            return;
        }
        let asked = outdated().map(|(session, entry)| (session.clone(), entry.feed)).collect();
        self.judging = true;
        let (context, room, itself) = (self.context.clone(), self.id, self.itself.clone());
        self.context.tasks.spawn("room-rights", async move {
            let users: Vec<UserId> = users.into_iter().collect();
            let rights = context.rooms.rights(room, &users, Instant::now() + PATIENCE).await;
            // An error means that the room has ended with everybody in it.
            if itself.send(Command::Rights { asked, rights }).await.is_err() {}
        });
    }

    /// Who joined since the primary was asked was let in by what is newer.
    pub(super) fn judged(&mut self, asked: Vec<(SessionId, FeedId)>, rights: Result<Rights, RoomsError>) {
        self.judging = false;
        match rights {
            Ok(rights) => self.apply_rights(asked, &rights),
            Err(error) => tracing::warn!(room = %self.id, %error, "can't reread who may be in a room"),
        }
        if let Some(access_rev) = self.judge_next.take() {
            self.check_rights(access_rev);
        }
    }

    fn apply_rights(&mut self, asked: Vec<(SessionId, FeedId)>, rights: &Rights) {
        let mut changed = Vec::new();
        for (session, feed) in asked {
            let Some(entry) = self.sessions.get_mut(&session).filter(|entry| entry.feed == feed) else {
                continue;
            };
            entry.access_rev = rights.access_rev;
            match rights.roles.get(&entry.user) {
                Some(Some(_)) if rights.is_archived => {
                    entry.outbox.put_out(server::error(None, None, None, Some(self.id), &archived()));
                    self.leave(&session);
                }
                Some(Some(role)) => changed.extend(self.presence.set_role(&session, *role)),
                Some(None) => {
                    tracing::info!(room = %self.id, %session, user = %entry.user, "a session may not be here any more");
                    entry.outbox.expel(CloseCode::Kicked);
                    self.leave(&session);
                }
                None => {}
            }
        }
        changed.iter().for_each(|member| self.share_member(member));
        self.tell_presence_soon();
    }
}
