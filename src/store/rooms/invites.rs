//! Invites: made and revoked by owners, swept out a day after their end.
//!
//! That they are swept no sooner is for requests that are repeated: within a day
//! they find what they made.

use std::time::Instant;

use serde::Deserialize;

use super::read::{Answer, Question, facts, of_primary};
use super::refusals::{no_such_invite, too_many_invites};
use super::row::{COLUMNS, columns};
use super::standing::{Actor, Standing};
use super::write::Change;
use super::{Rooms, RoomsError};
use crate::clock::UnixMillis;
use crate::db::{Connection, Row, Sql, ToSql};
use crate::digests::InviteDigest;
use crate::ids::{InviteId, RoomId, UserId};
use crate::placement::slot_of;
use crate::protocol::{Code, Refusal, Role};
use crate::routing::{Freshness, Shard};
use crate::store::audit::{Action, Note};

pub(super) static ADD: Sql = Sql {
    name: "invite_add",
    text: "INSERT INTO room_invite (room_id, id, digest, role, expires_at, max_uses, made_rev, created_by)
           VALUES ($1, $2, $3, $4, to_timestamp($5::bigint / 1000.0), $6, $7, $8)",
};

pub(super) static COUNT: Sql = Sql {
    name: "invite_count",
    text: "SELECT count(*),
                  count(*) FILTER (WHERE NOT revoked AND (expires_at IS NULL OR expires_at > now())
                                     AND (max_uses IS NULL OR uses < max_uses))
             FROM room_invite WHERE room_id = $1",
};

pub(super) static READ: Sql = Sql {
    name: "invite_read",
    text: "SELECT digest, role, (extract(epoch FROM expires_at) * 1000)::bigint, max_uses, revoked
             FROM room_invite WHERE room_id = $1 AND id = $2",
};

pub(super) static REVOKE: Sql = Sql {
    name: "invite_revoke",
    text: "UPDATE room_invite SET revoked = true, expires_at = least(expires_at, now())
            WHERE room_id = $1 AND id = $2",
};

pub(super) static LIST: Sql = Sql {
    name: "room_invites",
    text: concat!(
        "SELECT ",
        columns!(),
        ", slot_owner.state, page.items::text
           FROM (SELECT) AS one
           LEFT JOIN slot_owner ON slot_owner.slot = $1
           LEFT JOIN room ON room.id = $2
           LEFT JOIN room_head ON room_head.room_id = room.id
           LEFT JOIN LATERAL (
                SELECT json_agg(json_build_object(
                           'id', id, 'role', role, 'max_uses', max_uses, 'uses', uses, 'revoked', revoked,
                           'expires_at', (extract(epoch FROM expires_at) * 1000)::bigint,
                           'created_by', created_by,
                           'created_at', (extract(epoch FROM created_at) * 1000)::bigint) ORDER BY id) AS items
                  FROM (SELECT * FROM room_invite WHERE room_id = $2 AND id > $3 ORDER BY id LIMIT $4)
                    AS listed) AS page ON true"
    ),
};

pub(super) static ENDED: Sql = Sql {
    name: "invites_ended",
    text: "SELECT invite.room_id, invite.id FROM room_invite AS invite
             JOIN room ON room.id = invite.room_id
             JOIN slot_owner ON slot_owner.slot = room.slot AND slot_owner.state = 'active'
            WHERE invite.expires_at <= now() - interval '1 day'
            ORDER BY invite.expires_at LIMIT $1",
};

pub(super) static SWEEP: Sql = Sql {
    name: "invite_sweep",
    text: "DELETE FROM room_invite
            WHERE room_id = $1 AND id = $2 AND expires_at <= now() - interval '1 day'",
};

/// Invites of a shard in one round of a sweep.
const SWEEP_MOST: i64 = 500;

/// A room has at most so many times its quota of rows. Ended invites keep their rows
/// for a day.
const ENDED_TIMES: i64 = 10;

/// What an invite is to be.
#[derive(Debug, Clone)]
pub struct NewInvite {
    pub id: InviteId,
    pub digest: InviteDigest,
    pub role: Role,
    pub expires_at: Option<UnixMillis>,
    pub max_uses: Option<i32>,
}

/// An invite as a list shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct ListedInvite {
    pub id: InviteId,
    pub role: Role,
    pub expires_at: Option<i64>,
    pub max_uses: Option<u32>,
    pub uses: u32,
    pub revoked: bool,
    pub created_by: UserId,
    pub created_at: i64,
}

impl Rooms {
    /// Refused to all but owners and servers. One with this id stays as it is, and
    /// is answered: then its digest may be another one. A room has at most `most` that
    /// still open it; 0: no limit.
    pub async fn add_invite(
        &self,
        room: RoomId,
        actor: Actor<'_>,
        new: &NewInvite,
        most: u32,
        deadline: Instant,
    ) -> Result<NewInvite, RoomsError> {
        self.change(&Add { room, actor, new, most }, deadline).await
    }

    /// From now on it opens nothing. Who came in by it stays.
    pub async fn revoke_invite(
        &self,
        room: RoomId,
        actor: Actor<'_>,
        invite: InviteId,
        deadline: Instant,
    ) -> Result<(), RoomsError> {
        self.change(&Revoke { room, actor, invite }, deadline).await
    }

