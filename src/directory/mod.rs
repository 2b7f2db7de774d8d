//! The directory: people, their refresh tokens, and the names of rooms.
//!
//! Owns the SQL of the schema `directory`. It is needed to sign in and to create a
//! room. It is not on the data path, so rooms outlast its outage: while it is away,
//! the shards are asked for a slug that isn't cached. Every statement may be run twice with
//! the effect of once, and is, when a connection is lost under it.
//! Knows no tokens' text and no passwords, only digests and hashes.

mod accounts;
mod erasures;
pub mod idempotency;
mod known_addresses;
mod passwords;
mod refresh_tokens;
mod revocations;
mod sign_ins;
mod slugs;
mod tickets;

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::Semaphore;

use crate::db::{Class, DbError, Row, Sql, ToSql};
use crate::protocol::{Code, Refusal};
use crate::routing::Shard;
use crate::store::misconfigured;

pub use accounts::{Account, AccountChange, Credentials, NewAccount};
pub use erasures::Erasure;
pub use known_addresses::{Acquaintance, Seen};
pub use passwords::PasswordChange;
pub use revocations::Revoked;
pub use sign_ins::SignIn;
pub use slugs::Unfinished;

/// Every statement, to be prepared when a connection is made.
// The gateway's role may not delete from the table itself.
static TRIM_AUDIT: Sql =
    Sql { name: "audit_trim", text: "SELECT directory.audit_trim($1 * interval '1 millisecond', $2)" };

pub const STATEMENTS: &[&Sql] = &[
    &accounts::INSERT,
    &accounts::BY_ID,
    &accounts::BY_EMAIL,
    &accounts::CHANGE,
    &accounts::REHASH,
    &known_addresses::LOOK,
    &known_addresses::NOTE,
    &known_addresses::SWEEP,
    &passwords::SET,
    &passwords::BEGIN_RESET,
    &passwords::RESET_OF,
    &passwords::FINISH_RESET,
    &passwords::SWEEP,
    &sign_ins::LIST,
    &sign_ins::END,
    &sign_ins::NOTE_FAILURE,
    &refresh_tokens::INSERT,
    &refresh_tokens::ROTATE,
    &refresh_tokens::REVOKE_REUSED,
    &revocations::SINCE,
    &revocations::SWEEP,
    &revocations::SWEEP_SIGN_INS,
    &revocations::END_LOGIN,
    &revocations::END_LOGINS,
    &revocations::END_ALL,
    &TRIM_AUDIT,
    &erasures::BEGIN,
    &erasures::TAKE,
    &erasures::WORKING,
    &erasures::DONE,
    &erasures::STATE,
    &slugs::RESERVE,
    &slugs::IS_TAKEN,
    &slugs::ACTIVATE,
    &slugs::RESOLVE,
    &slugs::UNFINISHED,
    &slugs::UNFINISHED_OF,
    &slugs::FORGET,
    &idempotency::CLAIM,
    &idempotency::READ,
    &idempotency::ALIVE,
    &idempotency::ANSWER,
    &idempotency::RELEASE,
    &idempotency::SWEEP,
    &refresh_tokens::END_OLDEST,
    &refresh_tokens::SWEEP,
    &tickets::SPEND,
    &tickets::SWEEP,
];

/// How long a request waits for the directory's primary.
const PATIENCE: Duration = Duration::from_secs(5);

/// A statement that met a lost connection or a demoted server is run again.
const TRIES: usize = 3;

/// Rows that one statement of a sweep deletes.
const SWEEP_BATCH: i64 = 1000;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Slugs kept in memory, least recently used out first.
const CACHED_SLUGS: u64 = 100_000;

/// How long a slug is what it was without asking again. Nothing renames a room;
/// but a failover of the directory may lose a name that somebody else gets then.
const SLUGS_TRUSTED: Duration = Duration::from_secs(60);

/// Slugs that the shards are asked for at a time, so that a storm of them leaves
/// connections to the reads of rooms.
const SLUGS_ASKED_OF_SHARDS: usize = 32;

/// Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    database: Shard,
    /// Active slugs only.
    slugs: moka::future::Cache<crate::ids::Slug, slugs::KnownSlug>,
    slugs_trusted: Duration,
    asking_shards: Arc<Semaphore>,
    kept: RevocationsKept,
}

/// For how long a revocation must be remembered: as long as a token may live that
/// it ends.
#[derive(Debug, Clone, Copy)]
pub struct RevocationsKept {
    /// One of a sign-in ends access tokens that were made here.
    pub of_login: Duration,
    /// One of a user ends tokens of all issuers.
    pub of_any: Duration,
}

