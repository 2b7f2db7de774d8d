//! The transaction in which a room's rows may be written outside the append:
//! under the slot's shared lock, with its owner and the server's claim checked
//! by a later statement, which sees what a mover committed before.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::time::sleep;

use crate::db::{Class, Connection, DbError, Lease, Sql};
use crate::ids::RoomId;
use crate::placement::slot_of;
use crate::position::Epoch;
use crate::routing::{Endpoint, NoPrimary, Shard, Shards};
use crate::store::slots::{SLOT_LOCKS, Slots};

/// Prepared on every connection that may write.
pub const STATEMENTS: &[&Sql] = &[&LOCK_SLOT, &CHECK];

static LOCK_SLOT: Sql =
    Sql { name: "guard_lock_slot", text: "SELECT pg_advisory_xact_lock_shared($1, $2)::text" };

static CHECK: Sql = Sql {
    name: "guard_check",
    text: "SELECT (SELECT epoch FROM slot_owner WHERE slot = $1 AND state = 'active'),
                  coalesce((SELECT timeline FROM shard_claim)
                    = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int, false),
                  current_setting('synchronous_standby_names') <> ''
                    AND current_setting('synchronous_commit') IN ('on', 'remote_apply')",
};

/// Between two tries when nobody owns the slot, or its lock is taken.
const PAUSE: Duration = Duration::from_millis(50);

/// Whose rows are written, and what that needs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub room: RoomId,
    /// Refuse a server that waits for no standby.
    pub is_sync: bool,
    /// Until when the guard is tried for.
    pub deadline: Instant,
}

/// Why nothing could be written.
#[derive(Debug, Error)]
pub enum WriteError {
    #[error("no shard that is known here owns the room's slot")]
    NoOwner,
    #[error("the server's timeline is not the one that is claimed for the shard")]
    NotClaimed,
    #[error("durability is sync, but the server waits for no standby")]
    NoStandby,
    #[error(transparent)]
    NoPrimary(#[from] NoPrimary),
    #[error(transparent)]
    Database(#[from] DbError),
}

/// An open transaction. Dropped, it takes its connection with it.
pub struct Guard {
    lease: Lease,
    epoch: Epoch,
    shard: Shard,
    primary: Arc<Endpoint>,
}

impl Guard {
    /// Tries until the deadline: nothing has been written yet.
    pub async fn begin(shards: &Shards, slots: &Slots, wanted: Wanted) -> Result<Self, WriteError> {
        loop {
            let error = match Self::attempt(shards, slots, wanted).await {
                Ok(guard) => return Ok(guard),
                Err(error) => error,
            };
            if !error.is_passing() || Instant::now() + PAUSE >= wanted.deadline {
                return Err(error);
            }
            sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
            if matches!(error, WriteError::NoOwner) {
                slots.refresh().await;
            }
        }
    }

    async fn attempt(shards: &Shards, slots: &Slots, wanted: Wanted) -> Result<Self, WriteError> {
        let shard = slots.owner(wanted.room).and_then(|index| shards.get(index));
        let shard = shard.ok_or(WriteError::NoOwner)?;
        let primary = shard.primary(wanted.deadline).await?;
        let begun = async {
            let lease = primary.pool().get().await?;
            lease.begin().await?;
            let slot = i32::from(slot_of(wanted.room).0);
            lease.query_one(&LOCK_SLOT, &[&SLOT_LOCKS, &slot]).await?;
            let row = lease.query_one(&CHECK, &[&slot]).await?;
            Ok::<_, DbError>((lease, row))
        };
        let (lease, row) = begun.await.inspect_err(|error| {
            if matches!(error.class(), Class::Connection | Class::ReadOnly) {
                shard.suspect(&primary);
            }
        })?;
        let refused = match row.get::<_, Option<i64>>(0).map(Epoch::from_i64) {
            _ if !row.get::<_, bool>(1) => WriteError::NotClaimed,
            _ if wanted.is_sync && !row.get::<_, bool>(2) => WriteError::NoStandby,
            None => WriteError::NoOwner,
            Some(epoch) => return Ok(Self { lease, epoch, shard: shard.clone(), primary }),
        };
        if let Err(error) = lease.rollback().await {
            tracing::debug!(%error, "a rollback failed");
        }
        Err(refused)
    }

    /// The slot's epoch: what new events carry.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// An error here means that nobody knows.
    pub async fn commit(self) -> Result<(), DbError> {
        self.lease.commit().await.inspect_err(|error| self.doubt(error))
    }

    /// A failed rollback leaves the connection marked as in a transaction, so it
    /// isn't used again.
    pub async fn rollback(self) {
        if let Err(error) = self.lease.rollback().await {
            self.doubt(&error);
            tracing::debug!(%error, "a rollback failed");
        }
    }

    /// A server that breaks off may not be the primary any more.
    fn doubt(&self, error: &DbError) {
        if matches!(error.class(), Class::Connection | Class::ReadOnly) {
            self.shard.suspect(&self.primary);
        }
    }
}

impl Deref for Guard {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.lease
    }
}

impl WriteError {
    fn is_passing(&self) -> bool {
        match self {
            Self::NoOwner | Self::NotClaimed | Self::NoStandby => true,
            Self::NoPrimary(_) => false,
            Self::Database(error) => error.class().is_worth_another_transaction(),
        }
    }
}
