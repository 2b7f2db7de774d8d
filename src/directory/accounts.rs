//! Accounts: who may sign in.

use super::{Directory, DirectoryError};
use crate::clock::UnixMillis;
use crate::db::{Row, Sql, ToSql};
use crate::digests::PasswordHash;
use crate::ids::UserId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: UserId,
    pub email: String,
    pub name: String,
    pub photo: Option<String>,
    pub created_at: UnixMillis,
}

#[derive(Debug, Clone)]
pub struct NewAccount {
    /// Made by the caller, so that a repeated insert is recognised.
    pub id: UserId,
    /// In its one form.
    pub email: String,
    /// The forms in which older accounts may have it, in lower case.
    pub email_forms: Vec<String>,
    pub name: String,
    pub password: PasswordHash,
}

/// An account with what its password is checked against.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub account: Account,
    pub password: PasswordHash,
}

pub(super) static INSERT: Sql = Sql {
    name: "account_insert",
    text: "INSERT INTO directory.account (id, email, name, password_hash)
           SELECT $1, $2, $3, $4
            WHERE NOT EXISTS (SELECT FROM directory.account WHERE lower(email) = ANY($5::text[]))
           ON CONFLICT DO NOTHING",
};

pub(super) static BY_ID: Sql = Sql {
    name: "account_by_id",
    text: "SELECT id, email, name, photo, (extract(epoch FROM created_at) * 1000)::bigint, password_hash
             FROM directory.account WHERE id = $1",
};

// Older accounts may have one address in several forms: the typed form comes first,
// so that each of them is found by its own.
pub(super) static BY_EMAIL: Sql = Sql {
    name: "account_by_email",
    text: "SELECT id, email, name, photo, (extract(epoch FROM created_at) * 1000)::bigint, password_hash
             FROM directory.account WHERE lower(email) = ANY($2::text[]) OR lower(email) = lower($1)
            ORDER BY lower(email) = lower($1) DESC, array_position($2::text[], lower(email)) LIMIT 1",
};

pub(super) static CHANGE: Sql = Sql {
    name: "account_change",
    text: "UPDATE directory.account
              SET name = coalesce($2, name), photo = CASE WHEN $3 THEN $4 ELSE photo END
            WHERE id = $1
        RETURNING id, email, name, photo, (extract(epoch FROM created_at) * 1000)::bigint, password_hash",
};

// Not if the password was changed meanwhile.
pub(super) static REHASH: Sql = Sql {
    name: "account_rehash",
    text: "UPDATE directory.account SET password_hash = $3
            WHERE id = $1 AND password_hash = ANY (ARRAY[$2, $3])
           RETURNING 1",
};

/// What a person changes of themselves.
#[derive(Debug, Clone, Default)]
pub struct AccountChange {
    pub name: Option<String>,
    /// `Some(None)` takes the photo away.
    pub photo: Option<Option<String>>,
}

impl Directory {
    /// `EmailTaken` if another account has the email in any form.
    pub async fn create_account(&self, new: &NewAccount) -> Result<Account, DirectoryError> {
        let (id, email, name) = (new.id.as_str(), &new.email, &new.name);
        let params: [&(dyn ToSql + Sync); 5] = [&id, email, name, &new.password.as_str(), &new.email_forms];
        self.query(&INSERT, &params).await?;
        self.account(&new.id).await?.ok_or(DirectoryError::EmailTaken)
    }

    /// `None` if there is no such account.
    pub async fn change_account(
        &self,
        id: &UserId,
        change: &AccountChange,
    ) -> Result<Option<Account>, DirectoryError> {
        let (changes_photo, photo) = (change.photo.is_some(), change.photo.clone().flatten());
        let params: [&(dyn ToSql + Sync); 4] = [&id.as_str(), &change.name, &changes_photo, &photo];
        let row = self.query_opt(&CHANGE, &params).await?;
        row.map(|row| credentials(&row).map(|found| found.account)).transpose()
    }

    /// Another hash of the same password. False if `old` is not the account's any more.
    pub async fn replace_hash(
        &self,
        id: &UserId,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<bool, DirectoryError> {
        let replaced = self.query(&REHASH, &[&id.as_str(), &old.as_str(), &new.as_str()]).await?;
        Ok(!replaced.is_empty())
    }

    pub async fn account(&self, id: &UserId) -> Result<Option<Account>, DirectoryError> {
        let row = self.query_opt(&BY_ID, &[&id.as_str()]).await?;
        row.map(|row| credentials(&row).map(|found| found.account)).transpose()
    }

    /// `forms`: of the email, in lower case, best first.
    pub async fn credentials(
        &self,
        email: &str,
        forms: &[String],
    ) -> Result<Option<Credentials>, DirectoryError> {
        let row = self.query_opt(&BY_EMAIL, &[&email, &forms]).await?;
        row.map(|row| credentials(&row)).transpose()
    }
}

pub(super) fn credentials(row: &Row) -> Result<Credentials, DirectoryError> {
    let id = UserId::new(row.get(0)).map_err(|_| DirectoryError::Corrupt { what: "an account id" })?;
    let account = Account {
        id,
        email: row.get(1),
        name: row.get(2),
        photo: row.get(3),
        created_at: UnixMillis(row.get(4)),
    };
    Ok(Credentials { account, password: PasswordHash::new(row.get(5)) })
}
