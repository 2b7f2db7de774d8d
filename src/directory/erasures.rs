//! People who asked to be forgotten. What names them here goes in the statement
//! that notes it; what is left to do elsewhere is a row that any node continues.

use std::time::Duration;

use uuid::Uuid;

use super::{Directory, DirectoryError, millis};
use crate::clock::UnixMillis;
use crate::db::{Row, Sql};
use crate::ids::UserId;

/// A worker that has been silent for so long is dead.
const SILENT: Duration = Duration::from_secs(10);
/// When it is gone through once more: no token of theirs works anywhere by then.
const CHECK_AFTER: Duration = Duration::from_secs(60);

pub(super) static BEGIN: Sql = Sql {
    name: "erasure_begin",
    text: "WITH job AS (
               INSERT INTO directory.erasure (user_id) VALUES ($1)
                   ON CONFLICT (user_id) DO UPDATE
                      SET asked_at = now(), worked_at = NULL, done_at = NULL, checked_at = NULL
               RETURNING user_id),
           gone AS (DELETE FROM directory.account WHERE id = $1),
           forgotten AS (DELETE FROM directory.idempotency WHERE user_id = $1),
           noted AS (
               INSERT INTO directory.audit (id, actor, action, target)
               SELECT $2, user_id, 'erasure', 'user ' || user_id FROM job
                   ON CONFLICT DO NOTHING)
           INSERT INTO directory.revocation (id, user_id, expires_at)
           VALUES ($2, $1, now() + $3 * interval '1 millisecond') ON CONFLICT DO NOTHING",
};

pub(super) static TAKE: Sql = Sql {
    name: "erasure_take",
    text: "UPDATE directory.erasure SET worked_at = now()
            WHERE user_id = (
                SELECT user_id FROM directory.erasure
                 WHERE checked_at IS NULL
                   AND (done_at IS NULL OR asked_at <= now() - $2 * interval '1 millisecond')
                   AND (worked_at IS NULL OR worked_at <= now() - $1 * interval '1 millisecond')
                 ORDER BY asked_at LIMIT 1 FOR UPDATE SKIP LOCKED)
           RETURNING user_id",
};

pub(super) static WORKING: Sql = Sql {
    name: "erasure_working",
    text: "UPDATE directory.erasure
              SET worked_at = now(), transferred = transferred + $2, archived = archived + $3
            WHERE user_id = $1",
};

pub(super) static DONE: Sql = Sql {
    name: "erasure_done",
    text: "UPDATE directory.erasure
              SET done_at = coalesce(done_at, now()), worked_at = NULL,
                  checked_at = CASE WHEN asked_at <= now() - $2 * interval '1 millisecond' THEN now() END
            WHERE user_id = $1",
};

pub(super) static STATE: Sql = Sql {
    name: "erasure_state",
    text:
        "SELECT (extract(epoch FROM asked_at) * 1000)::bigint, (extract(epoch FROM done_at) * 1000)::bigint,
                  (extract(epoch FROM checked_at) * 1000)::bigint, transferred, archived
             FROM directory.erasure WHERE user_id = $1",
};

/// How far an erasure has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erasure {
    pub asked_at: UnixMillis,
    pub done_at: Option<UnixMillis>,
    pub checked_at: Option<UnixMillis>,
    /// Rooms.
    pub transferred: i32,
    pub archived: i32,
}

impl Directory {
    /// Forgets `user` here, ends all their tokens, and notes what is left to do.
    pub async fn begin_erasure(&self, user: &UserId) -> Result<(), DirectoryError> {
        self.query(&BEGIN, &[&user.as_str(), &Uuid::now_v7(), &millis(self.kept.of_any)]).await.map(drop)
    }

    /// Somebody whose erasure has nobody working on it.
    pub async fn take_erasure(&self) -> Result<Option<UserId>, DirectoryError> {
        let row = self.query_opt(&TAKE, &[&millis(SILENT), &millis(CHECK_AFTER)]).await?;
        let user =
            |row: Row| UserId::new(row.get(0)).map_err(|_| DirectoryError::Corrupt { what: "a user id" });
        row.map(user).transpose()
    }

    /// Says that it is being worked on, and what was done since last time.
    pub async fn erasure_working(
        &self,
        user: &UserId,
        transferred: i32,
        archived: i32,
    ) -> Result<(), DirectoryError> {
        self.query(&WORKING, &[&user.as_str(), &transferred, &archived]).await.map(drop)
    }

    /// All rooms have been gone through.
    pub async fn erasure_done(&self, user: &UserId) -> Result<(), DirectoryError> {
        self.query(&DONE, &[&user.as_str(), &millis(CHECK_AFTER)]).await.map(drop)
    }

    pub async fn erasure(&self, user: &UserId) -> Result<Option<Erasure>, DirectoryError> {
        let row = self.query_opt(&STATE, &[&user.as_str()]).await?;
        Ok(row.map(|row| Erasure {
            asked_at: UnixMillis(row.get(0)),
            done_at: row.get::<_, Option<i64>>(1).map(UnixMillis),
            checked_at: row.get::<_, Option<i64>>(2).map(UnixMillis),
            transferred: row.get(3),
            archived: row.get(4),
        }))
    }
}