#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("the directory has no writable primary")]
    NoPrimary,
    #[error("the directory failed: {0}")]
    Database(#[from] DbError),
    #[error("an account with this email exists")]
    EmailTaken,
    #[error("the slug is taken")]
    SlugTaken,
    #[error("the user has made {most} rooms already")]
    TooManyRooms { most: u32 },
    #[error("the refresh token is unknown, spent or expired")]
    RefreshTokenInvalid,
    /// Its sign-in has been ended.
    #[error("the refresh token was spent before")]
    RefreshTokenReused,
    #[error("the directory holds {what} that can't be read")]
    Corrupt { what: &'static str },
}

impl DirectoryError {
    /// The directory gave no answer, and may give one later.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::NoPrimary => true,
            Self::Database(error) => error.class() != Class::BadInput,
            _ => false,
        }
    }

    /// What the caller is told; the details are logged here, once.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::EmailTaken => Refusal::new(Code::EmailTaken, "an account with this email exists"),
            Self::SlugTaken => Refusal::new(Code::SlugTaken, "another room has this slug"),
            Self::TooManyRooms { most } => Refusal::new(
                Code::Forbidden,
                format!(
                    "you have made {most} rooms, and may have no more; use one of them (limits.rooms_per_user)"
                ),
            ),
            Self::RefreshTokenInvalid | Self::RefreshTokenReused => {
                Refusal::new(Code::Unauthenticated, "sign in again")
            }
            Self::NoPrimary => unavailable(),
            Self::Database(error) if error.class() == Class::Misconfigured => {
                misconfigured("the directory", error)
            }
            Self::Database(error) if self.is_away() => {
                tracing::warn!(%error, "the directory failed");
                unavailable()
            }
            Self::Database(_) | Self::Corrupt { .. } => {
                tracing::error!(error = %self, "the directory failed");
                Refusal::new(Code::Internal, "something is wrong here; the operators know")
            }
        }
    }
}

impl From<DirectoryError> for Refusal {
    fn from(error: DirectoryError) -> Self {
        error.refusal()
    }
}

fn unavailable() -> Refusal {
    Refusal::new(Code::Unavailable, "the directory can't be reached; try again").retry_after_ms(2_000)
}

impl Directory {
    /// `database`: the directory's cluster, watched like a shard.
    pub fn new(database: Shard) -> Self {
        Self {
            database,
            slugs: moka::future::Cache::new(CACHED_SLUGS),
            slugs_trusted: SLUGS_TRUSTED,
            asking_shards: Arc::new(Semaphore::new(SLUGS_ASKED_OF_SHARDS)),
            kept: RevocationsKept { of_login: DAY, of_any: DAY * 400 },
        }
    }

    /// Instead of a day and 400 days.
    pub fn keeping_revocations(self, kept: RevocationsKept) -> Self {
        Self { kept, ..self }
    }

    /// Instead of a minute.
    pub fn trusting_slugs_for(self, slugs_trusted: Duration) -> Self {
        Self { slugs_trusted, ..self }
    }

    pub fn database(&self) -> &Shard {
        &self.database
    }

    /// Deletes what has had its time: answers kept for repeats, refresh tokens,
    /// used tickets, revocations older than any token, addresses long not signed in from.
    pub async fn sweep(&self) -> Result<usize, DirectoryError> {
        let remembered = millis(idempotency::REMEMBERED);
        let mut swept = 0;
        loop {
            let answers = self.query(&idempotency::SWEEP, &[&remembered, &SWEEP_BATCH]).await?;
            let tokens = self.query(&refresh_tokens::SWEEP, &[&SWEEP_BATCH]).await?;
            let sign_ins = self.query(&revocations::SWEEP_SIGN_INS, &[&SWEEP_BATCH]).await?;
            let revocations = self.query(&revocations::SWEEP, &[&SWEEP_BATCH]).await?;
            let tickets = self.query(&tickets::SWEEP, &[&SWEEP_BATCH]).await?;
            let addresses = self.sweep_known_addresses(SWEEP_BATCH).await?;
            let count = answers.len() + tokens.len() + sign_ins.len() + revocations.len() + tickets.len();
            let resets = self.sweep_resets(SWEEP_BATCH).await?;
            let count = count + addresses + resets;
            swept += count;
            if count == 0 {
                return Ok(swept);
            }
        }
    }

    /// Deletes some notes of the audit trail that are older than `kept`.
    pub async fn trim_audit(&self, kept: Duration) -> Result<(), DirectoryError> {
        self.query(&TRIM_AUDIT, &[&millis(kept), &SWEEP_BATCH]).await.map(drop)
    }

    async fn query_opt(
        &self,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, DirectoryError> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// On the primary, at most [`TRIES`] times within [`PATIENCE`]; while somebody
    /// else has the row, for all of that: their commit may be slow.
    async fn query(
        &self,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DirectoryError> {
        let deadline = Instant::now() + PATIENCE;
        let mut tries = 0;
        loop {
            tries += 1;
            let primary = self.database.primary(deadline).await.map_err(|_| DirectoryError::NoPrimary)?;
            let rows = async { primary.pool().get().await?.query(sql, params).await };
            match rows.await {
                Ok(rows) => return Ok(rows),
                Err(error) if error.class() == Class::LockTimeout && Instant::now() < deadline => {
                    tracing::debug!(%error, "waiting on in the directory");
                }
                Err(error) if tries < TRIES && is_worth_another_try(error.class()) => {
                    tracing::debug!(%error, "trying the directory again");
                    if matches!(error.class(), Class::Connection | Class::ReadOnly) {
                        self.database.suspect(&primary);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_worth_another_try(class: Class) -> bool {
    matches!(
        class,
        Class::Connection | Class::ReadOnly | Class::Serialization | Class::Deadlock | Class::Stale
    )
}

/// For parameters that SQL multiplies with `interval '1 millisecond'`.
fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
