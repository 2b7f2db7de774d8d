//! Sign-ins as their user sees them, and the notes of the audit trail about them.

use uuid::Uuid;

use super::{Directory, DirectoryError, millis};
use crate::clock::UnixMillis;
use crate::db::Sql;
use crate::ids::UserId;

/// `limits.signins_kept_per_user` may be 0.
const LISTED: i64 = 1000;

pub(super) static LIST: Sql = Sql {
    name: "sign_in_list",
    text: "SELECT id, (extract(epoch FROM created_at) * 1000)::bigint,
                  (extract(epoch FROM coalesce(refreshed_at, created_at)) * 1000)::bigint,
                  (extract(epoch FROM expires_at) * 1000)::bigint, agent
             FROM directory.sign_in
            WHERE account_id = $1 AND ended_at IS NULL AND expires_at > now()
            ORDER BY coalesce(refreshed_at, created_at) DESC, id LIMIT $2",
};

pub(super) static END: Sql = Sql {
    name: "sign_in_end",
    text: "WITH ended AS (
               UPDATE directory.sign_in SET ended_at = now()
                WHERE id = $1 AND account_id = $2 AND ended_at IS NULL
               RETURNING id),
           noted AS (
               INSERT INTO directory.audit (id, actor, action, target)
               SELECT $3, $2, 'sign_out', 'sign_in ' || id FROM ended
                   ON CONFLICT DO NOTHING),
           revoked AS (
               INSERT INTO directory.revocation (id, user_id, login, expires_at)
               SELECT gen_random_uuid(), $2, id, now() + $4 * interval '1 millisecond' FROM ended)
           SELECT EXISTS (SELECT FROM directory.sign_in WHERE id = $1 AND account_id = $2)",
};

pub(super) static NOTE_FAILURE: Sql = Sql {
    name: "sign_in_note_failure",
    text: "INSERT INTO directory.audit (id, actor, action, target)
           VALUES ($1, $2, 'sign_in.failed', 'user ' || $2) ON CONFLICT DO NOTHING",
};

/// One that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignIn {
    pub id: Uuid,
    pub created_at: UnixMillis,
    pub refreshed_at: UnixMillis,
    pub expires_at: UnixMillis,
    /// The client's own description, shortened.
    pub agent: Option<String>,
}

impl Directory {
    /// The last refreshed one first.
    pub async fn sign_ins(&self, account: &UserId) -> Result<Vec<SignIn>, DirectoryError> {
        let rows = self.query(&LIST, &[&account.as_str(), &LISTED]).await?;
        let sign_in = |row: &crate::db::Row| SignIn {
            id: row.get(0),
            created_at: UnixMillis(row.get(1)),
            refreshed_at: UnixMillis(row.get(2)),
            expires_at: UnixMillis(row.get(3)),
            agent: row.get(4),
        };
        Ok(rows.iter().map(sign_in).collect())
    }

    /// False if the account never had it, or it is long gone.
    pub async fn end_sign_in(&self, account: &UserId, sign_in: Uuid) -> Result<bool, DirectoryError> {
        let (account, note, until) = (account.as_str(), Uuid::now_v7(), millis(self.kept.of_login));
        let row = self.query_opt(&END, &[&sign_in, &account, &note, &until]).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Somebody showed a wrong password.
    pub async fn note_failed_sign_in(&self, account: &UserId) -> Result<(), DirectoryError> {
        self.query(&NOTE_FAILURE, &[&Uuid::now_v7(), &account.as_str()]).await.map(drop)
    }
}
