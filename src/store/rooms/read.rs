//! One room, with what a person is in it: one statement, one snapshot.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::row::{COLUMNS, columns};
use super::{Membership, RoomFacts, Rooms, RoomsError};
use crate::db::{Class, DbError, Row, Sql, ToSql};
use crate::ids::{RoomId, UserId};
use crate::placement::slot_of;
use crate::position::{Epoch, Position};
use crate::routing::{Freshness, Reason, ServedBy, Shard, Target};

pub(super) static FACTS: Sql = Sql {
    name: "room_facts",
    text: concat!(
        "SELECT ",
        columns!(),
        ", slot_owner.state, room_member.role, room_event.epoch
           FROM (SELECT) AS one
           LEFT JOIN slot_owner ON slot_owner.slot = $1
           LEFT JOIN room ON room.id = $2
           LEFT JOIN room_head ON room_head.room_id = room.id
           LEFT JOIN room_member ON room_member.room_id = room.id
                AND room_member.user_id IN ($3::text, erased_member(room.ban_key, $3::text))
           LEFT JOIN room_event ON room_event.room_id = room.id AND room_event.seq = $4"
    ),
};

/// How long a primary is waited for, and its answer.
const PRIMARY_PATIENCE: Duration = Duration::from_secs(5);

/// Which room, for whom, how new, until when.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub room: RoomId,
    /// Whose membership is told.
    pub user: Option<&'a UserId>,
    pub freshness: Freshness,
    pub deadline: Instant,
}

/// A room as of one snapshot.
#[derive(Debug, Clone)]
pub struct Found {
    pub facts: RoomFacts,
    pub membership: Option<Membership>,
    pub served_by: ServedBy,
    pub fallback: Option<Reason>,
}

/// What one server's answer is good for.
pub(super) enum Answer<T> {
    Good(T),
    /// Not an answer to this question: ask another server.
    NotHere(Reason),
    /// True on the primary; a replica may not know better yet.
    Doubtful(RoomsError),
}

impl<T> Answer<T> {
    pub fn then<U>(
        self,
        next: impl FnOnce(T) -> Result<Answer<U>, RoomsError>,
    ) -> Result<Answer<U>, RoomsError> {
        match self {
            Self::Good(value) => next(value),
            Self::NotHere(reason) => Ok(Answer::NotHere(reason)),
            Self::Doubtful(error) => Ok(Answer::Doubtful(error)),
        }
    }
}

/// A statement of one row about one room.
pub(super) struct Question<'a> {
    pub room: RoomId,
    pub freshness: Freshness,
    pub deadline: Instant,
    pub sql: &'static Sql,
    pub params: &'a [&'a (dyn ToSql + Sync)],
}

impl Rooms {
    /// What a replica denies (no such room, position not reached) is asked of
    /// the primary before it is said; of a slot that has moved, its new shard.
    pub async fn find(&self, wanted: Wanted<'_>) -> Result<Found, RoomsError> {
        let Wanted { room, freshness, deadline, user } = wanted;
        let asked = asked_position(freshness);
        let slot = i32::from(slot_of(room).0);
        let user = user.map_or("", UserId::as_str);
        let seq = asked.map_or(0, |position| position.seq.as_i64());
        let params: [&(dyn ToSql + Sync); 4] = [&slot, &room.as_i64(), &user, &seq];
        let question = Question { room, freshness, deadline, sql: &FACTS, params: &params };
        let ((facts, membership), target) = self.ask(&question, |row| judge(row, asked)).await?;
        Ok(Found { facts, membership, served_by: target.served_by(), fallback: target.fallback })
    }

    /// Until a server has a good answer, or none is left to ask; whoever asks for a
    /// room that is just moving waits.
    pub(super) async fn ask<T>(
        &self,
        question: &Question<'_>,
        judge: impl Fn(&Row) -> Result<Answer<T>, RoomsError>,
    ) -> Result<(T, Target), RoomsError> {
        let mut looks = 0;
        loop {
            match self.ask_owner(question, &judge).await {
                // It moved, or is just moving.
                Err(RoomsError::NoOwner) if self.slots.look_again(looks, question.deadline).await => {
                    looks += 1
                }
                answer => return answer,
            }
        }
    }

    async fn ask_owner<T>(
        &self,
        question: &Question<'_>,
        judge: impl Fn(&Row) -> Result<Answer<T>, RoomsError>,
    ) -> Result<(T, Target), RoomsError> {
        let shard = self.shard_of(question.room)?;
        let mut route = shard.read(question.freshness, question.deadline);
        loop {
            let target = route.target().await?;
            let answer = match target.query(question.sql, question.params, question.deadline).await {
                Ok(rows) => judge(rows.first().ok_or(RoomsError::Unknown)?)?,
                Err(error) if route.failed(target, &error) => continue,
                Err(error) => return Err(error.into()),
            };
            match answer {
                Answer::Good(read) => {
                    route.used(&target);
                    return Ok((read, target));
                }
                Answer::Doubtful(error) if target.is_primary() => {
                    route.used(&target);
                    return Err(error);
                }
                Answer::NotHere(_) if target.is_primary() => return Err(RoomsError::NoOwner),
                Answer::Doubtful(_) => route.refuse(target, Reason::Behind),
                Answer::NotHere(reason) => route.refuse(target, reason),
            }
        }
    }
}

/// For work on a whole shard, which its primary must know of.
pub(super) async fn of_primary(
    shard: &Shard,
    sql: &'static Sql,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, RoomsError> {
    let primary = shard.primary(Instant::now() + PRIMARY_PATIENCE).await?;
    let read = async { primary.pool().get().await?.query(sql, params).await };
    let late = |_| DbError::new(Class::Cancelled, sql.name, "it takes too long");
    Ok(timeout(PRIMARY_PATIENCE, read).await.map_err(late)??)
}

/// The room, if the answer comes from its owner and there is one. `slot_owner.state`
/// follows the columns of the room.
pub(super) fn facts(row: &Row) -> Result<Answer<RoomFacts>, RoomsError> {
    let state: Option<&str> = row.get(COLUMNS);
    if state != Some("active") {
        return Ok(Answer::NotHere(Reason::Epoch));
    }
    if row.get::<_, Option<i64>>(0).is_none() {
        return Ok(Answer::Doubtful(RoomsError::Unknown));
    }
    RoomFacts::from_row(row, 0).map(Answer::Good)
}

pub(super) fn asked_position(freshness: Freshness) -> Option<Position> {
    match freshness {
        Freshness::AtLeast(position) => Some(position),
        _ => None,
    }
}

/// Why these facts don't answer a reader who asked for a position; `epoch` is that
/// of the event there.
pub(super) fn lacks(facts: &RoomFacts, asked: Option<Position>, epoch: Option<i64>) -> Option<RoomsError> {
    let asked = asked.filter(|asked| asked.seq.0 > 0)?;
    if asked.seq > facts.head.seq {
        return Some(RoomsError::AheadOfLog);
    }
    (epoch.map(Epoch::from_i64) != Some(asked.epoch)).then_some(RoomsError::PositionLost)
}

fn judge(row: &Row, asked: Option<Position>) -> Result<Answer<(RoomFacts, Option<Membership>)>, RoomsError> {
    facts(row)?.then(|facts| {
        if let Some(error) = lacks(&facts, asked, row.get(COLUMNS + 2)) {
            return Ok(Answer::Doubtful(error));
        }
        let membership = row.get::<_, Option<&str>>(COLUMNS + 1).map(Membership::parse).transpose()?;
        Ok(Answer::Good((facts, membership)))
    })
}
