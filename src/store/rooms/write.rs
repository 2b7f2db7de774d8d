//! Writes to a room's rows, under the slot's lock.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{NewRoom, Rooms, RoomsError};
use crate::db::{Connection, DbError, Sql};
use crate::ids::RoomId;
use crate::placement::slot_of;
use crate::routing::Shard;
use crate::store::guard::{Guard, Wanted};

// A repeat changes nothing, but writes: so its COMMIT waits for the standby
// that the first one may not have reached.
pub(super) static INSERT_ROOM: Sql = Sql {
    name: "room_insert",
    text:
        "INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema, password_hash, metadata)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::jsonb)
           ON CONFLICT (id) DO UPDATE SET slot = room.slot",
};

pub(super) static INSERT_HEAD: Sql = Sql {
    name: "room_insert_head",
    text: "INSERT INTO room_head (room_id) VALUES ($1) ON CONFLICT DO NOTHING",
};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// What happens to one room under its slot's lock, in a transaction. It may be
/// run again.
pub(super) trait Change: Sync {
    type Done: Send;

    fn room(&self) -> RoomId;

    fn apply(&self, connection: &Connection) -> impl Future<Output = Result<Self::Done, RoomsError>> + Send;
}

struct Insert<'a>(&'a NewRoom);

impl Rooms {
    /// The room and its empty log. A room with this id stays as it is.
    pub async fn insert(&self, new: &NewRoom, deadline: Instant) -> Result<(), RoomsError> {
        self.change(&Insert(new), deadline).await
    }

    /// Until it is committed, or the deadline.
    pub(super) async fn change<C: Change>(
        &self,
        change: &C,
        deadline: Instant,
    ) -> Result<C::Done, RoomsError> {
        loop {
            let error = match self.attempt(change, deadline).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if !is_worth_another_try(&error) || Instant::now() + PAUSE >= deadline {
                return Err(error);
            }
            sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }

    async fn attempt<C: Change>(&self, change: &C, deadline: Instant) -> Result<C::Done, RoomsError> {
        let wanted = Wanted { room: change.room(), is_sync: self.is_sync, deadline };
        let guard = Guard::begin(&self.shards, &self.slots, wanted).await?;
        match change.apply(&guard).await {
            Ok(done) => guard.commit().await.map(|()| done).map_err(RoomsError::from),
            Err(error) => {
                guard.rollback().await;
                Err(error)
            }
        }
    }

    pub(super) fn shard_of(&self, room: RoomId) -> Result<&Shard, RoomsError> {
        let index = self.slots.owner(room).ok_or(RoomsError::NoOwner)?;
        self.shards.get(index).ok_or(RoomsError::NoOwner)
    }
}

impl Change for Insert<'_> {
    type Done = ();

    fn room(&self) -> RoomId {
        self.0.room
    }

    async fn apply(&self, connection: &Connection) -> Result<(), RoomsError> {
        insert(connection, self.0).await.map_err(RoomsError::from)
    }
}

async fn insert(connection: &Connection, new: &NewRoom) -> Result<(), DbError> {
    let slot = i32::from(slot_of(new.room).0);
    let password = new.password.as_ref().map(|hash| hash.as_str());
    connection
        .execute(
            &INSERT_ROOM,
            &[
                &new.room.as_i64(),
                &slot,
                &new.slug.as_str(),
                &new.name,
                &new.owner.as_str(),
                &new.access.as_str(),
                &new.default_role.as_str(),
                &new.schema.as_str(),
                &password,
                &&*new.metadata,
            ],
        )
        .await?;
    connection.execute(&INSERT_HEAD, &[&new.room.as_i64()]).await.map(drop)
}

/// All changes may be repeated, so a lost answer, even to COMMIT, is too.
fn is_worth_another_try(error: &RoomsError) -> bool {
    let RoomsError::Database(error) = error else { return false };
    error.class().is_worth_another_transaction()
}
