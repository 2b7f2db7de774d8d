//! Writes to a room's rows, under the slot's lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{NewRoom, Rooms, RoomsError};
use crate::db::{Class, Connection, DbError, Sql};
use crate::ids::RoomId;
use crate::placement::slot_of;
use crate::routing::{Endpoint, Shard};
use crate::store::slots::SLOT_LOCKS;

pub(super) static LOCK_SLOT: Sql =
    Sql { name: "room_lock_slot", text: "SELECT pg_advisory_xact_lock_shared($1, $2)::text" };

/// Begun after the lock was held, so that it sees what a mover committed.
pub(super) static CHECK_OWNER: Sql = Sql {
    name: "room_check_owner",
    text: "SELECT coalesce((SELECT state FROM slot_owner WHERE slot = $1) = 'active', false),
                  coalesce((SELECT timeline FROM shard_claim)
                    = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int, false)",
};

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

/// Between two tries when nobody owns the slot, or its lock is taken.
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
            let error = match self.primary_of(change.room(), deadline).await {
                Ok(primary) => match attempt(&primary, change).await {
                    Ok(done) => return Ok(done),
                    Err(error) => {
                        self.suspect(change.room(), &primary, &error);
                        error
                    }
                },
                Err(error) => error,
            };
            if !is_worth_another_try(&error) || Instant::now() + PAUSE >= deadline {
                return Err(error);
            }
            sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
            if matches!(error, RoomsError::NoOwner) {
                self.slots.refresh().await;
            }
        }
    }

    async fn primary_of(&self, room: RoomId, deadline: Instant) -> Result<Arc<Endpoint>, RoomsError> {
        Ok(self.shard_of(room)?.primary(deadline).await?)
    }

    pub(super) fn shard_of(&self, room: RoomId) -> Result<&Shard, RoomsError> {
        let index = self.slots.owner(room).ok_or(RoomsError::NoOwner)?;
        self.shards.get(index).ok_or(RoomsError::NoOwner)
    }

    fn suspect(&self, room: RoomId, primary: &Arc<Endpoint>, error: &RoomsError) {
        let RoomsError::Database(error) = error else { return };
        let doubtful = matches!(error.class(), Class::Connection | Class::ReadOnly);
        if doubtful && let Ok(shard) = self.shard_of(room) {
            shard.suspect(primary);
        }
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

async fn attempt<C: Change>(primary: &Endpoint, change: &C) -> Result<C::Done, RoomsError> {
    let connection = primary.pool().get().await?;
    connection.begin().await?;
    match locked(&connection, change).await {
        Ok(done) => connection.commit().await.map(|()| done).map_err(RoomsError::from),
        Err(error) => {
            // A failed rollback leaves the connection marked as in a
            // transaction, so it isn't used again.
            if let Err(error) = connection.rollback().await {
                tracing::debug!(%error, "rollback failed");
            }
            Err(error)
        }
    }
}

async fn locked<C: Change>(connection: &Connection, change: &C) -> Result<C::Done, RoomsError> {
    let slot = i32::from(slot_of(change.room()).0);
    connection.query_one(&LOCK_SLOT, &[&SLOT_LOCKS, &slot]).await?;
    let owner = connection.query_one(&CHECK_OWNER, &[&slot]).await?;
    if !owner.get::<_, bool>(1) {
        return Err(RoomsError::NotClaimed);
    }
    if !owner.get::<_, bool>(0) {
        return Err(RoomsError::NoOwner);
    }
    change.apply(connection).await
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
    match error {
        RoomsError::NoOwner | RoomsError::NotClaimed => true,
        RoomsError::Database(error) => {
            !matches!(error.class(), Class::BadInput | Class::Other | Class::Storage)
        }
        _ => false,
    }
}
