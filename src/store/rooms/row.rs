//! A room as its rows describe it.

use std::sync::Arc;

use super::RoomsError;
use crate::clock::UnixMillis;
use crate::db::Row;
use crate::digests::PasswordHash;
use crate::ids::{RoomId, Slug, UserId};
use crate::position::{Epoch, Position, Seq};
use crate::protocol::{Access, DefaultRole, Role, Schema};

/// What a person asks for when creating a room.
#[derive(Debug, Clone)]
pub struct NewRoom {
    pub room: RoomId,
    pub slug: Slug,
    pub name: String,
    pub owner: UserId,
    pub access: Access,
    pub default_role: DefaultRole,
    pub schema: Schema,
    /// Present if and only if access is by password.
    pub password: Option<PasswordHash>,
    /// One JSON object.
    pub metadata: Arc<str>,
}

/// A room at one moment.
#[derive(Debug, Clone)]
pub struct RoomFacts {
    pub room: RoomId,
    pub slug: Slug,
    pub name: Arc<str>,
    pub owner: UserId,
    pub access: Access,
    pub default_role: DefaultRole,
    pub schema: Schema,
    pub password: Option<PasswordHash>,
    /// One JSON object.
    pub metadata: Arc<str>,
    pub head: Position,
    /// Rises with every change of roles, of access, of the archive.
    pub access_rev: u64,
    pub visits: u64,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
    pub archived_at: Option<UnixMillis>,
    /// None: as the node's configuration says; 0: for ever.
    pub retention_ms: Option<i64>,
}

/// What a member row says of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    Member(Role),
    /// Stays out until given a role or a new invite.
    Removed,
}

impl RoomFacts {
    /// The memory that it takes up, about.
    pub fn bytes(&self) -> usize {
        self.metadata.len() + self.name.len() + 512
    }

    /// What the person may do without showing anything; `None`: nothing yet.
    pub fn role_of(&self, user: &UserId, membership: Option<Membership>) -> Option<Role> {
        match membership {
            _ if self.owner == *user => Some(Role::Owner),
            Some(Membership::Removed) => None,
            Some(Membership::Member(role)) => Some(role),
            None if self.access == Access::Public => Some(self.default_role.into()),
            None => None,
        }
    }

    /// Whether they own the room, alone or as a member with that role. Not by
    /// `default_role`, which anybody has.
    pub fn is_owned_by(&self, user: &UserId, membership: Option<Membership>) -> bool {
        self.owner == *user || membership == Some(Membership::Member(Role::Owner))
    }

    /// The columns of [`columns!`], the first one at `at`.
    pub(super) fn from_row(row: &Row, at: usize) -> Result<Self, RoomsError> {
        let corrupt = |what| RoomsError::Corrupt { what };
        let count = |index: usize| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
        Ok(Self {
            room: RoomId::from_i64(row.get(at)).map_err(|_| corrupt("a room id"))?,
            slug: Slug::new(row.get(at + 1)).map_err(|_| corrupt("a slug"))?,
            name: row.get::<_, &str>(at + 2).into(),
            owner: UserId::new(row.get(at + 3)).map_err(|_| corrupt("a user id"))?,
            access: Access::parse(row.get(at + 4)).ok_or_else(|| corrupt("an access"))?,
            default_role: DefaultRole::parse(row.get(at + 5)).ok_or_else(|| corrupt("a role"))?,
            schema: Schema::parse(row.get(at + 6)).ok_or_else(|| corrupt("a schema"))?,
            password: row.get::<_, Option<String>>(at + 7).map(PasswordHash::new),
            metadata: row.get::<_, &str>(at + 8).into(),
            created_at: UnixMillis(row.get(at + 9)),
            updated_at: UnixMillis(row.get(at + 10)),
            archived_at: row.get::<_, Option<i64>>(at + 11).map(UnixMillis),
            head: Position::new(Epoch::from_i64(row.get(at + 12)), Seq::from_i64(row.get(at + 13))),
            access_rev: count(at + 14),
            visits: count(at + 15),
            retention_ms: row.get(at + 16),
        })
    }
}

#[cfg(test)]
impl RoomFacts {
    /// An empty room of `owner`.
    pub fn example(room: i64, access: Access) -> Self {
        Self {
            room: RoomId::from_i64(room).unwrap(),
            slug: Slug::new("room").unwrap(),
            name: "Room".into(),
            owner: UserId::new("owner").unwrap(),
            access,
            default_role: DefaultRole::Viewer,
            schema: Schema::Drawing,
            password: (access == Access::Password).then(|| PasswordHash::new("$argon2id$".to_owned())),
            metadata: "{}".into(),
            head: Position::BEGINNING,
            access_rev: 1,
            visits: 0,
            created_at: UnixMillis(0),
            updated_at: UnixMillis(0),
            archived_at: None,
            retention_ms: None,
        }
    }
}

impl Membership {
    /// From `room_member.role`.
    pub(super) fn parse(role: &str) -> Result<Self, RoomsError> {
        match role {
            "removed" => Ok(Self::Removed),
            role => Role::parse(role).map(Self::Member).ok_or(RoomsError::Corrupt { what: "a role" }),
        }
    }
}

/// Of `room` and `room_head`, for [`RoomFacts::from_row`].
macro_rules! columns {
    () => {
        "room.id, room.slug, room.name, room.owner, room.access, room.default_role, room.schema,
         room.password_hash, room.metadata::text,
         (extract(epoch FROM room.created_at) * 1000)::bigint,
         (extract(epoch FROM room.updated_at) * 1000)::bigint,
         (extract(epoch FROM room.archived_at) * 1000)::bigint,
         room_head.head_epoch, room_head.head_seq, room_head.access_rev, room_head.visits,
         room.retention_ms"
    };
}
pub(super) use columns;

/// How many [`columns!`] there are.
pub(super) const COLUMNS: usize = 17;
