//! Who comes in becomes a member: decided on what the rows say under the room's
//! lock, whatever an older answer may have said at the door.

use std::time::Instant;

use super::members::SET_ROLE;
use super::refusals::{archived, invite_needed, password_needed, removed, wrong_password};
use super::standing::{self, Standing};
use super::write::Change;
use super::{Membership, Rooms, RoomsError};
use crate::db::Connection;
use crate::digests::PasswordHash;
use crate::ids::{RoomId, UserId};
use crate::protocol::{Access, Refusal, Role};

/// What somebody who isn't a member comes in with.
#[derive(Debug, Clone, Copy)]
pub enum Key<'a> {
    Nothing,
    /// They knew the password behind this hash.
    Password(&'a PasswordHash),
}

/// Somebody may be in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    pub role: Role,
    /// As of which.
    pub access_rev: u64,
}

impl Rooms {
    /// Makes `user` a member, unless they are one, or own the room. Refused as at
    /// the door.
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
        let standing = Standing::take(connection, room, false, user, user).await?;
        let access_rev = standing.access_rev;
        if let Some(role) = has_role(&standing, user)? {
            return Ok(Admitted { role, access_rev });
        }
        let role = new_role(&standing, key)?;
        connection.execute(&SET_ROLE, &[&room.as_i64(), &user.as_str(), &role.as_str()]).await?;
        let access_rev = standing::lock(connection, room, true).await?;
        Ok(Admitted { role, access_rev })
    }
}

/// What they have already; none if they are new.
fn has_role(standing: &Standing, user: &UserId) -> Result<Option<Role>, Refusal> {
    let is_owner = standing.owner == *user;
    match standing.actor {
        Some(Membership::Removed) if !is_owner => Err(removed()),
        _ if standing.is_archived => Err(archived()),
        _ if is_owner => Ok(Some(Role::Owner)),
        Some(Membership::Member(role)) => Ok(Some(role)),
        Some(Membership::Removed) | None => Ok(None),
    }
}

/// What `key` makes of somebody new.
fn new_role(standing: &Standing, key: Key<'_>) -> Result<Role, Refusal> {
    match (standing.access, key) {
        (Access::Public, _) => Ok(standing.default_role),
        (Access::Invite, _) => Err(invite_needed()),
        (Access::Password, Key::Password(hash)) if standing.password.as_ref() == Some(hash) => {
            Ok(standing.default_role)
        }
        (Access::Password, Key::Password(_)) => Err(wrong_password()),
        (Access::Password, Key::Nothing) => Err(password_needed()),
    }
}
