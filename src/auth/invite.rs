//! Invite codes: what an invited person shows at a room's door. Only their digest
//! is stored.
//!
//! A code is made from the invite's id with the key that signs tokens, so that it
//! can be told again to whoever repeats the request that made the invite, and
//! nothing has to keep it. A code that is out there works on when the key is
//! replaced; it just can't be told again.

use std::fmt;

use sha2::{Digest, Sha256};

use super::token::Signer;
use crate::digests::InviteDigest;
use crate::ids::{InviteId, RoomId};
use crate::protocol::{Code, Refusal};

const CODE_BYTES: usize = 16;

/// 128 bits in hex. Shown to whoever makes the invite, never stored or printed.
pub struct InviteCode(String);

impl InviteCode {
    /// Any text: most are no code, and nobody is told which.
    pub fn shown(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn digest(&self) -> InviteDigest {
        InviteDigest(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Signer {
    /// The same every time, for as long as the key is.
    pub fn invite_code(&self, room: RoomId, invite: InviteId) -> Result<InviteCode, Refusal> {
        let rules = self.rules.load();
        let signing = rules.signing()?;
        // No JWT looks like this, so neither is taken for the other.
        let text = format!("roomgate invite\nroom {room}\ninvite {invite}");
        let signed = jsonwebtoken::crypto::sign(text.as_bytes(), &signing.key, signing.algorithm);
        let signature = signed.map_err(|error| {
            tracing::error!(%error, "making an invite's code failed");
            Refusal::new(Code::Internal, "the invite could not be made")
        })?;
        let bits = Sha256::digest(signature.as_bytes());
        Ok(InviteCode(bits[..CODE_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}
