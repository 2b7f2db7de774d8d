//! Refresh tokens: each is good for one use and gives its successor. A spent
//! one that is shown again was stolen or copied, so its whole sign-in ends, with its
//! access tokens and their sessions.
//!
//! A trigger on the table locks the sign-in's row and stores no token of a sign-in
//! that has ended, so an end and a rotation exclude each other.

use std::time::Duration;

use uuid::Uuid;

use super::{Directory, DirectoryError, millis};
use crate::db::Sql;
use crate::digests::RefreshDigest;
use crate::ids::UserId;

// A change of the password waits for the lock, and then sees the sign-in.
pub(super) static INSERT: Sql = Sql {
    name: "refresh_token_insert",
    text: "INSERT INTO directory.refresh_token (digest, family, account_id, expires_at)
           SELECT $1, $2, id, now() + $4 * interval '1 millisecond'
             FROM directory.account WHERE id = $3 FOR SHARE
           ON CONFLICT DO NOTHING",
};

// The last line answers a repeat of this very rotation, whose first answer was
// lost: the successor is there already.
pub(super) static ROTATE: Sql = Sql {
    name: "refresh_token_rotate",
    text: "WITH spent AS (
               UPDATE directory.refresh_token SET spent = true
                WHERE digest = $1 AND NOT spent AND expires_at > now()
            RETURNING family, account_id),
           made AS (
               INSERT INTO directory.refresh_token (digest, family, account_id, expires_at)
               SELECT $2, family, account_id, now() + $3 * interval '1 millisecond' FROM spent
            RETURNING account_id, family)
           SELECT account_id, family FROM made
           UNION ALL
           SELECT token.account_id, token.family FROM directory.refresh_token AS token
             JOIN directory.sign_in ON sign_in.id = token.family AND sign_in.ended_at IS NULL
            WHERE token.digest = $2",
};

pub(super) static REVOKE_REUSED: Sql = Sql {
    name: "refresh_token_revoke_reused",
    text: "WITH ended AS (
               UPDATE directory.sign_in SET ended_at = now()
                WHERE id = (SELECT family FROM directory.refresh_token WHERE digest = $1 AND spent)
                  AND ended_at IS NULL
               RETURNING id, account_id),
           noted AS (
               INSERT INTO directory.audit (id, actor, action, target)
               SELECT $3, account_id, 'sign_in.reused', 'sign_in ' || id FROM ended
                   ON CONFLICT DO NOTHING)
           INSERT INTO directory.revocation (id, user_id, login, expires_at)
           SELECT gen_random_uuid(), account_id, id, now() + $2 * interval '1 millisecond' FROM ended
           RETURNING user_id",
};

// The later a sign-in was refreshed, the later its last token expires.
pub(super) static END_OLDEST: Sql = Sql {
    name: "refresh_token_end_oldest",
    text: "WITH ended AS (
               UPDATE directory.sign_in SET ended_at = now()
                WHERE id IN (SELECT id FROM directory.sign_in WHERE account_id = $1 AND ended_at IS NULL
                              ORDER BY expires_at DESC, id OFFSET $2)
                  AND ended_at IS NULL
               RETURNING id)
           INSERT INTO directory.revocation (id, user_id, login, expires_at)
           SELECT gen_random_uuid(), $1, id, now() + $3 * interval '1 millisecond' FROM ended
           RETURNING 1",
};

pub(super) static SWEEP: Sql = Sql {
    name: "refresh_token_sweep",
    text: "DELETE FROM directory.refresh_token WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM directory.refresh_token WHERE expires_at <= now() LIMIT $1))
           RETURNING 1",
};

impl Directory {
    /// Begins a family: somebody signed in. Answers what the sign-in is called.
    pub async fn add_refresh_token(
        &self,
        digest: RefreshDigest,
        account: &UserId,
        lifetime: Duration,
    ) -> Result<Uuid, DirectoryError> {
        let (bytes, login, lifetime) = (digest.0.as_slice(), Uuid::new_v4(), millis(lifetime));
        self.query(&INSERT, &[&bytes, &login, &account.as_str(), &lifetime]).await?;
        Ok(login)
    }

    /// Keeps the `most` sign-ins of `account` that were refreshed last; 0: all. The
    /// others end, with their access tokens and sessions.
    pub async fn end_oldest_logins(&self, account: &UserId, most: u32) -> Result<(), DirectoryError> {
        if most == 0 {
            return Ok(());
        }
        let kept = millis(self.kept.of_login);
        let ended = self.query(&END_OLDEST, &[&account.as_str(), &i64::from(most), &kept]).await?;
        if !ended.is_empty() {
            tracing::info!(%account, most, "ended the oldest sign-ins of an account with too many");
        }
        Ok(())
    }

    /// Spends `old` for `new` and says whose it is, and of which sign-in. Of two at once, one wins; the
    /// other counts as reuse.
    pub async fn rotate_refresh_token(
        &self,
        old: RefreshDigest,
        new: RefreshDigest,
        lifetime: Duration,
    ) -> Result<(UserId, Uuid), DirectoryError> {
        let (old, new, lifetime) = (old.0.as_slice(), new.0.as_slice(), millis(lifetime));
        let Some(row) = self.query_opt(&ROTATE, &[&old, &new, &lifetime]).await? else {
            let revoked =
                self.query(&REVOKE_REUSED, &[&old, &millis(self.kept.of_login), &Uuid::now_v7()]).await?;
            let Some(row) = revoked.first() else { return Err(DirectoryError::RefreshTokenInvalid) };
            let account: &str = row.get(0);
            tracing::warn!(account, "a spent refresh token was shown again: its sign-in is ended");
            return Err(DirectoryError::RefreshTokenReused);
        };
        let user = UserId::new(row.get(0)).map_err(|_| DirectoryError::Corrupt { what: "an account id" })?;
        Ok((user, row.get(1)))
    }
}
