//! Seals: proof that a node wrote what another node reads from Redis.
//!
//! The keys are derived from the keys of `[auth]`, which all nodes have, so nothing
//! more is configured. HKDF with a label of its own keeps a seal from being a
//! token's signature, and the reverse. The first key seals and all keys verify, as
//! for tokens, so one rotation serves both. A public key has no secret: it neither
//! seals nor verifies.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The first half of an HMAC-SHA-256: 2^128 guesses.
pub const SEAL_BYTES: usize = 16;

const SALT: &[u8] = b"roomgate";
const LABEL: &[u8] = b"roomgate redis seal v1";

/// A derived key, ready to use.
#[derive(Clone)]
pub struct SealKey(Hmac<Sha256>);

impl SealKey {
    /// HKDF-SHA-256 (RFC 5869) with one block of output.
    pub fn derive(secret: &[u8]) -> Self {
        let extracted = keyed(SALT).chain_update(secret).finalize().into_bytes();
        let expanded = keyed(&extracted).chain_update(LABEL).chain_update([1]).finalize().into_bytes();
        Self(keyed(&expanded))
    }

    /// Each part goes in after its length: no two lists of parts have one text.
    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        parts.iter().fold(self.0.clone(), |mac, part| {
            mac.chain_update((part.len() as u64).to_be_bytes()).chain_update(part)
        })
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

/// Makes and checks seals. Cheap to clone; sees a reloaded key set at once.
#[derive(Clone)]
pub struct Sealer {
    /// Never empty: the first one seals.
    keys: Arc<ArcSwap<Vec<SealKey>>>,
}

impl Sealer {
    /// `None` without a key: the first configured key is a public one.
    pub(super) fn new(keys: Vec<SealKey>) -> Option<Self> {
        (!keys.is_empty()).then(|| Self { keys: Arc::new(ArcSwap::from_pointee(keys)) })
    }

    /// For tools and tests that have a secret and no configuration.
    pub fn of_secret(secret: &[u8]) -> Self {
        Self { keys: Arc::new(ArcSwap::from_pointee(vec![SealKey::derive(secret)])) }
    }

    /// From now on these keys. An empty list changes nothing.
    pub(super) fn replace(&self, keys: Vec<SealKey>) {
        if !keys.is_empty() {
            self.keys.store(Arc::new(keys));
        }
    }

    pub fn seal(&self, parts: &[&[u8]]) -> [u8; SEAL_BYTES] {
        seal_by(&self.keys.load()[0], parts)
    }

    /// The seal of each key, that of [`Sealer::seal`] first: to look up a stored one.
    pub fn seals(&self, parts: &[&[u8]]) -> Vec<[u8; SEAL_BYTES]> {
        self.keys.load().iter().map(|key| seal_by(key, parts)).collect()
    }

    /// In constant time for each key.
    pub fn is_seal(&self, parts: &[&[u8]], seal: &[u8]) -> bool {
        seal.len() == SEAL_BYTES
            && self.keys.load().iter().any(|key| key.over(parts).verify_truncated_left(seal).is_ok())
    }
}

fn seal_by(key: &SealKey, parts: &[&[u8]]) -> [u8; SEAL_BYTES] {
    let mut seal = [0; SEAL_BYTES];
    seal.copy_from_slice(&key.over(parts).finalize().into_bytes()[..SEAL_BYTES]);
    seal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_its_parts_and_its_key_alone() {
        let sealer = Sealer::of_secret(b"one");
        let seal = sealer.seal(&[b"ab", b"c"]);
        assert!(sealer.is_seal(&[b"ab", b"c"], &seal));
        let others: [&[&[u8]]; 4] = [&[b"a", b"bc"], &[b"abc"], &[b"ab", b"c", b""], &[b"c", b"ab"]];
        for parts in others {
            assert!(!sealer.is_seal(parts, &seal), "{parts:?}");
        }
        assert!(!Sealer::of_secret(b"two").is_seal(&[b"ab", b"c"], &seal));
        for length in 0..SEAL_BYTES {
            assert!(!sealer.is_seal(&[b"ab", b"c"], &seal[..length]), "{length} bytes");
        }
    }

    #[test]
    fn old_keys_verify_and_the_first_key_seals() {
        let (old, new) = (SealKey::derive(b"old"), SealKey::derive(b"new"));
        let rotating = Sealer::new(vec![new.clone(), old.clone()]).unwrap();
        let [of_old, of_new] = [old, new].map(|key| Sealer::new(vec![key]).unwrap());
        assert!(rotating.is_seal(&[b"x"], &of_old.seal(&[b"x"])));
        assert!(of_new.is_seal(&[b"x"], &rotating.seal(&[b"x"])));
        assert!(!of_old.is_seal(&[b"x"], &rotating.seal(&[b"x"])));
        assert_eq!(rotating.seals(&[b"x"]), [of_new.seal(&[b"x"]), of_old.seal(&[b"x"])]);
        rotating.replace(Vec::new());
        assert!(of_new.is_seal(&[b"x"], &rotating.seal(&[b"x"])), "an empty key set changes nothing");
    }
}
