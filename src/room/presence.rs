//! Who is in a room, on this node and on others. Pure.
//!
//! Local sessions are certain; those of other nodes are what they told over the
//! bus, and are dropped when their node dies or the bus is away. Changes wait for
//! the room's tick, so that a storm of joins is one message a tick, not one a
//! join; and for a session that can't be told now, until it can.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Deserialize;

use crate::bus::NodeId;
use crate::ids::SessionId;
use crate::protocol::Role;
use crate::protocol::server::Member;

/// Above so many, lists are left out and only the count is told.
pub const LISTED_MAX: usize = 100;

/// The members that a session may owe to be told of; of more only the count.
const BEHIND_MAX: usize = 4 * LISTED_MAX;

/// What one node tells the others, and what a tick tells the sessions.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Change {
    #[serde(default)]
    pub joined: Vec<Member>,
    #[serde(default)]
    pub left: Vec<SessionId>,
}

impl Change {
    /// `None` for what can't be read.
    pub fn from_bytes(bytes: &Bytes) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.left.is_empty()
    }

    /// Everybody it is about.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionId> {
        self.joined.iter().map(|member| &member.session).chain(&self.left)
    }
}

/// What a session has yet to be told, because it could not be.
#[derive(Debug, Default)]
pub struct Behind {
    /// Who came or went.
    sessions: BTreeSet<SessionId>,
    /// More than are named.
    count: bool,
}

impl Behind {
    /// `shown` names whom it may be told of; the count may have changed by others.
    pub fn add(&mut self, shown: &Change, count: bool) {
        self.sessions.extend(shown.sessions().cloned());
        self.count |= count && shown.is_empty();
        if self.sessions.len() > BEHIND_MAX {
            *self = Self { count: true, ..Self::default() };
        }
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && !self.count
    }
}

/// The members of one room.
#[derive(Debug)]
pub struct Presence {
    here: NodeId,
    members: BTreeMap<SessionId, (NodeId, Member)>,
    /// Sessions whose coming or going has not been told yet.
    untold: BTreeSet<SessionId>,
    /// What the sessions here were last told: who is there, and as what.
    told: BTreeMap<SessionId, Role>,
    /// Sessions of other nodes that came or went since the stored list was last
    /// asked for: what was heard of them is newer than the list.
    heard: BTreeSet<SessionId>,
}

impl Presence {
    pub fn new(here: NodeId) -> Self {
        Self {
            here,
            members: BTreeMap::new(),
            untold: BTreeSet::new(),
            told: BTreeMap::new(),
            heard: BTreeSet::new(),
        }
    }

    /// Takes who is here on other nodes before anybody is here, who could be told.
    pub fn begin(&mut self, remote: Vec<(NodeId, Member)>) {
        self.replace_remote(remote);
        self.take_untold();
    }

    /// True if the member is new, or has another role.
    pub fn enter(&mut self, member: Member) -> bool {
        self.insert(self.here, member)
    }

    /// A session here has another role now, with which it is returned.
    pub fn set_role(&mut self, session: &SessionId, role: Role) -> Option<Member> {
        let (_, member) = self.members.get_mut(session).filter(|(_, member)| member.role != role)?;
        member.role = role;
        self.untold.insert(session.clone());
        Some(member.clone())
    }

    /// True if the member was there.
    pub fn leave(&mut self, session: &SessionId) -> bool {
        let removed = self.members.remove(session).is_some();
        if removed {
            self.untold.insert(session.clone());
        }
        removed
    }

    /// What another node told.
    pub fn apply(&mut self, origin: NodeId, change: Change) {
        for member in change.joined {
            self.heard.insert(member.session.clone());
            self.insert(origin, member);
        }
        for session in change.left {
            self.heard.insert(session.clone());
            if self.members.get(&session).is_some_and(|(from, _)| *from == origin) {
                self.leave(&session);
            }
        }
    }

    /// The stored list is being asked for.
    pub fn recall_begins(&mut self) {
        self.heard.clear();
    }

    /// Takes the full list of other nodes' members, as the bus stores it:
    /// whoever is not in it has gone with its node, unless it was heard of
    /// since the list was asked for.
    pub fn replace_remote(&mut self, remote: Vec<(NodeId, Member)>) {
        let present: BTreeSet<_> = remote.iter().map(|(_, member)| member.session.clone()).collect();
        let gone: Vec<_> = self
            .members
            .iter()
            .filter(|(session, (origin, _))| {
                *origin != self.here && !present.contains(*session) && !self.heard.contains(*session)
            })
            .map(|(session, _)| session.clone())
            .collect();
        gone.iter().for_each(|session| {
            self.leave(session);
        });
        for (origin, member) in remote {
            if origin != self.here && !self.heard.contains(&member.session) {
                self.insert(origin, member);
            }
        }
    }

    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// The first hundred, by session id.
    pub fn listed(&self) -> Vec<Member> {
        self.members.values().take(LISTED_MAX).map(|(_, member)| member.clone()).collect()
    }

