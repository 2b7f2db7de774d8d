//! New passwords of accounts. A change ends the other sign-ins, the tokens of resets
//! and all known addresses in one transaction.
//!
//! The functions lock the account's row first, and [`super::refresh_tokens`] begins a
//! sign-in under a lock of it. So a sign-in by the old password either ends, or never
//! begins.

use std::time::Duration;

use uuid::Uuid;

use super::{Account, Credentials, Directory, DirectoryError, millis};
use crate::db::Sql;
use crate::digests::{PasswordHash, ResetDigest};
use crate::ids::UserId;

pub(super) static SET: Sql = Sql {
    name: "password_set",
    text: "SELECT directory.set_password($1, $2, $3, $4, $5 * interval '1 millisecond', $6, 'password.changed')",
};

pub(super) static BEGIN_RESET: Sql = Sql {
    name: "password_reset_begin",
    text: "INSERT INTO directory.password_reset (digest, account_id, expires_at)
           SELECT $1, id, now() + $3 * interval '1 millisecond' FROM directory.account WHERE id = $2
               ON CONFLICT DO NOTHING",
};

pub(super) static RESET_OF: Sql = Sql {
    name: "password_reset_of",
    text: "SELECT account_id FROM directory.password_reset
            WHERE digest = $1 AND NOT is_spent AND expires_at > now()",
};

pub(super) static FINISH_RESET: Sql = Sql {
    name: "password_reset_finish",
    text: "SELECT directory.reset_password($1, $2, $3 * interval '1 millisecond', $4)",
};

pub(super) static SWEEP: Sql = Sql {
    name: "password_reset_sweep",
    text: "DELETE FROM directory.password_reset WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM directory.password_reset WHERE expires_at <= now() LIMIT $1))
           RETURNING 1",
};

/// A new password of a signed-in user.
#[derive(Debug)]
pub struct PasswordChange<'a> {
    pub account: &'a UserId,
    pub old: &'a PasswordHash,
    pub new: &'a PasswordHash,
    /// The sign-in that goes on.
    pub kept: Option<Uuid>,
}

impl Directory {
    pub async fn credentials_of(&self, account: &UserId) -> Result<Option<Credentials>, DirectoryError> {
        let row = self.query_opt(&super::accounts::BY_ID, &[&account.as_str()]).await?;
        row.map(|row| super::accounts::credentials(&row)).transpose()
    }

    /// False if the old hash is not the account's any more.
    pub async fn change_password(&self, change: &PasswordChange<'_>) -> Result<bool, DirectoryError> {
        let PasswordChange { account, old, new, kept } = change;
        let (account, old, new) = (account.as_str(), Some(old.as_str()), new.as_str());
        let (until, note) = (millis(self.kept.of_login), Uuid::now_v7());
        let row = self.query_opt(&SET, &[&account, &old, &new, kept, &until, &note]).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Stores a token that may set the account's password once.
    pub async fn begin_reset(
        &self,
        account: &UserId,
        token: ResetDigest,
        lifetime: Duration,
    ) -> Result<(), DirectoryError> {
        let token = token.0.as_slice();
        self.query(&BEGIN_RESET, &[&token, &account.as_str(), &millis(lifetime)]).await.map(drop)
    }

    /// The account of a token that is valid, not spent.
    pub async fn reset_of(&self, token: ResetDigest) -> Result<Option<Account>, DirectoryError> {
        let Some(row) = self.query_opt(&RESET_OF, &[&token.0.as_slice()]).await? else { return Ok(None) };
        let id = UserId::new(row.get(0)).map_err(|_| DirectoryError::Corrupt { what: "an account id" })?;
        self.account(&id).await
    }

    /// Spends a token. False if another request spent it, or it expired.
    pub async fn finish_reset(&self, token: ResetDigest, new: &PasswordHash) -> Result<bool, DirectoryError> {
        let (token, until) = (token.0.as_slice(), millis(self.kept.of_login));
        let row = self.query_opt(&FINISH_RESET, &[&token, &new.as_str(), &until, &Uuid::now_v7()]).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Deletes some tokens that have expired. Returns how many.
    pub(super) async fn sweep_resets(&self, most: i64) -> Result<usize, DirectoryError> {
        Ok(self.query(&SWEEP, &[&most]).await?.len())
    }
}
