//! Live shapes with who drew them and when, for the drawing app's first protocol.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Rooms, RoomsError};
use crate::clock::UnixMillis;
use crate::db::{JsonText, Row, Sql};
use crate::ids::{RoomId, UserId};
use crate::placement::slot_of;
use crate::position::{Epoch, Position, Seq};
use crate::routing::{Freshness, Reason, ServedBy};

// The first row has the facts, the others a shape each. Who drew it is known for
// as long as its event is kept.
pub(super) static DRAWN: Sql = Sql {
    name: "room_drawn",
    text: "WITH here AS (
               SELECT room_head.* FROM room_head
                WHERE room_id = $2 AND EXISTS (SELECT FROM slot_owner WHERE slot = $1 AND state = 'active'))
           SELECT head_epoch, head_seq, null, null, null::bigint, null::json FROM here
            UNION ALL
           (SELECT null, shape.last_seq, coalesce(room_event.user_id, 'unknown'), room_event.kind,
                   coalesce((extract(epoch FROM room_event.created_at) * 1000)::bigint, 0), shape.data
              FROM here
              JOIN shape ON shape.room_id = here.room_id AND NOT shape.deleted
                        AND shape.last_seq > here.cleared_seq
              LEFT JOIN room_event ON room_event.room_id = shape.room_id AND room_event.seq = shape.last_seq
             ORDER BY shape.last_seq DESC LIMIT $3)",
};

const PATIENCE: Duration = Duration::from_secs(5);

/// A live shape and its last event.
#[derive(Debug, Clone)]
pub struct Drawn {
    pub seq: Seq,
    pub user: UserId,
    pub at: UnixMillis,
    pub json: Arc<str>,
}

/// In the order of the log.
#[derive(Debug, Clone)]
pub struct DrawnShapes {
    pub shapes: Vec<Drawn>,
    pub head: Position,
    pub served_by: ServedBy,
    pub fallback: Option<Reason>,
}

impl Rooms {
    /// The `limit` shapes that were drawn last.
    pub async fn drawn(
        &self,
        room: RoomId,
        limit: usize,
        freshness: Freshness,
    ) -> Result<DrawnShapes, RoomsError> {
        let (slot, limit) = (i32::from(slot_of(room).0), i64::try_from(limit).unwrap_or(i64::MAX));
        let deadline = Instant::now() + PATIENCE;
        let mut route = self.shard_of(room)?.read(freshness, deadline);
        loop {
            let target = route.target().await?;
            let rows = match target.query(&DRAWN, &[&slot, &room.as_i64(), &limit], deadline).await {
                Ok(rows) => rows,
                Err(error) if route.failed(target, &error) => continue,
                Err(error) => return Err(error.into()),
            };
            let Some((facts, shapes)) = rows.split_first() else {
                if target.is_primary() {
                    return Err(RoomsError::Unknown);
                }
                route.refuse(target, Reason::Behind);
                continue;
            };
            let head = Position::new(Epoch::from_i64(facts.get(0)), Seq::from_i64(facts.get(1)));
            if let Freshness::AtLeast(position) = freshness
                && head.seq < position.seq
            {
                if target.is_primary() {
                    return Err(RoomsError::AheadOfLog);
                }
                route.refuse(target, Reason::Behind);
                continue;
            }
            route.used(&target);
            let mut shapes = shapes.iter().map(drawn).collect::<Result<Vec<_>, _>>()?;
            shapes.reverse();
            let (served_by, fallback) = (target.served_by(), target.fallback);
            return Ok(DrawnShapes { shapes, head, served_by, fallback });
        }
    }
}

fn drawn(row: &Row) -> Result<Drawn, RoomsError> {
    Ok(Drawn {
        seq: Seq::from_i64(row.get(1)),
        user: UserId::new(row.get(2)).map_err(|_| RoomsError::Corrupt { what: "a user id" })?,
        at: UnixMillis(row.get(4)),
        json: row.get::<_, JsonText<'_>>(5).0.into(),
    })
}
