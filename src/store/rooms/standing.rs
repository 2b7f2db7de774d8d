//! What a change of a room rests on: its row and the rows of the people
//! concerned, read under the room's lock by whoever is about to write.

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
                  room.archived_at IS NOT NULL, actor.role, actor.decided_rev, target.role
             FROM room
             LEFT JOIN room_member AS actor ON actor.room_id = room.id AND actor.user_id = $2
             LEFT JOIN room_member AS target ON target.room_id = room.id AND target.user_id = $3
            WHERE room.id = $1",
};

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
    /// As of which `access_rev` an owner decided on them.
    pub decided_rev: u64,
    /// What the row of the person whom it is about says.
    pub target: Option<Membership>,
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
        is_raised: bool,
        actor: &UserId,
        target: &UserId,
    ) -> Result<Self, RoomsError> {
        let access_rev = lock(connection, room, is_raised).await?;
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
            decided_rev: row.get::<_, Option<i64>>(6).unwrap_or_default().unsigned_abs(),
            target: member(7)?,
            access_rev,
        })
    }

    /// Owners and servers may; nobody else.
    pub fn check_manager(&self, actor: Actor<'_>) -> Result<(), Refusal> {
        let is_owner = self.owner == *actor.user || self.actor == Some(Membership::Member(Role::Owner));
        if is_owner || actor.authority == Authority::Server { Ok(()) } else { Err(owners_only()) }
    }

    pub fn check_not_archived(&self) -> Result<(), Refusal> {
        if self.is_archived { Err(archived()) } else { Ok(()) }
    }
}
