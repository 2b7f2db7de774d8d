//! What some people may do in one room now: one statement, one snapshot.

use std::collections::HashMap;
use std::time::Instant;

use super::read::{Answer, Question, facts};
use super::row::{COLUMNS, columns};
use super::{Membership, Rooms, RoomsError};
use crate::db::{Row, Sql, ToSql};
use crate::ids::{RoomId, UserId};
use crate::placement::slot_of;
use crate::protocol::Role;
use crate::routing::Freshness;

// A lateral subquery with a limit is run once a user, by key, whatever the
// planner thinks of the table's size.
pub(super) static RIGHTS: Sql = Sql {
    name: "room_rights",
    text: concat!(
        "SELECT ",
        columns!(),
        ", slot_owner.state,
           ARRAY(SELECT found.role
                   FROM unnest($3::text[]) WITH ORDINALITY AS wanted (user_id, at)
                   LEFT JOIN LATERAL (SELECT role FROM room_member
                                       WHERE room_id = $2
                                         AND user_id IN (wanted.user_id,
                                                         erased_member(room.ban_key, wanted.user_id))
                                       LIMIT 1) AS found ON true
                  ORDER BY wanted.at)
           FROM (SELECT) AS one
           LEFT JOIN slot_owner ON slot_owner.slot = $1
           LEFT JOIN room ON room.id = $2
           LEFT JOIN room_head ON room_head.room_id = room.id"
    ),
};

/// As of one snapshot of the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    pub access_rev: u64,
    /// Nobody is in it any more.
    pub is_archived: bool,
    /// `None`: the person has no right to be in the room.
    pub roles: HashMap<UserId, Option<Role>>,
}

impl Rooms {
    /// By the primary: somebody may be sent away for it.
    pub async fn rights(
        &self,
        room: RoomId,
        users: &[UserId],
        deadline: Instant,
    ) -> Result<Rights, RoomsError> {
        let slot = i32::from(slot_of(room).0);
        let ids: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let params: [&(dyn ToSql + Sync); 3] = [&slot, &room.as_i64(), &ids];
        let freshness = Freshness::Primary;
        let question = Question { room, freshness, deadline, sql: &RIGHTS, params: &params };
        Ok(self.ask(&question, |row| judge(row, users)).await?.0)
    }
}

fn judge(row: &Row, users: &[UserId]) -> Result<Answer<Rights>, RoomsError> {
    facts(row)?.then(|facts| {
        let members: Vec<Option<&str>> = row.get(COLUMNS + 1);
        let role = |(user, member): (&UserId, &Option<&str>)| {
            let membership = member.map(Membership::parse).transpose()?;
            Ok((user.clone(), facts.role_of(user, membership)))
        };
        let roles = users.iter().zip(&members).map(role).collect::<Result<_, RoomsError>>()?;
        let is_archived = facts.archived_at.is_some();
        Ok(Answer::Good(Rights { access_rev: facts.access_rev, is_archived, roles }))
    })
}
