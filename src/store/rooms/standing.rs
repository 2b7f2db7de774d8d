//! What a change of a room rests on: its row and the rows of the people
//! concerned, read under the room's lock by the change that is about to write.
//!
//! Guarantees: a person without a right to a change locks nothing, since their
//! right is looked at before the lock as well as under it. `access_rev` rises only
//! with a change, since every node then reads the rights of the room's sessions.

use super::refusals::{archived, owners_only};
use super::{Membership, RoomsError};
use crate::db::{Connection, Sql};
use crate::digests::PasswordHash;
use crate::ids::{RoomId, UserId};
use crate::log::Authority;
use crate::protocol::{Access, DefaultRole, Refusal, Role};

// Locks by writing: so the COMMIT of a repeat, which finds everything done, waits
// for the standby that the first one may not have reached.
pub(super) static RAISE: Sql = Sql {
    name: "room_raise",
    text: "UPDATE room_head SET access_rev = access_rev + $2 WHERE room_id = $1 RETURNING access_rev",
};

/// With users $2 and $3. A later statement than the lock, which sees what that
/// one waited for.
pub(super) static STANDING: Sql = Sql {
    name: "room_standing",
    text: "SELECT room.owner, room.access, room.default_role, room.password_hash,
                  room.archived_at IS NOT NULL, actor.role, target.decided_rev, target.role
             FROM room
             LEFT JOIN room_member AS actor ON actor.room_id = room.id
                  AND actor.user_id IN ($2::text, erased_member(room.ban_key, $2::text))
             LEFT JOIN room_member AS target ON target.room_id = room.id
                  AND target.user_id IN ($3::text, erased_member(room.ban_key, $3::text))
            WHERE room.id = $1",
};

// An invite lifts nobody above an owner's later decision.
pub(super) static INVITED_SINCE: Sql = Sql {
    name: "room_invited_since",
    text: "SELECT EXISTS (SELECT FROM room_invite WHERE room_id = $1 AND made_rev >= $2 AND NOT revoked)",
};

// Makes the COMMIT wait for the standby and locks no row.
pub(super) static WITNESS: Sql =
    Sql { name: "room_witness", text: "SELECT pg_logical_emit_message(true, $1, '')::text" };

/// Who asks for a change, and by what right.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    pub user: &'a UserId,
    pub authority: Authority,
}

/// A room under its lock.
#[derive(Debug)]
pub(super) struct Standing {
    pub owner: UserId,
    pub access: Access,
    pub default_role: DefaultRole,
    pub password: Option<PasswordHash>,
    pub is_archived: bool,
    /// What the actor's row says.
    pub actor: Option<Membership>,
    /// What the row of the person whom it is about says.
    pub target: Option<Membership>,
    /// As of which `access_rev` an owner decided on that person.
    pub decided_rev: u64,
    pub access_rev: u64,
}

/// Locks the room's head, so that all who decide on its people do so one after
/// the other. Nodes look at who may be in it again when `is_raised`.
pub(super) async fn lock(connection: &Connection, room: RoomId, is_raised: bool) -> Result<u64, RoomsError> {
    let raised = connection.query_opt(&RAISE, &[&room.as_i64(), &i64::from(is_raised)]).await?;
    raised.map(|row| row.get::<_, i64>(0).unsigned_abs()).ok_or(RoomsError::Unknown)
}

impl Standing {
    /// [`lock`]s, then reads.
    pub async fn take(
        connection: &Connection,
        room: RoomId,
        actor: &UserId,
        target: &UserId,
    ) -> Result<Self, RoomsError> {
        let access_rev = lock(connection, room, false).await?;
        Ok(Self { access_rev, ..Self::look(connection, room, actor, target).await? })
    }

    /// The same for a change that only owners and servers may make. Others are
    /// refused before anything is locked.
    pub async fn take_managed(
        connection: &Connection,
        room: RoomId,
        actor: Actor<'_>,
        target: &UserId,
    ) -> Result<Self, RoomsError> {
        Self::look(connection, room, actor.user, target).await?.check_manager(actor)?;
        let standing = Self::take(connection, room, actor.user, target).await?;
        standing.check_manager(actor)?;
        Ok(standing)
    }

    /// Reads without a lock; `access_rev` is 0.
    pub async fn look(
        connection: &Connection,
        room: RoomId,
        actor: &UserId,
        target: &UserId,
    ) -> Result<Self, RoomsError> {
        let params = (room.as_i64(), actor.as_str(), target.as_str());
        let row = connection.query_opt(&STANDING, &[&params.0, &params.1, &params.2]).await?;
        let row = row.ok_or(RoomsError::Unknown)?;
        let corrupt = |what| RoomsError::Corrupt { what };
        let member = |index| row.get::<_, Option<&str>>(index).map(Membership::parse).transpose();
        Ok(Self {
            owner: UserId::new(row.get(0)).map_err(|_| corrupt("a user id"))?,
            access: Access::parse(row.get(1)).ok_or_else(|| corrupt("an access"))?,
            default_role: DefaultRole::parse(row.get(2)).ok_or_else(|| corrupt("a role"))?,
            password: row.get::<_, Option<String>>(3).map(PasswordHash::new),
            is_archived: row.get(4),
            actor: member(5)?,
            target: member(7)?,
            decided_rev: row.get::<_, Option<i64>>(6).unwrap_or_default().unsigned_abs(),
            access_rev: 0,
        })
    }

    /// Whether an owner's decision for `membership` changes anything: the role, or
    /// which invites may still lift the person.
    pub async fn is_news(
        &self,
        connection: &Connection,
        room: RoomId,
        membership: Membership,
    ) -> Result<bool, RoomsError> {
        if self.target != Some(membership) {
            return Ok(true);
        }
        let since = self.decided_rev as i64;
        Ok(connection.query_one(&INVITED_SINCE, &[&room.as_i64(), &since]).await?.get(0))
    }

    /// Owners and servers may; nobody else.
    fn check_manager(&self, actor: Actor<'_>) -> Result<(), Refusal> {
        let is_owner = self.owner == *actor.user || self.actor == Some(Membership::Member(Role::Owner));
        if is_owner || actor.authority == Authority::Server { Ok(()) } else { Err(owners_only()) }
    }

    pub fn check_not_archived(&self) -> Result<(), Refusal> {
        if self.is_archived { Err(archived()) } else { Ok(()) }
    }
}

/// For a repeat that finds its change done: the first attempt may not have reached
/// the standby yet.
pub(super) async fn witness(connection: &Connection) -> Result<(), RoomsError> {
    connection.query_one(&WITNESS, &[&"roomgate"]).await?;
    Ok(())
}
