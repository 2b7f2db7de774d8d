//! Tokens that end before their time, for every node to ask for: it is told over
//! the bus to look, and looks every few seconds anyway.

use std::time::Duration;

use uuid::Uuid;

use super::{Directory, DirectoryError, millis};
use crate::clock::UnixMillis;
use crate::db::{Row, Sql};
use crate::digests::RefreshDigest;
use crate::ids::UserId;

pub(super) static SINCE: Sql = Sql {
    name: "revocations_since",
    text: "SELECT id, user_id, login, (extract(epoch FROM revoked_at) * 1000)::bigint,
                  (extract(epoch FROM expires_at) * 1000)::bigint
             FROM directory.revocation
            WHERE revoked_at > now() - $1 * interval '1 millisecond' AND expires_at > now()",
};

pub(super) static SWEEP: Sql = Sql {
    name: "revocation_sweep",
    text: "DELETE FROM directory.revocation WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM directory.revocation WHERE expires_at <= now() LIMIT $1))
           RETURNING 1",
};

pub(super) static SWEEP_SIGN_INS: Sql = Sql {
    name: "sign_in_sweep",
    text: "DELETE FROM directory.sign_in WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM directory.sign_in WHERE expires_at <= now() LIMIT $1))
           RETURNING 1",
};

// The refresh tokens of one sign-in, and its access tokens.
pub(super) static END_LOGIN: Sql = Sql {
    name: "revocation_of_login",
    text: "WITH ended AS (
               UPDATE directory.sign_in SET ended_at = now()
                WHERE id = (SELECT family FROM directory.refresh_token WHERE digest = $1) AND ended_at IS NULL
               RETURNING id, account_id),
           noted AS (
               INSERT INTO directory.audit (id, actor, action, target)
               SELECT $2::uuid, account_id, 'sign_out', 'sign_in ' || id FROM ended
                   ON CONFLICT DO NOTHING)
           INSERT INTO directory.revocation (id, user_id, login, expires_at)
           SELECT $2::uuid, account_id, id, now() + $3 * interval '1 millisecond' FROM ended
               ON CONFLICT DO NOTHING",
};

// Of every sign-in one: a token made just after it, within the same second, is
// of another and stays.
pub(super) static END_LOGINS: Sql = Sql {
    name: "revocation_of_logins",
    text: "WITH ended AS (
               UPDATE directory.sign_in SET ended_at = now()
                WHERE account_id = $1 AND ended_at IS NULL
               RETURNING id),
           noted AS (
               INSERT INTO directory.audit (id, actor, action, target)
               SELECT $3, $1, 'sign_out.all', 'user ' || $1 WHERE EXISTS (SELECT FROM ended)
                   ON CONFLICT DO NOTHING)
           INSERT INTO directory.revocation (id, user_id, login, expires_at)
           SELECT gen_random_uuid(), $1, id, now() + $2 * interval '1 millisecond' FROM ended
               ON CONFLICT DO NOTHING",
};

pub(super) static END_ALL: Sql = Sql {
    name: "revocation_of_all",
    text: "INSERT INTO directory.revocation (id, user_id, expires_at)
           VALUES ($1, $2, now() + $3 * interval '1 millisecond') ON CONFLICT DO NOTHING",
};

/// As the directory keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    pub id: Uuid,
    pub user: UserId,
    pub login: Option<Uuid>,
    pub at: UnixMillis,
    /// No token that it ends lives longer.
    pub until: UnixMillis,
}

impl Directory {
    /// Those of the last while.
    pub async fn revoked_within(&self, time: Duration) -> Result<Vec<Revoked>, DirectoryError> {
        self.query(&SINCE, &[&millis(time)]).await?.iter().map(Revoked::from_row).collect()
    }

    /// Signs out the device that holds this refresh token. Unknown ones are no
    /// error.
    pub async fn end_login(&self, digest: RefreshDigest) -> Result<(), DirectoryError> {
        self.query(&END_LOGIN, &[&digest.0.as_slice(), &Uuid::now_v7(), &millis(self.kept.of_login)])
            .await
            .map(drop)
    }

    /// Signs out every device of an account.
    pub async fn end_logins_of(&self, account: &UserId) -> Result<(), DirectoryError> {
        let note = Uuid::now_v7();
        self.query(&END_LOGINS, &[&account.as_str(), &millis(self.kept.of_login), &note]).await.map(drop)
    }

    /// Ends all tokens that `user` has, whoever made them.
    pub async fn end_tokens_of(&self, user: &UserId) -> Result<(), DirectoryError> {
        self.query(&END_ALL, &[&Uuid::now_v7(), &user.as_str(), &millis(self.kept.of_any)]).await.map(drop)
    }
}

impl Revoked {
    fn from_row(row: &Row) -> Result<Self, DirectoryError> {
        let user = UserId::new(row.get(1)).map_err(|_| DirectoryError::Corrupt { what: "a user id" })?;
        Ok(Self {
            id: row.get(0),
            user,
            login: row.get(2),
            at: UnixMillis(row.get(3)),
            until: UnixMillis(row.get(4)),
        })
    }
}
