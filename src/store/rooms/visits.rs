//! How often rooms are entered, ever and each day: counted in memory, written once
//! a second.
//!
//! A thousand people who come back at once cost one statement a shard. A room
//! whose head is locked just then waits for the next time: an append waits for no
//! more than its commit. A crash loses at most the last second's count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Rooms, RoomsError};
use crate::db::{Connection, Sql};
use crate::ids::RoomId;
use crate::placement::{ShardIndex, slot_of};
use crate::store::slots::SLOT_LOCKS;
use crate::tasks::Stop;

pub(super) static LOCK_SLOTS: Sql = Sql {
    name: "visits_lock_slots",
    text: "SELECT pg_advisory_xact_lock_shared($1, slot)::text FROM unnest($2::int[]) AS slot ORDER BY slot",
};

pub(super) static BUMP: Sql = Sql {
    name: "visits_bump",
    text: "WITH free AS (
               SELECT room_head.room_id, counted.visits
                 FROM unnest($1::bigint[], $2::int[], $3::bigint[]) AS counted (room_id, slot, visits)
                 JOIN slot_owner ON slot_owner.slot = counted.slot AND slot_owner.state = 'active'
                 JOIN room_head ON room_head.room_id = counted.room_id
                WHERE (SELECT timeline FROM shard_claim)
                    = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
                  FOR NO KEY UPDATE OF room_head SKIP LOCKED),
              daily AS (
               INSERT INTO room_daily_visits (room_id, day, visits)
               SELECT room_id, (now() AT TIME ZONE 'UTC')::date, visits FROM free
                   ON CONFLICT (room_id, day) DO UPDATE
                  SET visits = room_daily_visits.visits + excluded.visits)
           UPDATE room_head SET visits = room_head.visits + free.visits
             FROM free WHERE room_head.room_id = free.room_id
           RETURNING room_head.room_id",
};

const INTERVAL: Duration = Duration::from_secs(1);
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Rooms that may wait for their count; visits to others are not counted.
const MAX_ROOMS: usize = 50_000;

/// Rooms in one statement.
const BATCH: usize = 500;

/// Cheap to clone.
#[derive(Clone)]
pub struct Visits {
    counted: Arc<Mutex<HashMap<RoomId, u64>>>,
    rooms: Rooms,
}

impl Visits {
    pub fn new(rooms: Rooms) -> Self {
        Self { counted: Arc::default(), rooms }
    }

    /// Somebody entered. Never waits.
    pub fn add(&self, room: RoomId) {
        self.add_all([(room, 1)]);
    }

    /// The task that writes the counts, and once more when it is stopped.
    pub async fn run(self, mut stop: Stop) {
        loop {
            let stopped = tokio::time::timeout(INTERVAL, stop.wait()).await.is_ok();
            self.write().await;
            if stopped {
                return;
            }
        }
    }

    /// Writes what has been counted. What can't be written now is kept.
    pub async fn write(&self) {
        let counted = std::mem::take(&mut *self.lock());
        let mut by_shard: HashMap<ShardIndex, Vec<(RoomId, u64)>> = HashMap::new();
        for (room, visits) in counted {
            match self.rooms.slots.owner(room) {
                Some(shard) => by_shard.entry(shard).or_default().push((room, visits)),
                None => self.add_all([(room, visits)]),
            }
        }
        for (shard, rooms) in by_shard {
            for batch in rooms.chunks(BATCH) {
                self.write_batch(shard, batch).await;
            }
        }
    }

    async fn write_batch(&self, shard: ShardIndex, batch: &[(RoomId, u64)]) {
        let write = tokio::time::timeout(WRITE_LIMIT, self.bump(shard, batch));
        match write.await {
            Ok(Ok(written)) => {
                let skipped = batch.iter().filter(|(room, _)| !written.contains(room)).copied();
                self.add_all(skipped);
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "visits are written later");
                self.add_all(batch.iter().copied());
            }
            // It may have been written: counted once too little rather than twice.
            Err(_) => tracing::debug!("writing visits took too long"),
        }
    }

    async fn bump(&self, shard: ShardIndex, batch: &[(RoomId, u64)]) -> Result<Vec<RoomId>, RoomsError> {
        let shard = self.rooms.shards.get(shard).ok_or(RoomsError::NoOwner)?;
        let primary = shard.primary(Instant::now() + WRITE_LIMIT).await?;
        let connection = primary.pool().get().await?;
        connection.begin().await?;
        let rooms = bump(&connection, batch).await?;
        connection.commit().await?;
        Ok(rooms)
    }

    fn add_all(&self, visits: impl IntoIterator<Item = (RoomId, u64)>) {
        let mut counted = self.lock();
        for (room, visits) in visits {
            if counted.len() < MAX_ROOMS || counted.contains_key(&room) {
                *counted.entry(room).or_default() += visits;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoomId, u64>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bump(connection: &Connection, batch: &[(RoomId, u64)]) -> Result<Vec<RoomId>, RoomsError> {
    let rooms: Vec<i64> = batch.iter().map(|(room, _)| room.as_i64()).collect();
    let slots: Vec<i32> = batch.iter().map(|(room, _)| i32::from(slot_of(*room).0)).collect();
    let visits: Vec<i64> =
        batch.iter().map(|(_, visits)| i64::try_from(*visits).unwrap_or(i64::MAX)).collect();
    let mut locks = slots.clone();
    locks.sort_unstable();
    locks.dedup();
    connection.query(&LOCK_SLOTS, &[&SLOT_LOCKS, &locks]).await?;
    let rows = connection.query(&BUMP, &[&rooms, &slots, &visits]).await?;
    Ok(rows.iter().filter_map(|row| RoomId::from_i64(row.get(0)).ok()).collect())
}
