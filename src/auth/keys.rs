//! The static key set: `kid` → one algorithm and its key.
//!
//! Two live keys make a rotation: tokens are signed with the first and all are
//! accepted. A key file is read once, at boot or at a reload.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey as EdKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use jsonwebtoken::{DecodingKey, EncodingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::config;

/// The shortest HS256 secret: as long as the digest (RFC 7518, 3.2).
const SECRET_MIN: usize = 32;

/// A key set that can't be used. Never carries key material.
#[derive(Debug, Error)]
pub enum KeyError {
    #[error("can't read the key file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("key {kid}: an HS256 secret needs at least {SECRET_MIN} bytes")]
    ShortSecret { kid: String },
    #[error("key {kid}: the file is no Ed25519 key in PEM (PKCS#8 private, or public)")]
    NotEd25519 { kid: String },
    #[error("two keys are called {kid}")]
    DuplicateKid { kid: String },
    #[error("the first key, {kid}, is a public key: it can't sign")]
    CannotSign { kid: String },
    #[error("no keys are configured")]
    None,
}

/// All keys, ready for use.
pub struct Keys {
    /// Of all that they were made of, to see whether they are others. Never told.
    pub(super) made_of: [u8; 32],
    /// Signs new tokens; none where the first key can only verify.
    pub(super) signing: Option<Signing>,
    pub(super) verifying: HashMap<String, Verifying>,
}

pub(super) struct Signing {
    pub kid: String,
    pub algorithm: jsonwebtoken::Algorithm,
    pub key: EncodingKey,
}

pub(super) struct Verifying {
    pub algorithm: jsonwebtoken::Algorithm,
    pub key: DecodingKey,
}

impl Keys {
    /// Reads every key file. Any unusable key refuses the whole set.
    pub fn load(keys: &[config::SigningKey]) -> Result<Self, KeyError> {
        let mut made_of = Sha256::new();
        let mut set = Self { made_of: [0; 32], signing: None, verifying: HashMap::new() };
        for (index, configured) in keys.iter().enumerate() {
            let bytes = read(&configured.file)?;
            made_of.update(Sha256::digest(configured.kid.as_bytes()));
            made_of.update([u8::from(configured.alg == config::Algorithm::EdDSA)]);
            made_of.update(Sha256::digest(&bytes));
            let (signing, verifying) = parse(configured, &bytes)?;
            if set.verifying.insert(configured.kid.clone(), verifying).is_some() {
                return Err(KeyError::DuplicateKid { kid: configured.kid.clone() });
            }
            if index == 0 {
                let kid = configured.kid.clone();
                let algorithm = algorithm(configured.alg);
                set.signing = signing.map(|key| Signing { kid, algorithm, key });
            }
        }
        set.made_of = made_of.finalize().into();
        if set.verifying.is_empty() { Err(KeyError::None) } else { Ok(set) }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KeyError> {
    std::fs::read(path).map_err(|source| KeyError::Unreadable { path: path.to_owned(), source })
}

fn algorithm(alg: config::Algorithm) -> jsonwebtoken::Algorithm {
    match alg {
        config::Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
        config::Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
    }
}

fn parse(
    configured: &config::SigningKey,
    bytes: &[u8],
) -> Result<(Option<EncodingKey>, Verifying), KeyError> {
    let (signing, key) = match configured.alg {
        config::Algorithm::HS256 if bytes.len() < SECRET_MIN => {
            return Err(KeyError::ShortSecret { kid: configured.kid.clone() });
        }
        config::Algorithm::HS256 => (Some(EncodingKey::from_secret(bytes)), DecodingKey::from_secret(bytes)),
        config::Algorithm::EdDSA => {
            ed25519(bytes).ok_or_else(|| KeyError::NotEd25519 { kid: configured.kid.clone() })?
        }
    };
    Ok((signing, Verifying { algorithm: algorithm(configured.alg), key }))
}

/// A private key gives its public half too, so one file serves both ends.
fn ed25519(pem: &[u8]) -> Option<(Option<EncodingKey>, DecodingKey)> {
    let Ok(signing) = EncodingKey::from_ed_pem(pem) else {
        return Some((None, DecodingKey::from_ed_pem(pem).ok()?));
    };
    let private = EdKey::from_pkcs8_der(signing.as_bytes()).ok()?;
    let public = DecodingKey::from_ed_der(private.verifying_key().as_bytes());
    Some((Some(signing), public))
}
