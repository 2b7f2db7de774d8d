//! Rooms by the content of their metadata.

use super::cursor::ListCursor;
use super::everywhere::{List, Question, RoomPage};
use super::row::columns;
use super::{Rooms, RoomsError};
use crate::db::Sql;

/// If so many rooms match or fewer, they are looked up by what they contain and put
/// in order. If there are more, rooms are looked at in the order of their ids: with
/// so many that match, the next page is near.
const FEW: i64 = 5_000;

// Which way is taken is decided here and not by the planner, whose plan is for
// any value, and who takes ORDER BY with LIMIT for a reason to read all rooms in
// order. What may not be read by an index is written as an expression.
pub(super) static SEARCH: Sql = Sql {
    name: "rooms_by_metadata",
    text: concat!(
        "WITH few AS MATERIALIZED (
              SELECT id FROM room WHERE metadata @> $4::text::jsonb LIMIT $5::bigint + 1),
            open AS (
              SELECT id FROM few WHERE (SELECT count(*) FROM few) <= $5 AND id > $2
               UNION ALL
              (SELECT room.id FROM room JOIN slot_owner USING (slot)
                WHERE (SELECT count(*) FROM few) > $5
                  AND room.id > $2 AND (room.metadata || '{}') @> $4::text::jsonb
                  AND room.access <> 'invite' AND slot_owner.state = 'active'
                  AND NOT EXISTS (SELECT FROM room_member WHERE room_member.room_id = room.id
                                     AND room_member.user_id IN ($1::text, erased_member(room.ban_key, $1::text))
                                     AND room_member.role = 'removed')
                ORDER BY room.id LIMIT $3)),
            mine AS (
              (SELECT room.id FROM room JOIN slot_owner USING (slot)
                WHERE room.owner = $1::text AND room.id > $2 AND (room.metadata || '{}') @> $4::text::jsonb
                  AND slot_owner.state = 'active'
                ORDER BY room.id LIMIT $3)
               UNION ALL
              (SELECT room_member.room_id
                 FROM room_member JOIN room ON room.id = room_member.room_id JOIN slot_owner USING (slot)
                WHERE room_member.user_id = $1::text AND room_member.room_id > $2 AND room_member.role <> 'removed'
                  AND (room.metadata || '{}') @> $4::text::jsonb AND slot_owner.state = 'active'
                ORDER BY room_member.room_id LIMIT $3))
         SELECT ",
        columns!(),
        " FROM (SELECT id FROM open UNION SELECT id FROM mine) AS found
          JOIN room ON room.id = found.id
          JOIN slot_owner ON slot_owner.slot = room.slot AND slot_owner.state = 'active'
          JOIN room_head ON room_head.room_id = room.id
          LEFT JOIN room_member ON room_member.room_id = room.id
               AND room_member.user_id IN ($1::text, erased_member(room.ban_key, $1::text))
         WHERE room.owner = $1::text
            OR CASE WHEN room_member.role IS NULL THEN room.access <> 'invite'
                    ELSE room_member.role <> 'removed' END
         ORDER BY room.id LIMIT $3"
    ),
};

impl Rooms {
    /// The rooms whose metadata contains the JSON object `metadata` and that the
    /// user of the list may see.
    pub async fn search(
        &self,
        list: List<'_>,
        metadata: &str,
        cursor: &ListCursor,
    ) -> Result<RoomPage, RoomsError> {
        self.everywhere(list, Question { sql: &SEARCH, also: &[&metadata, &FEW] }, cursor).await
    }
}
