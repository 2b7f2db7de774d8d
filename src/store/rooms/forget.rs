//! A person who asked to be forgotten leaves their rooms. What they own goes to
//! whoever has the highest role, and has had it longest; to nobody else, and the
//! room is archived. Their events stay, under an id that is nobody's. If they were
//! removed from a room, they stay so: the row stays under a keyed digest of their id.

use std::time::Instant;

use super::read::of_primary;
use super::write::Change;
use super::{Rooms, RoomsError, standing};
use crate::db::{Connection, Row, Sql};
use crate::ids::{RoomId, UserId};
use crate::routing::Shard;
use crate::store::audit::{Action, Note};

pub(super) static THEIRS: Sql = Sql {
    name: "rooms_to_forget",
    text: "SELECT room_id FROM (
               (SELECT id AS room_id FROM room
                 WHERE owner = $1 AND id > $2 ORDER BY id LIMIT $3)
               UNION
               (SELECT room_id FROM room_member
                 WHERE user_id = $1 AND room_id > $2 ORDER BY room_id LIMIT $3)) AS theirs
            ORDER BY room_id LIMIT $3",
};

pub(super) static KEEP_REMOVAL: Sql = Sql {
    name: "room_forget_keep_removal",
    text: "WITH keyed AS (
               UPDATE room SET ban_key = coalesce(ban_key, uuid_send(gen_random_uuid()))
                WHERE id = $1
                  AND EXISTS (SELECT FROM room_member
                               WHERE room_id = $1 AND user_id = $2::text AND role = 'removed')
            RETURNING ban_key)
           UPDATE room_member SET user_id = erased_member(keyed.ban_key, $2::text)
             FROM keyed
            WHERE room_id = $1 AND user_id = $2::text
              AND NOT EXISTS (SELECT FROM room_member AS kept
                               WHERE kept.room_id = $1 AND kept.user_id = erased_member(keyed.ban_key, $2::text))",
};

pub(super) static LEAVE: Sql =
    Sql { name: "room_forget_leave", text: "DELETE FROM room_member WHERE room_id = $1 AND user_id = $2" };

pub(super) static PASS_ON: Sql = Sql {
    name: "room_forget_pass_on",
    text: "UPDATE room
              SET owner = coalesce(heir.user_id, room.owner),
                  archived_at = CASE WHEN heir.user_id IS NULL THEN now() ELSE room.archived_at END
             FROM (SELECT (SELECT user_id FROM room_member
                            WHERE room_id = $1 AND user_id <> $2 AND role <> 'removed'
                            ORDER BY array_position(ARRAY['owner', 'editor', 'viewer'], role),
                                     joined_at, user_id
                            LIMIT 1) AS user_id) AS heir
            WHERE room.id = $1 AND room.owner = $2
              AND (heir.user_id IS NOT NULL OR room.archived_at IS NULL)
        RETURNING heir.user_id",
};

pub(super) static CROWN: Sql = Sql {
    name: "room_forget_crown",
    text: "UPDATE room_member SET role = 'owner' WHERE room_id = $1 AND user_id = $2",
};

/// What became of a room that somebody left for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It was not theirs, or is archived anyway.
    AsItIs,
    Transferred,
    Archived,
}

impl Rooms {
    /// Rooms that `user` owns or has a row in, after a room, of one shard. More
    /// follow if there are `most`.
    pub async fn to_forget(
        &self,
        shard: &Shard,
        user: &UserId,
        after: i64,
        most: i64,
    ) -> Result<Vec<RoomId>, RoomsError> {
        let rows = of_primary(shard, &THEIRS, &[&user.as_str(), &after, &most]).await?;
        let id =
            |row: &Row| RoomId::from_i64(row.get(0)).map_err(|_| RoomsError::Corrupt { what: "a room id" });
        rows.iter().map(id).collect()
    }

    /// Takes `user` out of `room` for ever.
    pub async fn forget(&self, room: RoomId, user: &UserId, deadline: Instant) -> Result<Left, RoomsError> {
        self.change(&Forget { room, user }, deadline).await
    }
}

struct Forget<'a> {
    room: RoomId,
    user: &'a UserId,
}

impl Change for Forget<'_> {
    type Done = Left;

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<Left, RoomsError> {
        let (room, user) = (self.room.as_i64(), self.user.as_str());
        // Before anything is looked at: of two people who leave at once, the
        // second one sees what the first one left.
        match standing::lock(connection, self.room, false).await {
            Err(RoomsError::Unknown) => return Ok(Left::AsItIs),
            locked => locked?,
        };
        let kept = connection.execute(&KEEP_REMOVAL, &[&room, &user]).await? > 0;
        let left = connection.execute(&LEAVE, &[&room, &user]).await? > 0 || kept;
        let passed = connection.query_opt(&PASS_ON, &[&room, &user]).await?;
        let (done, action) = match passed.map(|row| row.get::<_, Option<String>>(0)) {
            Some(Some(heir)) => {
                connection.execute(&CROWN, &[&room, &heir]).await?;
                let heir = UserId::new(&heir).map_err(|_| RoomsError::Corrupt { what: "a user id" })?;
                let note = Note::new(self.user, Action::ErasedTransferred, self.room, Some(&heir));
                note.write(connection).await?;
                standing::lock(connection, self.room, true).await?;
                return Ok(Left::Transferred);
            }
            Some(None) => (Left::Archived, Action::ErasedArchived),
            None if left => (Left::AsItIs, Action::ErasedLeft),
            None => return Ok(Left::AsItIs),
        };
        Note::new(self.user, action, self.room, None).write(connection).await?;
        standing::lock(connection, self.room, true).await?;
        Ok(done)
    }
}
