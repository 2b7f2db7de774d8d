//! Many shapes at once, as one contiguous range of events.
//!
//! ```text
//! stage:  COPY into import_line, as the body arrives; no lock is held
//! finish: one transaction: slot, head, rights, known op; refused lines; events,
//!         shapes, head, answer
//! ```
//!
//! Guarantees: all accepted lines become events in one transaction, or none; an
//! op has one effect and one answer, however often it is sent. An op without an
//! effect stays unused. Lines that a crash leaves staged have none, and are swept.

mod finish;
mod statements;

use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;
use uuid::Uuid;

pub use statements::STATEMENTS;

use crate::db::{Class, DbError};
use crate::ids::{OpId, RoomId, UserId};
use crate::log::{Authority, Digest, Submit};
use crate::protocol::{Code, Operation, Refusal, Shape};
use crate::routing::{NoPrimary, Shard, Shards};
use crate::store::guard::WriteError;
use crate::store::misconfigured;
use crate::store::slots::Slots;

/// How long the last transaction is tried for, and one batch of lines.
const PATIENCE: Duration = Duration::from_secs(20);
/// What was staged so long ago is nobody's any more.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Cheap to clone.
#[derive(Clone)]
pub struct Imports {
    shards: Shards,
    slots: Slots,
    is_sync: bool,
}

/// Who imports what, under which op.
#[derive(Debug, Clone)]
pub struct Import {
    pub room: RoomId,
    pub user: UserId,
    pub authority: Authority,
    pub op: OpId,
}

/// An import whose body is still arriving.
pub struct Staging {
    id: Uuid,
    import: Import,
    staged: u64,
}

/// A line that is a shape the room's schema takes.
pub struct Line {
    /// From 1.
    pub number: u32,
    pub shape: Shape,
}

#[derive(Debug, Error)]
pub enum ImportError {
    #[error(transparent)]
    Refused(Refusal),
    /// The shard restarted or the room moved while lines arrived.
    #[error("what was staged is gone")]
    StageLost,
    /// COMMIT was sent and didn't answer.
    #[error("whether the import was committed is unknown: {0}")]
    Unknown(DbError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Imports {
    pub fn new(shards: Shards, slots: Slots, is_sync: bool) -> Self {
        Self { shards, slots, is_sync }
    }

    pub fn begin(&self, import: Import) -> Staging {
        Staging { id: Uuid::now_v7(), import, staged: 0 }
    }

    /// Puts lines aside on the room's shard; the caller keeps batches small.
    pub async fn stage(&self, staging: &mut Staging, lines: &[Line]) -> Result<(), ImportError> {
        if lines.is_empty() {
            return Ok(());
        }
        let text = Bytes::from(statements::copy_text(staging.id, &staging.import, lines));
        let primary = self.shard(staging.import.room)?.primary(Instant::now() + PATIENCE).await?;
        let connection = primary.pool().get().await?;
        staging.staged += connection.copy_in(&statements::STAGE, text).await?;
        Ok(())
    }

    /// Drops what was staged; best effort, the sweep does the rest.
    pub async fn discard(&self, staging: Staging) {
        let dropped = async {
            let primary = self.shard(staging.import.room)?.primary(Instant::now() + PATIENCE).await?;
            let connection = primary.pool().get().await?;
            connection.execute(&statements::UNSTAGE, &[&staging.id]).await?;
            Ok::<_, ImportError>(())
        };
        if let Err(error) = dropped.await {
            tracing::debug!(%error, "what was staged is swept later");
        }
    }

    /// Drops what crashed nodes have left staged, on all shards.
    pub async fn sweep(&self) {
        for (_, shard) in self.shards.iter() {
            let Some(primary) = shard.primary_now() else { continue };
            let age = i64::try_from(FORGOTTEN.as_millis()).unwrap_or(i64::MAX);
            let swept = match primary.pool().get().await {
                Ok(connection) => connection.execute(&statements::SWEEP, &[&age]).await,
                Err(error) => Err(error),
            };
            match swept {
                Ok(0) => {}
                Ok(lines) => tracing::info!(shard = %shard.name(), lines, "swept what imports had left"),
                Err(error) => tracing::debug!(shard = %shard.name(), %error, "imports are swept later"),
            }
        }
    }

    fn shard(&self, room: RoomId) -> Result<&Shard, WriteError> {
        self.slots.owner(room).and_then(|index| self.shards.get(index)).ok_or(WriteError::NoOwner)
    }
}

impl Line {
    /// As of the event that it becomes.
    fn digest(&self, import: &Import) -> Digest {
        let operation = Operation::ShapeAdd { shape: self.shape.clone() };
        Submit::new(import.room, import.user.clone(), import.authority, import.op.clone(), operation).digest
    }
}

impl From<NoPrimary> for ImportError {
    fn from(error: NoPrimary) -> Self {
        Self::Write(error.into())
    }
}

impl From<DbError> for ImportError {
    fn from(error: DbError) -> Self {
        Self::Write(error.into())
    }
}

/// What the caller is told; details are logged here, once.
impl From<ImportError> for Refusal {
    fn from(error: ImportError) -> Self {
        let again = |message: &'static str| Self::new(Code::ShardUnavailable, message).retry_after_ms(1000);
        match error {
            ImportError::Refused(refusal) => refusal,
            ImportError::Write(WriteError::Database(error)) if error.class() == Class::Misconfigured => {
                misconfigured("the room's shard", &error)
            }
            ImportError::Write(WriteError::Database(error)) if error.class() == Class::BadInput => {
                tracing::error!(%error, "an import can't be stored");
                Self::new(Code::Internal, "something is wrong here; the operators know")
            }
            ImportError::Unknown(error) => {
                tracing::warn!(%error, "an import's fate is unknown");
                again("it is not known what became of the import; send it again with the same op")
            }
            ImportError::StageLost | ImportError::Write(_) => {
                tracing::warn!(%error, "an import failed");
                again("the room's shard can't be written now; nothing was imported")
            }
        }
    }
}
