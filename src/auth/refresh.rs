//! Refresh tokens: opaque random strings. Only their digest is ever stored, so
//! a stolen database opens no account.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::digests::RefreshDigest;

const HEX_CHARS: usize = 64;

/// 256 random bits in hex. Shown to its owner once, never stored or printed.
pub struct RefreshToken(String);

impl RefreshToken {
    pub fn random() -> Self {
        use fmt::Write;
        let bits: [u8; HEX_CHARS / 2] = rand::random();
        let mut text = String::with_capacity(HEX_CHARS);
        for byte in bits {
            write!(text, "{byte:02x}").expect("writing to a String can't fail");
        }
        Self(text)
    }

    /// `None` for what we never issued.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == HEX_CHARS && text.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn digest(&self) -> RefreshDigest {
        RefreshDigest(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_form_and_two_never_match() {
        let token = RefreshToken::random();
        let again = RefreshToken::parse(token.reveal()).expect("our own form");
        assert_eq!(token.digest(), again.digest());
        assert_ne!(token.digest(), RefreshToken::random().digest());
        assert_eq!(format!("{token:?}"), "***");
    }

    #[test]
    fn foreign_texts_are_no_tokens() {
        for text in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65)] {
            assert!(RefreshToken::parse(text).is_none(), "{text}");
        }
    }
}
