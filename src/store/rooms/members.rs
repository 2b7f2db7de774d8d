//! Members: given a role, removed, listed.
//!
//! The room's owner is above its members: nobody takes that role from them.
//! Whoever is removed keeps a row that says so; whoever leaves keeps none.

use std::time::Instant;

use super::read::{Answer, Question, asked_position, facts, lacks};
use super::refusals::owner_stays;
use super::row::{COLUMNS, columns};
use super::standing::{self, Actor, Standing};
use super::write::Change;
use super::{Membership, Rooms, RoomsError};
use crate::clock::UnixMillis;
use crate::db::{Connection, Row, Sql, ToSql};
use crate::ids::{RoomId, UserId};
use crate::placement::slot_of;
use crate::position::Position;
use crate::protocol::Role;
use crate::routing::{Freshness, Reason, ServedBy};
use crate::store::audit::{Action, Note};

/// As of `access_rev` $4 if an owner decided it, else 0. Takes the place of a removal
/// from before the person was erased, so that a person has one row at most.
pub(super) static SET_ROLE: Sql = Sql {
    name: "room_set_role",
    text: "WITH lifted AS (
               DELETE FROM room_member
                WHERE room_id = $1
                  AND user_id = (SELECT erased_member(ban_key, $2::text) FROM room WHERE id = $1))
           INSERT INTO room_member (room_id, user_id, role, decided_rev) VALUES ($1, $2::text, $3, $4)
           ON CONFLICT (room_id, user_id) DO UPDATE
                   SET role = excluded.role,
                       decided_rev = greatest(room_member.decided_rev, excluded.decided_rev),
                       joined_at = CASE room_member.role WHEN 'removed' THEN now() ELSE room_member.joined_at END",
};

/// Whoever was removed doesn't come back by leaving.
pub(super) static LEAVE: Sql = Sql {
    name: "room_leave",
    text: "DELETE FROM room_member WHERE room_id = $1 AND user_id = $2 AND role <> 'removed'",
};

// The owner, who has no row or one that doesn't count, stands among the others,
// in the order that the database gives to texts.
pub(super) static LIST: Sql = Sql {
    name: "room_members",
    text: concat!(
        "SELECT ",
        columns!(),
        ", slot_owner.state, page.users, page.roles, page.since, room_event.epoch
           FROM (SELECT) AS one
           LEFT JOIN slot_owner ON slot_owner.slot = $1
           LEFT JOIN room ON room.id = $2
           LEFT JOIN room_head ON room_head.room_id = room.id
           LEFT JOIN room_event ON room_event.room_id = room.id AND room_event.seq = $5
           LEFT JOIN LATERAL (
                SELECT array_agg(user_id ORDER BY user_id) AS users,
                       array_agg(role ORDER BY user_id) AS roles,
                       array_agg((extract(epoch FROM since) * 1000)::bigint ORDER BY user_id) AS since
                  FROM ((SELECT user_id, role, joined_at AS since FROM room_member
                          WHERE room_id = $2 AND user_id > $3 AND user_id <> room.owner AND role <> 'removed'
                          ORDER BY user_id LIMIT $4)
                         UNION ALL
                        (SELECT room.owner, 'owner', room.created_at WHERE room.owner > $3)
                         ORDER BY user_id LIMIT $4) AS listed) AS page ON true"
    ),
};

/// A member as a list shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedMember {
    pub user: UserId,
    pub role: Role,
    pub since: UnixMillis,
}

/// Members in the order of their ids.
#[derive(Debug)]
pub struct MemberPage {
    pub members: Vec<ListedMember>,
    /// Whether there are more.
    pub more: bool,
    pub head: Position,
    pub served_by: ServedBy,
    pub fallback: Option<Reason>,
}

impl Rooms {
    /// Gives `user` a role, whether or not they had one. Answers the room's
    /// `access_rev` as of that. Refused to all but owners and servers.
    pub async fn set_role(
        &self,
        room: RoomId,
        actor: Actor<'_>,
        user: &UserId,
        role: Role,
        deadline: Instant,
    ) -> Result<u64, RoomsError> {
        self.change(&SetRole { room, actor, user, role }, deadline).await
    }

    /// Takes `user` out: a leaver until they come back, others until they are
    /// given a role or a new invite. Returns the room's `access_rev` as of that;
    /// none if there was nobody to take out.
    pub async fn remove(
        &self,
        room: RoomId,
        actor: Actor<'_>,
        user: &UserId,
        deadline: Instant,
    ) -> Result<Option<u64>, RoomsError> {
        self.change(&Remove { room, actor, user }, deadline).await
    }

