//! Slots move from shard to shard while people draw: what is where, what should
//! be, and the mover that brings it there, some slots at a time.

mod copy;
mod pace;
mod slot;
mod statements;
mod survey;
mod tables;
mod upkeep;

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

pub use pace::Pace;
pub use slot::{MoveError, Moved};
pub use survey::{Found, State, Survey, SurveyError};
pub use tables::all as tables;
pub use upkeep::{CleanupError, Contents};

use self::slot::SlotMove;
use self::statements::MOVER_LOCKS;
use crate::config::Config;
use crate::databases::{DatabaseError, Databases};
use crate::db::{Connection, DbError, Lease};
use crate::ids::{NodeName, Slot};
use crate::placement::{Move, ShardIndex};
use crate::routing::{NoPrimary, Shard, Shards};
use crate::tasks::{Stop, Tasks};

/// Where a move is; each is reached once what it names is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Importing,
    Copied,
    Compared,
    Fenced,
    TailCopied,
    DestinationFlushed,
    SourceMoved,
    Recorded,
    Active,
}

impl Step {
    pub const ALL: [Self; 9] = [
        Self::Importing,
        Self::Copied,
        Self::Compared,
        Self::Fenced,
        Self::TailCopied,
        Self::DestinationFlushed,
        Self::SourceMoved,
        Self::Recorded,
        Self::Active,
    ];
}

/// Is told of every step; a move goes on when it answers.
pub trait Observer: Send + Sync {
    fn reached(&self, slot: Slot, step: Step) -> BoxFuture<'_, ()>;

    /// How a move ended; those that failed may be tried again before.
    fn ended(&self, slot: Slot, result: &Result<Moved, MoveError>);
}

/// How much of everything the mover may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Slots that move at a time.
    pub parallel: usize,
    pub bytes_per_second: Option<u64>,
    /// Bytes that a standby may be behind before copying waits for it.
    pub max_lag: u64,
    /// How long one slot is tried for, over all tries.
    pub patience: Duration,
}

/// A slot's largest room is copied and compared in a statement each.
const LONGEST_STATEMENT: Duration = Duration::from_secs(3600);
/// Between two tries of a slot.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a lock or a primary is waited for at a time.
const STEP_PATIENCE: Duration = Duration::from_secs(10);

pub struct Mover {
    pub shards: Shards,
    pub directory: Shard,
    pub bounds: Bounds,
    pub pace: Pace,
    /// Whose writers may be kept waiting: one slot at a time, as what they wait for is
    /// disks, which many would only wait for longer.
    fences: Semaphore,
}

impl Mover {
    /// With connections of its own, as the nodes' role.
    pub async fn open(config: &Config, bounds: Bounds, tasks: &Tasks) -> Result<Self, DatabaseError> {
        let mut config = config.clone();
        // Some for each slot that moves, and none in reserve.
        config.pool.min_idle = 0;
        config.pool.max_connections = u32::try_from(bounds.parallel * 3 + 2).unwrap_or(u32::MAX);
        config.pool.statement_timeout = LONGEST_STATEMENT;
        // Not to be taken for the node whose file it reads.
        config.node.name = NodeName::new("mover").expect("a valid name");
        // It holds locks for longer than a transaction.
        let shards = config.shards.iter_mut().flat_map(|shard| &mut shard.endpoints);
        shards.chain(&mut config.directory.endpoints).for_each(|endpoint| endpoint.pgbouncer = None);
        let databases = Databases::open(&config, tasks).await?;
        let directory = databases.directory.database().clone();
        Ok(Self {
            shards: databases.shards,
            directory,
            bounds,
            pace: Pace::new(bounds.bytes_per_second),
            fences: Semaphore::new(1),
        })
    }

    /// Carries out what can be; how many slots arrived, and how many did not. A
    /// stop lets those under way end.
    pub async fn carry_out(&self, moves: Vec<Move>, observer: &dyn Observer, stop: &Stop) -> [usize; 2] {
        let results =
            stream::iter(moves)
                .map(|step| async move {
                    if stop.is_stopped() { None } else { Some(self.one(step, observer).await) }
                })
                .buffer_unordered(self.bounds.parallel.max(1));
        let count = async |[arrived, failed]: [usize; 2], result: Option<bool>| match result {
            Some(true) => [arrived + 1, failed],
            Some(false) => [arrived, failed + 1],
            None => [arrived, failed],
        };
        results.fold([0, 0], count).await
    }

    /// Until it is there, or its time is up, or trying again is no use.
    async fn one(&self, step: Move, observer: &dyn Observer) -> bool {
        let (Some(source), Some(destination)) = (self.shards.get(step.from), self.shards.get(step.to)) else {
            return false;
        };
        let begun = Instant::now();
        loop {
            let attempt = SlotMove {
                slot: step.slot,
                source,
                destination,
                directory: &self.directory,
                pace: &self.pace,
                fences: &self.fences,
                observer,
                patience: STEP_PATIENCE,
                max_lag: self.bounds.max_lag,
            };
            let result = attempt.run().await;
            if let Err(error) = &result
                && error.is_passing()
                && begun.elapsed() < self.bounds.patience
            {
                tracing::warn!(slot = step.slot.0, %error, "a move is tried again");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            observer.ended(step.slot, &result);
            return result.is_ok();
        }
    }

    /// The shard's place among those of the mover.
    pub fn index(&self, name: &str) -> Option<ShardIndex> {
        self.shards.iter().find(|(_, shard)| shard.name().as_str() == name).map(|(index, _)| index)
    }
}

async fn connect<E: From<NoPrimary> + From<DbError>>(shard: &Shard, patience: Duration) -> Result<Lease, E> {
    let primary = shard.primary(Instant::now() + patience).await?;
    Ok(primary.pool().get().await?)
}

/// Does something with what is on a shard of a slot while nobody moves it there. The
/// lock is the connection's, so it ends with whoever holds it.
async fn alone<T, E: From<DbError>>(
    there: &Connection,
    slot: Slot,
    busy: E,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let number = i32::from(slot.0);
    if !there.query_one(&statements::LOCK_MOVER, &[&MOVER_LOCKS, &number]).await?.get::<_, bool>(0) {
        return Err(busy);
    }
    let done = work.await;
    let unlocked = there.query_one(&statements::UNLOCK_MOVER, &[&MOVER_LOCKS, &number]).await;
    if done.is_ok() {
        unlocked?;
    }
    done
}
