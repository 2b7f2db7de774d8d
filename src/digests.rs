//! What is stored in place of a secret. Made and checked in `auth`, kept in
//! `store` and `directory`; imports nothing of ours.

use std::fmt;

/// A PHC string, `$argon2id$…`, or an imported `$2b$…`. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// From a column that was written from [`PasswordHash::as_str`], or fresh
    /// from the hasher.
    pub fn new(phc: String) -> Self {
        Self(phc)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// SHA-256 of a refresh token: enough for a random 256-bit input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RefreshDigest(pub [u8; 32]);

/// SHA-256 of a token that resets a password, which has 256 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResetDigest(pub [u8; 32]);

/// A keyed digest of an account and a client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressDigest(pub [u8; 16]);

/// SHA-256 of an invite's code, which is a random-looking 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InviteDigest(pub [u8; 32]);

/// SHA-256 of a user, a sign-in and a room: one reader of that room's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReaderDigest(pub [u8; 32]);