    /// Those after `after`, at most `limit`.
    pub async fn members(
        &self,
        room: RoomId,
        after: Option<&UserId>,
        limit: usize,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<MemberPage, RoomsError> {
        let slot = i32::from(slot_of(room).0);
        let after = after.map_or("", UserId::as_str);
        // One more than asked for tells whether there is another page.
        let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let asked = asked_position(freshness);
        let seq = asked.map_or(0, |position| position.seq.as_i64());
        let params: [&(dyn ToSql + Sync); 5] = [&slot, &room.as_i64(), &after, &most, &seq];
        let question = Question { room, freshness, deadline, sql: &LIST, params: &params };
        let ((head, mut members), target) = self.ask(&question, |row| judge(row, asked)).await?;
        let more = members.len() > limit;
        members.truncate(limit);
        Ok(MemberPage { members, more, head, served_by: target.served_by(), fallback: target.fallback })
    }
}

fn judge(row: &Row, asked: Option<Position>) -> Result<Answer<(Position, Vec<ListedMember>)>, RoomsError> {
    facts(row)?.then(|facts| {
        if let Some(error) = lacks(&facts, asked, row.get(COLUMNS + 4)) {
            return Ok(Answer::Doubtful(error));
        }
        let users: Option<Vec<&str>> = row.get(COLUMNS + 1);
        let roles: Option<Vec<&str>> = row.get(COLUMNS + 2);
        let since: Option<Vec<i64>> = row.get(COLUMNS + 3);
        let listed = users.into_iter().flatten().zip(roles.into_iter().flatten());
        let member = |((user, role), since): ((&str, &str), i64)| {
            Ok(ListedMember {
                user: UserId::new(user).map_err(|_| RoomsError::Corrupt { what: "a user id" })?,
                role: Role::parse(role).ok_or(RoomsError::Corrupt { what: "a role" })?,
                since: UnixMillis(since),
            })
        };
        let members: Result<_, RoomsError> = listed.zip(since.into_iter().flatten()).map(member).collect();
        Ok(Answer::Good((facts.head, members?)))
    })
}

struct SetRole<'a> {
    room: RoomId,
    actor: Actor<'a>,
    user: &'a UserId,
    role: Role,
}

impl Change for SetRole<'_> {
    type Done = u64;

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<u64, RoomsError> {
        let Self { room, actor, user, role } = *self;
        let standing = Standing::take_managed(connection, room, actor, user).await?;
        standing.check_not_archived()?;
        if standing.owner == *user {
            return if role == Role::Owner { Ok(standing.access_rev) } else { Err(owner_stays().into()) };
        }
        let membership = Membership::Member(role);
        if !standing.is_news(connection, room, membership).await? {
            return Ok(standing.access_rev);
        }
        let revision = standing::lock(connection, room, true).await?;
        decide(connection, room, user, role.as_str(), revision).await?;
        if standing.target != Some(membership) {
            Note::new(actor.user, Action::RoleGiven(role), room, Some(user)).write(connection).await?;
        }
        Ok(revision)
    }
}

struct Remove<'a> {
    room: RoomId,
    actor: Actor<'a>,
    user: &'a UserId,
}

impl Change for Remove<'_> {
    type Done = Option<u64>;

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<Option<u64>, RoomsError> {
        if self.actor.user == self.user { self.leave(connection).await } else { self.kick(connection).await }
    }
}

impl Remove<'_> {
    async fn kick(&self, connection: &Connection) -> Result<Option<u64>, RoomsError> {
        let Self { room, actor, user } = *self;
        let standing = Standing::take_managed(connection, room, actor, user).await?;
        if standing.owner == *user {
            return Err(owner_stays().into());
        }
        if !standing.is_news(connection, room, Membership::Removed).await? {
            return Ok(Some(standing.access_rev));
        }
        let revision = standing::lock(connection, room, true).await?;
        decide(connection, room, user, "removed", revision).await?;
        if standing.target != Some(Membership::Removed) {
            Note::new(actor.user, Action::Kicked, room, Some(user)).write(connection).await?;
        }
        Ok(Some(revision))
    }

    /// A person without a membership locks nothing.
    async fn leave(&self, connection: &Connection) -> Result<Option<u64>, RoomsError> {
        let Self { room, user, .. } = *self;
        let seen = Standing::look(connection, room, user, user).await?;
        if seen.owner == *user {
            return Err(owner_stays().into());
        }
        if !matches!(seen.target, Some(Membership::Member(_))) {
            standing::witness(connection).await?;
            return Ok(None);
        }
        let standing = Standing::take(connection, room, user, user).await?;
        if standing.owner == *user {
            return Err(owner_stays().into());
        }
        if connection.execute(&LEAVE, &[&room.as_i64(), &user.as_str()]).await? == 0 {
            return Ok(None);
        }
        Note::new(user, Action::Left, room, Some(user)).write(connection).await?;
        standing::lock(connection, room, true).await.map(Some)
    }
}

/// Writes what an owner decided on `user` as of `revision`.
async fn decide(
    connection: &Connection,
    room: RoomId,
    user: &UserId,
    role: &str,
    revision: u64,
) -> Result<(), RoomsError> {
    let params = (room.as_i64(), user.as_str(), revision as i64);
    connection.execute(&SET_ROLE, &[&params.0, &params.1, &role, &params.2]).await?;
    Ok(())
}