    /// Those after `after`, and whether there are more than `limit`. By the
    /// primary: an owner looks whether what they revoked is revoked.
    pub async fn invites(
        &self,
        room: RoomId,
        after: Option<InviteId>,
        limit: usize,
        deadline: Instant,
    ) -> Result<(Vec<ListedInvite>, bool), RoomsError> {
        let slot = i32::from(slot_of(room).0);
        let after = after.map_or(0, InviteId::as_i64);
        let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let params: [&(dyn ToSql + Sync); 4] = [&slot, &room.as_i64(), &after, &most];
        let freshness = Freshness::Primary;
        let question = Question { room, freshness, deadline, sql: &LIST, params: &params };
        let (mut invites, _) = self.ask(&question, listed).await?;
        let more = invites.len() > limit;
        invites.truncate(limit);
        Ok((invites, more))
    }

    /// Deletes some of a shard's invites that ended a day ago. How many.
    pub async fn sweep_invites(&self, shard: &Shard, deadline: Instant) -> Result<usize, RoomsError> {
        let ended = of_primary(shard, &ENDED, &[&SWEEP_MOST]).await?;
        for row in &ended {
            let corrupt = |_| RoomsError::Corrupt { what: "an invite" };
            let room = RoomId::from_i64(row.get(0)).map_err(corrupt)?;
            let invite = InviteId::from_i64(row.get(1)).map_err(corrupt)?;
            self.change(&Sweep { room, invite }, deadline).await?;
        }
        Ok(ended.len())
    }
}

fn listed(row: &Row) -> Result<Answer<Vec<ListedInvite>>, RoomsError> {
    facts(row)?.then(|_| {
        let items = row.get::<_, Option<&str>>(COLUMNS + 1).unwrap_or("[]");
        let corrupt = |_| RoomsError::Corrupt { what: "an invite" };
        serde_json::from_str(items).map(Answer::Good).map_err(corrupt)
    })
}

struct Add<'a> {
    room: RoomId,
    actor: Actor<'a>,
    new: &'a NewInvite,
    most: u32,
}

impl Change for Add<'_> {
    type Done = NewInvite;

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<NewInvite, RoomsError> {
        let Self { room, actor, new, most } = *self;
        let standing = Standing::take_managed(connection, room, actor, actor.user).await?;
        standing.check_not_archived()?;
        let (id, invite) = (room.as_i64(), new.id.as_i64());
        if let Some(row) = connection.query_opt(&READ, &[&id, &invite]).await? {
            return kept(new.id, &row);
        }
        if new.expires_at.is_some_and(|at| at <= UnixMillis::now()) {
            return Err(Refusal::new(Code::BadMessage, "expires_at has passed").into());
        }
        if most > 0 {
            let counted = connection.query_one(&COUNT, &[&id]).await?;
            let (all, live): (i64, i64) = (counted.get(0), counted.get(1));
            if live >= i64::from(most) || all >= i64::from(most) * ENDED_TIMES {
                return Err(too_many_invites(most).into());
            }
        }
        let (expires_at, made_rev) = (new.expires_at.map(|at| at.0), standing.access_rev as i64);
        let (digest, role, by) = (&new.digest.0[..], new.role.as_str(), actor.user.as_str());
        let params: [&(dyn ToSql + Sync); 8] =
            [&id, &invite, &digest, &role, &expires_at, &new.max_uses, &made_rev, &by];
        connection.execute(&ADD, &params).await?;
        Note::on_invite(actor.user, Action::InviteMade, room, new.id).write(connection).await?;
        Ok(new.clone())
    }
}

fn kept(id: InviteId, row: &Row) -> Result<NewInvite, RoomsError> {
    let corrupt = RoomsError::Corrupt { what: "an invite" };
    let digest = row.get::<_, &[u8]>(0).try_into().ok().map(InviteDigest);
    let (Some(digest), Some(role)) = (digest, Role::parse(row.get(1))) else { return Err(corrupt) };
    let expires_at = row.get::<_, Option<i64>>(2).map(UnixMillis);
    Ok(NewInvite { id, digest, role, expires_at, max_uses: row.get(3) })
}

struct Revoke<'a> {
    room: RoomId,
    actor: Actor<'a>,
    invite: InviteId,
}

impl Change for Revoke<'_> {
    type Done = ();

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<(), RoomsError> {
        let Self { room, actor, invite } = *self;
        Standing::take_managed(connection, room, actor, actor.user).await?;
        let params = (room.as_i64(), invite.as_i64());
        let Some(row) = connection.query_opt(&READ, &[&params.0, &params.1]).await? else {
            return Err(no_such_invite().into());
        };
        if !row.get::<_, bool>(4) {
            connection.execute(&REVOKE, &[&params.0, &params.1]).await?;
            Note::on_invite(actor.user, Action::InviteRevoked, room, invite).write(connection).await?;
        }
        Ok(())
    }
}

struct Sweep {
    room: RoomId,
    invite: InviteId,
}

impl Change for Sweep {
    type Done = ();

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<(), RoomsError> {
        let (room, invite) = (self.room.as_i64(), self.invite.as_i64());
        Ok(connection.execute(&SWEEP, &[&room, &invite]).await.map(drop)?)
    }
}
