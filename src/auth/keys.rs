//! The static key set: `kid` → one algorithm and its key.
//!
//! Two live keys make a rotation: tokens are signed with the first and all are
//! accepted. A key file is read once, at boot or at a reload.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey as EdKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use jsonwebtoken::{DecodingKey, EncodingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::seal::SealKey;
use crate::config::{self, Issuable};
use crate::log::Authority;

/// The shortest HS256 secret: as long as the digest (RFC 7518, 3.2).
const SECRET_MIN: usize = 32;

/// A secret below this repeats few characters. 32 random hexadecimal digits, of 128
/// bits, reach 100 by this measure, since some digits repeat by chance.
const SECRET_BITS: f64 = 90.0;

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
    #[error(
        "the first key, {kid}, is a public key: it can't sign tokens or seal messages in Redis. Put a private or HS256 key first in auth.keys"
    )]
    CannotSign { kid: String },
    #[error("the first key, {kid}, signs the tokens of people who sign in: add \"user\" to its may_issue")]
    MayNotIssueUser { kid: String },
    #[error("key {kid} may issue no token at all: give it a may_issue, or remove the key")]
    MayIssueNothing { kid: String },
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
    /// Of the keys with a secret, in their order; none if the first key has none.
    pub(super) sealing: Vec<SealKey>,
}

pub(super) struct Signing {
    pub kid: String,
    pub algorithm: jsonwebtoken::Algorithm,
    pub key: EncodingKey,
    pub may_issue: MayIssue,
}

pub(super) struct Verifying {
    pub algorithm: jsonwebtoken::Algorithm,
    pub key: DecodingKey,
    pub may_issue: MayIssue,
}

/// The authorities that tokens of a key may carry.
#[derive(Clone)]
pub(super) struct MayIssue(Vec<Issuable>);

impl MayIssue {
    pub fn allows(&self, authority: Authority) -> bool {
        self.0.contains(&match authority {
            Authority::Member => Issuable::User,
            Authority::Server => Issuable::Server,
        })
    }
}

impl Keys {
    /// Reads every key file. Any unusable key refuses the whole set.
    pub fn load(keys: &[config::SigningKey]) -> Result<Self, KeyError> {
        let mut made_of = Sha256::new();
        let mut set =
            Self { made_of: [0; 32], signing: None, verifying: HashMap::new(), sealing: Vec::new() };
        for (index, configured) in keys.iter().enumerate() {
            let bytes = read(&configured.file)?;
            made_of.update(Sha256::digest(configured.kid.as_bytes()));
            made_of.update([u8::from(configured.alg == config::Algorithm::EdDSA)]);
            made_of.update(Sha256::digest(&bytes));
            made_of.update(Sha256::digest(format!("{:?}", configured.may_issue)));
            let (signing, verifying) = parse(configured, &bytes)?;
            if let Some(key) = signing.as_ref().filter(|_| index == 0 || set.signing.is_some()) {
                set.sealing.push(SealKey::derive(key.as_bytes()));
            }
            if set.verifying.insert(configured.kid.clone(), verifying).is_some() {
                return Err(KeyError::DuplicateKid { kid: configured.kid.clone() });
            }
            if index == 0 {
                let kid = configured.kid.clone();
                let algorithm = algorithm(configured.alg);
                let may_issue = MayIssue(configured.may_issue.clone());
                set.signing = signing.map(|key| Signing { kid, algorithm, key, may_issue });
            }
        }
        set.made_of = made_of.finalize().into();
        if set.verifying.is_empty() { Err(KeyError::None) } else { Ok(set) }
    }
}

/// Sentences about a usable key that others may read or guess.
pub fn key_weaknesses(key: &config::SigningKey) -> Vec<String> {
    let mut found = Vec::new();
    let path = key.file.display();
    let is_open = std::fs::metadata(&key.file).is_ok_and(|file| file.permissions().mode() & 0o004 != 0);
    if is_open {
        found.push(format!("every user of this machine can read {path}: chmod o-r {path}"));
    }
    let is_secret = key.alg == config::Algorithm::HS256;
    if is_secret && read(&key.file).is_ok_and(|bytes| bits_by_frequency(&bytes) < SECRET_BITS) {
        found.push(format!("the secret in {path} is easy to guess: make one with `openssl rand -base64 48`"));
    }
    found
}

/// The entropy of the bytes by their frequencies alone.
fn bits_by_frequency(bytes: &[u8]) -> f64 {
    let mut counts = [0.0_f64; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1.0);
    let all = bytes.len() as f64;
    counts.into_iter().filter(|count| *count > 0.0).map(|count| count * (all / count).log2()).sum()
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
    if configured.may_issue.is_empty() {
        return Err(KeyError::MayIssueNothing { kid: configured.kid.clone() });
    }
    let (signing, key) = match configured.alg {
        config::Algorithm::HS256 if bytes.len() < SECRET_MIN => {
            return Err(KeyError::ShortSecret { kid: configured.kid.clone() });
        }
        config::Algorithm::HS256 => (Some(EncodingKey::from_secret(bytes)), DecodingKey::from_secret(bytes)),
        config::Algorithm::EdDSA => {
            ed25519(bytes).ok_or_else(|| KeyError::NotEd25519 { kid: configured.kid.clone() })?
        }
    };
    let may_issue = MayIssue(configured.may_issue.clone());
    Ok((signing, Verifying { algorithm: algorithm(configured.alg), key, may_issue }))
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