    pub fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// What has changed since the last tick; forgets it.
    pub fn take_untold(&mut self) -> Change {
        let mut change = Change::default();
        for session in std::mem::take(&mut self.untold) {
            match self.members.get(&session) {
                Some((_, member)) => {
                    if self.told.insert(session, member.role) != Some(member.role) {
                        change.joined.push(member.clone());
                    }
                }
                None => {
                    if self.told.remove(&session).is_some() {
                        change.left.push(session);
                    }
                }
            }
        }
        change
    }

    /// What `behind` comes to now for the session `told`, which isn't told of
    /// itself; `None` if that is nothing.
    pub fn change_since(&self, behind: &Behind, told: &SessionId) -> Option<Change> {
        let mut change = Change::default();
        for session in behind.sessions.iter().filter(|session| *session != told) {
            match self.members.get(session) {
                Some((_, member)) => change.joined.push(member.clone()),
                None => change.left.push(session.clone()),
            }
        }
        (behind.count || !change.is_empty()).then_some(change)
    }

    fn insert(&mut self, origin: NodeId, member: Member) -> bool {
        let (session, role) = (member.session.clone(), member.role);
        let known = self.members.insert(session.clone(), (origin, member));
        let changed = known.is_none_or(|(_, known)| known.role != role);
        if changed {
            self.untold.insert(session);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ids::UserId;
    use crate::protocol::Role;

    fn member(session: &str) -> Member {
        Member {
            session: SessionId::new(session).unwrap(),
            user: UserId::new("u").unwrap(),
            name: "Ann".to_owned(),
            role: Role::Editor,
        }
    }

    #[test]
    fn coming_and_going_between_two_ticks_is_not_told() {
        let mut presence = Presence::new(NodeId(1));
        presence.enter(member("a"));
        presence.enter(member("b"));
        presence.leave(&SessionId::new("b").unwrap());
        let change = presence.take_untold();
        assert_eq!((change.joined, change.left), (vec![member("a")], vec![]));
        assert!(presence.take_untold().is_empty());
    }

    #[test]
    fn another_role_is_told_once_and_only_if_it_stays() {
        let (mut presence, ann) = (Presence::new(NodeId(1)), SessionId::new("ann").unwrap());
        presence.enter(member("ann"));
        presence.take_untold();
        presence.set_role(&ann, Role::Viewer);
        presence.set_role(&ann, Role::Editor);
        assert!(presence.take_untold().is_empty());
        let viewer = Member { role: Role::Viewer, ..member("ann") };
        assert_eq!(presence.set_role(&ann, Role::Viewer), Some(viewer.clone()));
        assert_eq!(presence.set_role(&ann, Role::Viewer), None);
        assert_eq!(presence.take_untold().joined, [viewer]);
        assert!(!presence.enter(Member { role: Role::Viewer, ..member("ann") }), "joined again as it is");
        assert!(presence.enter(member("ann")), "joined again with another role");
        assert_eq!(presence.take_untold().joined, [member("ann")]);
    }

    #[test]
    fn what_was_heard_since_the_list_was_asked_for_is_newer_than_the_list() {
        let (node, left) = (NodeId(2), SessionId::new("left").unwrap());
        let mut presence = Presence::new(NodeId(1));
        presence.recall_begins();
        presence.apply(node, Change { joined: vec![member("came")], left: vec![left] });
        presence.replace_remote(vec![(node, member("left"))]);
        assert_eq!(presence.listed(), [member("came")]);
    }

    #[test]
    fn who_was_behind_is_told_how_it_ended_but_not_of_itself() {
        let (mut presence, mut behind) = (Presence::new(NodeId(1)), Behind::default());
        for name in ["ann", "bob", "cora"] {
            presence.enter(member(name));
            behind.add(&presence.take_untold(), true);
        }
        let [ann, bob] = ["ann", "bob"].map(|name| SessionId::new(name).unwrap());
        presence.leave(&ann);
        behind.add(&presence.take_untold(), true);
        let expected = Change { joined: vec![member("cora")], left: vec![ann] };
        assert_eq!(presence.change_since(&behind, &bob), Some(expected));

        let mut only_itself = Behind::default();
        only_itself.add(&Change { joined: vec![member("bob")], left: vec![] }, true);
        assert_eq!(presence.change_since(&only_itself, &bob), None);
    }

    #[test]
    fn of_too_many_only_the_count_is_owed() {
        let (presence, mut behind) = (Presence::new(NodeId(1)), Behind::default());
        for n in 0..10 * BEHIND_MAX {
            behind.add(&Change { joined: vec![member(&format!("s{n}"))], left: vec![] }, true);
            assert!(behind.sessions.len() <= BEHIND_MAX && !behind.is_empty());
        }
        behind = Behind::default();
        behind.add(&Change::default(), true);
        let count_only = presence.change_since(&behind, &SessionId::new("ann").unwrap());
        assert_eq!(count_only, Some(Change::default()));
    }

    #[test]
    fn members_of_a_dead_node_leave_and_local_ones_stay() {
        let mut presence = Presence::new(NodeId(1));
        presence.enter(member("here"));
        presence.apply(NodeId(2), Change { joined: vec![member("there")], left: vec![] });
        presence.take_untold();
        presence.recall_begins();
        presence.replace_remote(vec![]);
        let change = presence.take_untold();
        assert_eq!(change.left, [SessionId::new("there").unwrap()]);
        assert_eq!(presence.listed(), [member("here")]);
    }
}
