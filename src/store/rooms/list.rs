//! The rooms of a person.

use super::cursor::ListCursor;
use super::everywhere::{List, Question, RoomPage};
use super::row::columns;
use super::{Rooms, RoomsError};
use crate::db::Sql;

pub(super) static MINE: Sql = Sql {
    name: "rooms_of_user",
    text: concat!(
        "SELECT ",
        columns!(),
        " FROM (
            (SELECT room.id FROM room JOIN slot_owner USING (slot)
              WHERE room.owner = $1 AND room.id > $2 AND slot_owner.state = 'active'
              ORDER BY room.id LIMIT $3)
             UNION
            (SELECT room_member.room_id
               FROM room_member JOIN room ON room.id = room_member.room_id JOIN slot_owner USING (slot)
              WHERE room_member.user_id = $1 AND room_member.room_id > $2 AND room_member.role <> 'removed'
                AND slot_owner.state = 'active'
              ORDER BY room_member.room_id LIMIT $3)
          ) AS mine
          JOIN room ON room.id = mine.id
          JOIN room_head ON room_head.room_id = mine.id
         ORDER BY room.id LIMIT $3"
    ),
};

impl Rooms {
    /// The rooms that the user of the list owns or is a member of.
    pub async fn of_user(&self, list: List<'_>, cursor: &ListCursor) -> Result<RoomPage, RoomsError> {
        self.everywhere(list, Question { sql: &MINE, also: &[] }, cursor).await
    }
}
