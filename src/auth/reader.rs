//! The digest that links a history read over HTTP to the join that follows it.

use sha2::{Digest, Sha256};

use super::Claims;
use crate::digests::ReaderDigest;
use crate::ids::RoomId;

impl Claims {
    /// The same for every token of one sign-in. Tokens of other issuers name no
    /// sign-in, so all of such a user's tokens give one digest.
    pub fn reader_of(&self, room: RoomId) -> ReaderDigest {
        let login = self.login.map(|login| login.into_bytes());
        let mut digest = Sha256::new();
        digest.update(room.get().to_be_bytes());
        digest.update(login.as_ref().map_or(&[][..], |login| &login[..]));
        digest.update(self.user.as_str().as_bytes());
        ReaderDigest(digest.finalize().into())
    }
}
