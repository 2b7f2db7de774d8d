//! One room, with what a person is in it: one statement, one snapshot.

use std::time::Instant;

use super::row::{COLUMNS, columns};
use super::{Membership, RoomFacts, Rooms, RoomsError};
use crate::db::{Row, Sql, ToSql};
use crate::ids::{RoomId, UserId};
use crate::placement::slot_of;
use crate::position::{Epoch, Position};
use crate::routing::{Freshness, Reason, ServedBy};

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
           LEFT JOIN room_member ON room_member.room_id = room.id AND room_member.user_id = $3
           LEFT JOIN room_event ON room_event.room_id = room.id AND room_event.seq = $4"
    ),
};

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
enum Answer {
    Good(Box<(RoomFacts, Option<Membership>)>),
    /// Not an answer to this question: ask another server.
    NotHere(Reason),
    /// True on the primary; a replica may not know better yet.
    Doubtful(RoomsError),
}

impl Rooms {
    /// What a replica denies (no such room, position not reached) is asked of
    /// the primary before it is said; of a slot that has moved, its new shard.
    pub async fn find(&self, wanted: Wanted<'_>) -> Result<Found, RoomsError> {
        match self.find_here(wanted).await {
            Err(RoomsError::NoOwner) => {
                self.slots.refresh().await;
                self.find_here(wanted).await
            }
            answer => answer,
        }
    }

    async fn find_here(&self, wanted: Wanted<'_>) -> Result<Found, RoomsError> {
        let slot = slot_of(wanted.room);
        let shard = self.shard_of(wanted.room)?;
        let asked = match wanted.freshness {
            Freshness::AtLeast(position) => Some(position),
            _ => None,
        };
        let (slot, room) = (i32::from(slot.0), wanted.room.as_i64());
        let user = wanted.user.map_or("", UserId::as_str);
        let seq = asked.map_or(0, |position| position.seq.as_i64());
        let params: [&(dyn ToSql + Sync); 4] = [&slot, &room, &user, &seq];
        let mut route = shard.read(wanted.freshness, wanted.deadline);
        loop {
            let target = route.target().await?;
            let rows = match target.endpoint().pool().get().await {
                Ok(lease) => lease.query_one(&FACTS, &params).await,
                Err(error) => Err(error),
            };
            let answer = match rows {
                Ok(row) => judge(&row, asked)?,
                Err(error) if route.failed(target, &error) => continue,
                Err(error) => return Err(error.into()),
            };
            match answer {
                Answer::Good(read) => {
                    route.used(&target);
                    let (facts, membership) = *read;
                    let (served_by, fallback) = (target.served_by(), target.fallback);
                    return Ok(Found { facts, membership, served_by, fallback });
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

fn judge(row: &Row, asked: Option<Position>) -> Result<Answer, RoomsError> {
    let state: Option<&str> = row.get(COLUMNS);
    if state != Some("active") {
        return Ok(Answer::NotHere(Reason::Epoch));
    }
    if row.get::<_, Option<i64>>(0).is_none() {
        return Ok(Answer::Doubtful(RoomsError::Unknown));
    }
    let facts = RoomFacts::from_row(row, 0)?;
    if let Some(asked) = asked
        && asked.seq.0 > 0
    {
        if asked.seq > facts.head.seq {
            return Ok(Answer::Doubtful(RoomsError::AheadOfLog));
        }
        let epoch = row.get::<_, Option<i64>>(COLUMNS + 2).map(Epoch::from_i64);
        if epoch != Some(asked.epoch) {
            return Ok(Answer::Doubtful(RoomsError::PositionLost));
        }
    }
    let membership = row.get::<_, Option<&str>>(COLUMNS + 1).map(Membership::parse).transpose()?;
    Ok(Answer::Good(Box::new((facts, membership))))
}
