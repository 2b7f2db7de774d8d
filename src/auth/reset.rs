//! Reset tokens: opaque random strings that set a new password once. Only their digest
//! is stored.

use super::RefreshToken;
use crate::digests::ResetDigest;

/// 256 random bits in hex. Sent to its account's mailbox, never stored or printed.
#[derive(Debug)]
pub struct ResetToken(RefreshToken);

impl ResetToken {
    pub fn random() -> Self {
        Self(RefreshToken::random())
    }

    /// `None` for a text that no node issued.
    pub fn parse(text: &str) -> Option<Self> {
        RefreshToken::parse(text).map(Self)
    }

    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    pub fn digest(&self) -> ResetDigest {
        ResetDigest(self.0.digest().0)
    }
}
