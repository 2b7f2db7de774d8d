//! Who comes in becomes a member: decided on what the rows say under the room's
//! lock, whatever an older answer may have said at the door.

use std::time::Instant;

use super::members::SET_ROLE;
use super::refusals::{archived, invalid_invite, invite_needed, password_needed, removed, wrong_password};
use super::standing::{self, Standing};
use super::write::Change;
use super::{Membership, Rooms, RoomsError};
use crate::db::{Connection, Sql};
use crate::digests::{InviteDigest, PasswordHash};
use crate::ids::{InviteId, RoomId, UserId};
use crate::protocol::{Access, Refusal, Role};
use crate::store::audit::{Action, Note};

pub(super) static INVITE: Sql = Sql {
    name: "invite_find",
    text: "SELECT id, role, made_rev,
                  revoked OR coalesce(expires_at <= now(), false) OR coalesce(uses >= max_uses, false)
             FROM room_invite WHERE room_id = $1 AND digest = $2",
};

pub(super) static USE_INVITE: Sql =
    Sql { name: "invite_use", text: "UPDATE room_invite SET uses = uses + 1 WHERE room_id = $1 AND id = $2" };

/// What somebody comes in with.
#[derive(Debug, Clone, Copy)]
pub enum Key<'a> {
    Nothing,
    /// They knew the password behind this hash.
    Password(&'a PasswordHash),
    /// They showed a text with this digest.
    Invite(&'a InviteDigest),
}

/// Somebody may be in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    pub role: Role,
    /// As of which.
    pub access_rev: u64,
}

impl Rooms {
    /// Makes `user` a member, unless they are one, or own the room; a right invite
    /// makes a member more of one. Refused as at the door. An invite is used once
    /// for each whom it made anything.
    pub async fn admit(
        &self,
        room: RoomId,
        user: &UserId,
        key: Key<'_>,
        deadline: Instant,
    ) -> Result<Admitted, RoomsError> {
        self.change(&Admit { room, user, key }, deadline).await
    }
}

struct Admit<'a> {
    room: RoomId,
    user: &'a UserId,
    key: Key<'a>,
}

impl Change for Admit<'_> {
    type Done = Admitted;

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<Admitted, RoomsError> {
        let Self { room, user, key } = *self;
        // A wrong guess locks nothing.
        if let Key::Invite(digest) = key
            && Invite::find(connection, room, digest).await?.is_none()
        {
            return Err(invalid_invite().into());
        }
        let standing = Standing::take(connection, room, user, user).await?;
        let (has, invite) = match key {
            Key::Invite(digest) => {
                // As it is now that all who use it wait for each other.
                let invite = Invite::find(connection, room, digest).await?;
                (by_invite(&standing, user, invite.as_ref())?, invite)
            }
            key => (without_invite(&standing, user, key)?, None),
        };
        let role = match has {
            Has::Already(role) => return Ok(Admitted { role, access_rev: standing.access_rev }),
            Has::Now(role) => role,
        };
        connection.execute(&SET_ROLE, &[&room.as_i64(), &user.as_str(), &role.as_str(), &0_i64]).await?;
        if let Some(invite) = invite {
            connection.execute(&USE_INVITE, &[&room.as_i64(), &invite.id.as_i64()]).await?;
            Note::on_invite(user, Action::InviteUsed, room, invite.id).write(connection).await?;
        }
        let access_rev = standing::lock(connection, room, true).await?;
        Ok(Admitted { role, access_rev })
    }
}

/// A role, and whether it is news.
enum Has {
    Already(Role),
    Now(Role),
}

struct Invite {
    id: InviteId,
    role: Role,
    made_rev: u64,
    /// Revoked, expired, or used as often as it may be.
    has_ended: bool,
}

impl Invite {
    async fn find(
        connection: &Connection,
        room: RoomId,
        digest: &InviteDigest,
    ) -> Result<Option<Self>, RoomsError> {
        let row = connection.query_opt(&INVITE, &[&room.as_i64(), &&digest.0[..]]).await?;
        let corrupt = || RoomsError::Corrupt { what: "an invite" };
        row.map(|row| {
            Ok(Self {
                id: InviteId::from_i64(row.get(0)).map_err(|_| corrupt())?,
                role: Role::parse(row.get(1)).ok_or_else(corrupt)?,
                made_rev: row.get::<_, i64>(2).unsigned_abs(),
                has_ended: row.get(3),
            })
        })
        .transpose()
    }
}

fn without_invite(standing: &Standing, user: &UserId, key: Key<'_>) -> Result<Has, Refusal> {
    let is_owner = standing.owner == *user;
    match standing.actor {
        Some(Membership::Removed) if !is_owner => Err(removed()),
        _ if standing.is_archived => Err(archived()),
        _ if is_owner => Ok(Has::Already(Role::Owner)),
        Some(Membership::Member(role)) => Ok(Has::Already(role)),
        Some(Membership::Removed) | None => match (standing.access, key) {
            (Access::Public, _) => Ok(Has::Now(standing.default_role.into())),
            (Access::Invite, _) => Err(invite_needed()),
            (Access::Password, Key::Password(hash)) if standing.password.as_ref() == Some(hash) => {
                Ok(Has::Now(standing.default_role.into()))
            }
            (Access::Password, Key::Password(_)) => Err(wrong_password()),
            (Access::Password, _) => Err(password_needed()),
        },
    }
}

/// What an owner decided after the invite was made stands: a removal, and a lower
/// role. Nobody loses by showing an invite.
fn by_invite(standing: &Standing, user: &UserId, invite: Option<&Invite>) -> Result<Has, Refusal> {
    let is_owner = standing.owner == *user;
    let good = invite.filter(|invite| !invite.has_ended && invite.made_rev >= standing.decided_rev);
    match (standing.actor, good) {
        _ if standing.is_archived => Err(archived()),
        _ if is_owner => Ok(Has::Already(Role::Owner)),
        (Some(Membership::Member(role)), Some(invite)) if invite.role > role => Ok(Has::Now(invite.role)),
        (Some(Membership::Member(role)), _) => Ok(Has::Already(role)),
        (Some(Membership::Removed) | None, Some(invite)) => Ok(Has::Now(invite.role)),
        (Some(Membership::Removed) | None, None) => Err(invalid_invite()),
    }
}
