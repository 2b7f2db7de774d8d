//! Requests that carry an Idempotency-Key: one effect and one answer each, per
//! user, for a day.
//!
//! A request claims its key before it does anything. While it is under way its
//! node says so now and then; a claim that has gone silent is taken over, with
//! the id of what it was to make, so that what was half done is gone on with.
//! Refused requests have no effect and are not remembered.

use std::time::Duration;

use uuid::Uuid;

use super::{Directory, DirectoryError, millis};
use crate::db::{Sql, ToSql};
use crate::ids::UserId;

/// For so long a key means the same request.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How often a request under way says so.
pub const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// A claim that has been silent for so long is nobody's.
const SILENT: Duration = Duration::from_secs(6);

pub(super) static CLAIM: Sql = Sql {
    name: "idempotency_claim",
    text: "INSERT INTO directory.idempotency AS kept (user_id, key, digest, makes, try)
           VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (user_id, key) DO UPDATE
                   SET digest = excluded.digest,
                       makes = CASE WHEN kept.status IS NULL AND kept.digest = excluded.digest
                                    THEN kept.makes ELSE excluded.makes END,
                       try = excluded.try, tried_at = now(), created_at = now(),
                       status = NULL, location = NULL, answer = NULL
                 WHERE kept.created_at <= now() - $6 * interval '1 millisecond'
                    OR kept.status IS NULL AND kept.digest = excluded.digest
                       AND (kept.tried_at <= now() - $7 * interval '1 millisecond' OR kept.try = excluded.try)
           RETURNING makes",
};

pub(super) static READ: Sql = Sql {
    name: "idempotency_read",
    text: "SELECT digest, status, location, answer, makes FROM directory.idempotency
            WHERE user_id = $1 AND key = $2",
};

pub(super) static ALIVE: Sql = Sql {
    name: "idempotency_alive",
    text: "UPDATE directory.idempotency SET tried_at = now()
            WHERE user_id = $1 AND key = $2 AND try = $3 AND status IS NULL",
};

pub(super) static ANSWER: Sql = Sql {
    name: "idempotency_answer",
    text: "UPDATE directory.idempotency SET status = $4, location = $5, answer = $6
            WHERE user_id = $1 AND key = $2 AND try = $3",
};

pub(super) static RELEASE: Sql = Sql {
    name: "idempotency_release",
    text: "DELETE FROM directory.idempotency
            WHERE user_id = $1 AND key = $2 AND try = $3 AND status IS NULL",
};

pub(super) static SWEEP: Sql = Sql {
    name: "idempotency_sweep",
    text: "DELETE FROM directory.idempotency WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM directory.idempotency
                WHERE created_at <= now() - $1 * interval '1 millisecond' LIMIT $2))
           RETURNING 1",
};

/// One try of a request.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub user: UserId,
    pub key: String,
    /// Of all that makes the request what it is.
    pub digest: [u8; 32],
    /// The id of what it would make, were it the first.
    pub makes: i64,
    pub id: Uuid,
}

/// What the client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    pub status: u16,
    pub location: Option<String>,
    pub body: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// This try is the one to do it, and what it makes has this id.
    Ours { makes: i64 },
    /// It was done: the id of what it made, and what was answered.
    Answered { makes: i64, answer: KeptAnswer },
    /// Another try is at it.
    UnderWay,
    /// The key belongs to another request.
    Mismatch,
}

impl Directory {
    pub async fn claim(&self, attempt: &Attempt) -> Result<Claim, DirectoryError> {
        let Attempt { user, key, digest, makes, id } = attempt;
        let (user, digest) = (user.as_str(), digest.as_slice());
        let (remembered, silent) = (millis(REMEMBERED), millis(SILENT));
        let params: [&(dyn ToSql + Sync); 7] = [&user, key, &digest, makes, id, &remembered, &silent];
        if let Some(row) = self.query_opt(&CLAIM, &params).await? {
            return Ok(Claim::Ours { makes: row.get(0) });
        }
        // A later statement, since a conflicting row is invisible to the first.
        let Some(row) = self.query_opt(&READ, &[&user, key]).await? else { return Ok(Claim::UnderWay) };
        if row.get::<_, &[u8]>(0) != digest {
            return Ok(Claim::Mismatch);
        }
        let Some(status) = row.get::<_, Option<i32>>(1) else { return Ok(Claim::UnderWay) };
        let answer = KeptAnswer {
            status: u16::try_from(status).map_err(|_| DirectoryError::Corrupt { what: "a status" })?,
            location: row.get(2),
            body: row.get(3),
        };
        Ok(Claim::Answered { makes: row.get(4), answer })
    }

    /// Says that the try is under way.
    pub async fn claim_alive(&self, attempt: &Attempt) -> Result<(), DirectoryError> {
        self.query(&ALIVE, &[&attempt.user.as_str(), &attempt.key, &attempt.id]).await.map(drop)
    }

    pub async fn keep_answer(&self, attempt: &Attempt, answer: &KeptAnswer) -> Result<(), DirectoryError> {
        let status = i32::from(answer.status);
        let params: [&(dyn ToSql + Sync); 6] =
            [&attempt.user.as_str(), &attempt.key, &attempt.id, &status, &answer.location, &answer.body];
        self.query(&ANSWER, &params).await.map(drop)
    }

    /// The try had no effect: the key is free again.
    pub async fn release(&self, attempt: &Attempt) -> Result<(), DirectoryError> {
        self.query(&RELEASE, &[&attempt.user.as_str(), &attempt.key, &attempt.id]).await.map(drop)
    }
}
