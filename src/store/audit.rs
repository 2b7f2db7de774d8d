//! The trail of deeds on a shard: who did what to whom, and when.
//!
//! A note is written in the transaction of the deed itself, so that there is
//! neither one without the other. Actors and targets are opaque ids: an erasure
//! leaves the trail as it is. A deed that is run again after a lost COMMIT finds
//! itself done, and makes no second note.

use uuid::Uuid;

use crate::db::{Connection, DbError, Sql};
use crate::ids::{InviteId, RoomId, UserId};
use crate::protocol::Role;

pub const STATEMENTS: &[&Sql] = &[&NOTE];

pub static NOTE: Sql = Sql {
    name: "audit_note",
    text: "INSERT INTO audit (id, actor, action, target) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Somebody was given a role in a room.
    RoleGiven(Role),
    /// Somebody was removed from a room.
    Kicked,
    /// A member left a room.
    Left,
    /// A room has another door, password or `default_role`.
    AccessChanged,
    Archived,
    Unarchived,
    InviteMade,
    InviteRevoked,
    /// Somebody became a member, or more of one, by an invite.
    InviteUsed,
    /// Somebody who asked to be forgotten left a room.
    ErasedLeft,
    /// Their room went to somebody else.
    ErasedTransferred,
    /// Their room had nobody else.
    ErasedArchived,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoleGiven(Role::Viewer) => "role.viewer",
            Self::RoleGiven(Role::Editor) => "role.editor",
            Self::RoleGiven(Role::Owner) => "role.owner",
            Self::Kicked => "kick",
            Self::Left => "leave",
            Self::AccessChanged => "access",
            Self::Archived => "archive",
            Self::Unarchived => "unarchive",
            Self::InviteMade => "invite.made",
            Self::InviteRevoked => "invite.revoked",
            Self::InviteUsed => "invite.used",
            Self::ErasedLeft => "erasure.left",
            Self::ErasedTransferred => "erasure.transferred",
            Self::ErasedArchived => "erasure.archived",
        }
    }
}

/// One deed in a room.
#[derive(Debug, Clone)]
pub struct Note {
    id: Uuid,
    actor: UserId,
    action: Action,
    target: String,
}

impl Note {
    /// `about` is the person it was done to, where that is not the actor.
    pub fn new(actor: &UserId, action: Action, room: RoomId, about: Option<&UserId>) -> Self {
        let target = match about {
            Some(user) => format!("room {room} user {user}"),
            None => format!("room {room}"),
        };
        Self { id: Uuid::now_v7(), actor: actor.clone(), action, target }
    }

    pub fn on_invite(actor: &UserId, action: Action, room: RoomId, invite: InviteId) -> Self {
        let target = format!("room {room} invite {invite}");
        Self { id: Uuid::now_v7(), actor: actor.clone(), action, target }
    }

    /// In the open transaction of `connection`.
    pub async fn write(&self, connection: &Connection) -> Result<(), DbError> {
        let (actor, action) = (self.actor.as_str(), self.action.as_str());
        connection.execute(&NOTE, &[&self.id, &actor, &action, &self.target]).await.map(drop)
    }
}
