//! Addresses from which accounts have signed in, as keyed digests.

use std::time::Duration;

use uuid::Uuid;

use super::{Directory, DirectoryError, millis};
use crate::db::{Sql, ToSql};
use crate::digests::{AddressDigest, PasswordHash, RefreshDigest};
use crate::ids::UserId;

/// After so long without a sign-in an address is unknown again.
const KNOWN_FOR: Duration = Duration::from_secs(180 * 24 * 3600);
/// Addresses of one account, the most recent ones.
const MOST: i64 = 32;

// A refresh token proves that its client signed in before, also once it is spent.
pub(super) static LOOK: Sql = Sql {
    name: "known_address_look",
    text: "SELECT EXISTS (SELECT FROM directory.known_address
                           WHERE account_id = $1 AND digest = ANY($2)
                             AND seen_at > now() - $4 * interval '1 millisecond'),
                  (SELECT family FROM directory.refresh_token WHERE digest = $3 AND account_id = $1)",
};

pub(super) static NOTE: Sql = Sql {
    name: "known_address_note",
    text: "WITH owner AS (SELECT id FROM directory.account WHERE id = $1 AND password_hash = $4),
           older AS (
               DELETE FROM directory.known_address
                WHERE account_id = $1 AND digest <> $2
                  AND digest IN (SELECT digest FROM directory.known_address WHERE account_id = $1
                                  ORDER BY seen_at DESC OFFSET $3)),
           described AS (
               UPDATE directory.sign_in SET agent = $6 FROM owner WHERE sign_in.id = $5),
           noted AS (
               INSERT INTO directory.audit (id, actor, action, target)
               SELECT $7, id, 'sign_in', 'sign_in ' || $5::uuid FROM owner WHERE $5 IS NOT NULL
                   ON CONFLICT DO NOTHING)
           INSERT INTO directory.known_address (account_id, digest) SELECT id, $2 FROM owner
               ON CONFLICT (account_id, digest) DO UPDATE SET seen_at = now()
           RETURNING 1",
};

pub(super) static SWEEP: Sql = Sql {
    name: "known_address_sweep",
    text: "DELETE FROM directory.known_address WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM directory.known_address
                WHERE seen_at <= now() - $2 * interval '1 millisecond' LIMIT $1))
           RETURNING 1",
};

/// Proofs that a client signed in before, known before its password is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Acquaintance {
    /// The account has signed in from the address before.
    pub is_known_address: bool,
    /// A sign-in of the account: the client has its refresh token.
    pub device: Option<Uuid>,
}

/// A client that has just shown the password of an account.
#[derive(Debug)]
pub struct Seen<'a> {
    pub account: &'a UserId,
    pub password: &'a PasswordHash,
    pub address: AddressDigest,
    /// The sign-in that it began, if it began one.
    pub login: Option<Uuid>,
    /// Its own description.
    pub agent: Option<&'a str>,
}

impl Directory {
    /// `address`: its digests by all keys. Without an account the same work is done.
    pub async fn acquaintance(
        &self,
        account: Option<&UserId>,
        address: &[AddressDigest],
        token: Option<RefreshDigest>,
    ) -> Result<Acquaintance, DirectoryError> {
        let account = account.map_or("", UserId::as_str);
        let digests: Vec<&[u8]> = address.iter().map(|digest| digest.0.as_slice()).collect();
        let token = token.as_ref().map(|digest| digest.0.as_slice());
        let row = self.query_opt(&LOOK, &[&account, &digests, &token, &millis(KNOWN_FOR)]).await?;
        let found = |row: crate::db::Row| Acquaintance { is_known_address: row.get(0), device: row.get(1) };
        Ok(row.map(found).unwrap_or_default())
    }

    /// False, and nothing is noted, if the password is not the account's any more.
    pub async fn note_seen(&self, seen: &Seen<'_>) -> Result<bool, DirectoryError> {
        let Seen { account, password, address, login, agent } = seen;
        let (account, password, address) = (account.as_str(), password.as_str(), address.0.as_slice());
        let params: [&(dyn ToSql + Sync); 7] =
            [&account, &address, &(MOST - 1), &password, login, agent, &Uuid::now_v7()];
        Ok(!self.query(&NOTE, &params).await?.is_empty())
    }

    /// Deletes some that are unknown again. Returns how many.
    pub(super) async fn sweep_known_addresses(&self, most: i64) -> Result<usize, DirectoryError> {
        Ok(self.query(&SWEEP, &[&most, &millis(KNOWN_FOR)]).await?.len())
    }
}
