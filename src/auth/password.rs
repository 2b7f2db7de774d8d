//! Passwords: argon2id on a bounded pool, so that a flood of sign-ins costs a
//! known number of threads and 19 MiB each, and sockets don't notice.
//!
//! A check against an unknown account or an account without a password does
//! the same work as a real one, so time tells nothing.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordVerifier, Version};
use tokio::sync::Semaphore;

use super::canonical::{canonical_password, decomposed};
use crate::config::Secret;
use crate::digests::PasswordHash;
use crate::protocol::{Code, Refusal};

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

const MIN_CHARS: usize = 8;
const MAX_CHARS: usize = 128;

/// Callers that may wait for a thread, for each thread; more are `overloaded`.
const WAITING_PER_THREAD: usize = 64;

/// How long one of them waits at most.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Of new passwords: 8 to 128 characters in their one form, for accounts and rooms
/// alike.
pub fn check_password_rules(password: &Secret) -> Result<(), Refusal> {
    let Some(canonical) = canonical_password(password.reveal()) else {
        return Err(Refusal::new(Code::BadMessage, "a password has no control characters"));
    };
    if (MIN_CHARS..=MAX_CHARS).contains(&canonical.chars().count()) {
        Ok(())
    } else {
        Err(Refusal::new(Code::BadMessage, "a password has 8 to 128 characters"))
    }
}

/// Whether a shown password is worth a look. Imported passwords may be shorter than
/// new ones, and a typed text may be longer than its one form.
pub fn may_be_password(password: &Secret) -> bool {
    let canonical = canonical_password(password.reveal()).map_or(usize::MAX, |text| text.chars().count());
    password.reveal().chars().count().min(canonical) <= MAX_CHARS
}

/// The result of comparing a shown password with a stored hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    Wrong,
    Right,
    /// Right, and the hash should be replaced by [`Passwords::hash`]: it was imported,
    /// or is of another form of the password.
    Outdated,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    shared: Arc<Shared>,
}

struct Shared {
    threads: Semaphore,
    /// Running and waiting together.
    admitted: Semaphore,
    /// Stands in for the hash of whoever doesn't exist.
    dummy: PasswordHash,
}

impl Passwords {
    /// At most `threads` hashes are computed at a time.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let shared = Shared {
            threads: Semaphore::new(threads),
            admitted: Semaphore::new(threads * (1 + WAITING_PER_THREAD)),
            dummy: hash(b"nobody's password"),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Of its one form, if it has one. The rules are the caller's to check.
    pub async fn hash(&self, password: Secret) -> Result<PasswordHash, Refusal> {
        self.run(move || {
            let typed = password.reveal();
            hash(canonical_password(typed).as_deref().unwrap_or(typed).as_bytes())
        })
        .await
    }

    /// `None` takes as long as a wrong password and is as wrong.
    ///
    /// An imported hash takes its own time, so until its owner signs in (and it
    /// is replaced, see [`Match::Outdated`]) it can be told that there is one.
    pub async fn verify(&self, password: Secret, stored: Option<PasswordHash>) -> Result<Match, Refusal> {
        let exists = stored.is_some();
        let against = stored.unwrap_or_else(|| self.shared.dummy.clone());
        let found = self.run(move || compare(password.reveal(), &against)).await?;
        Ok(if exists { found } else { Match::Wrong })
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let _admitted = self.shared.admitted.try_acquire().map_err(|_| busy())?;
        let permit = tokio::time::timeout(WAIT_MAX, self.shared.threads.acquire())
            .await
            .map_err(|_| busy())?
            .map_err(|_| busy())?;
        // The thread can't be stopped: if the caller goes away, the permit must
        // still be held until the work is done, so it moves into the closure.
        permit.forget();
        let shared = self.shared.clone();
        let job = tokio::task::spawn_blocking(move || {
            let _returned = Returned(shared);
            work()
        });
        job.await.map_err(|error| {
            tracing::error!(%error, "password work failed");
            Refusal::new(Code::Internal, "the password could not be checked")
        })
    }
}

/// Gives the thread's permit back when the work ends, panic or not.
struct Returned(Arc<Shared>);

impl Drop for Returned {
    fn drop(&mut self) {
        self.0.threads.add_permits(1);
    }
}

fn busy() -> Refusal {
    Refusal::new(Code::Overloaded, "too many sign-ins at once; try again").retry_after_ms(2_000)
}

fn argon2id() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("constants within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &[u8]) -> PasswordHash {
    let salt: [u8; 16] = rand::random();
    let phc: phc::PasswordHash =
        argon2id().hash_password_with_salt(password, &salt).expect("any bounded password can be hashed");
    PasswordHash::new(phc.to_string())
}

/// Older hashes are of the bytes as they were typed.
fn compare(typed: &str, stored: &PasswordHash) -> Match {
    let canonical = canonical_password(typed);
    let first = canonical.as_deref().unwrap_or(typed);
    if verify(first.as_bytes(), stored) {
        return if is_imported(stored) { Match::Outdated } else { Match::Right };
    }
    // Some keyboards write letters apart from their accents.
    let mut older = vec![typed.to_owned(), decomposed(first)];
    older.dedup();
    older.retain(|form| form != first);
    match older.iter().any(|form| verify(form.as_bytes(), stored)) {
        true => Match::Outdated,
        false => Match::Wrong,
    }
}

/// Whether a hash was brought from elsewhere, as bcrypt, and is to be replaced
/// when its password is known.
fn is_imported(stored: &PasswordHash) -> bool {
    ["$2a$", "$2b$", "$2y$"].iter().any(|kind| stored.as_str().starts_with(kind))
}

/// Its time doubles with each; beyond this an import is a mistake or an attack.
const BCRYPT_COST_MAX: u32 = 14;

fn verify_imported(password: &[u8], stored: &PasswordHash) -> bool {
    let cost = stored.as_str().get(4..6).and_then(|cost| cost.parse::<u32>().ok());
    if cost.is_none_or(|cost| cost > BCRYPT_COST_MAX) {
        tracing::error!("an imported password hash is too costly or unreadable");
        return false;
    }
    bcrypt::verify(password, stored.as_str()).unwrap_or_else(|error| {
        tracing::error!(%error, "an imported password hash is unreadable");
        false
    })
}

/// With the parameters that the stored hash names, so that old ones stay valid.
fn verify(password: &[u8], stored: &PasswordHash) -> bool {
    if is_imported(stored) {
        return verify_imported(password, stored);
    }
    match phc::PasswordHash::new(stored.as_str()) {
        Ok(parsed) => argon2id().verify_password(password, &parsed).is_ok(),
        Err(error) => {
            tracing::error!(%error, "a stored password hash is unreadable");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[tokio::test]
    async fn only_the_right_password_opens() {
        let passwords = Passwords::new(2);
        let stored = passwords.hash(secret("correct horse")).await.unwrap();
        assert!(stored.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let shown = async |text, stored| passwords.verify(secret(text), stored).await.unwrap();
        assert_eq!(shown("correct horse", Some(stored.clone())).await, Match::Right);
        assert_eq!(shown("correct horsf", Some(stored)).await, Match::Wrong);
        assert_eq!(shown("nobody's password", None).await, Match::Wrong);
    }

    #[tokio::test]
    async fn a_password_opens_in_every_form_and_old_hashes_do() {
        let passwords = Passwords::new(1);
        let shown = async |text, stored: &PasswordHash| {
            passwords.verify(secret(text), Some(stored.clone())).await.unwrap()
        };
        let (composed, decomposed) = ("pr\u{e9}sident\u{a0}2", "pre\u{301}sident 2");
        for (typed, other) in [(composed, decomposed), (decomposed, composed)] {
            let stored = passwords.hash(secret(typed)).await.unwrap();
            assert_eq!([shown(typed, &stored).await, shown(other, &stored).await], [Match::Right; 2]);
            assert_eq!(shown("president 2", &stored).await, Match::Wrong);
        }
        // Older hashes are of the bytes as they were typed.
        for typed in [composed, decomposed, "tab\tulator", "short"] {
            let stored = hash(typed.as_bytes());
            let is_canonical = canonical_password(typed).is_none_or(|canonical| canonical == typed);
            let expected = if is_canonical { Match::Right } else { Match::Outdated };
            assert_eq!(shown(typed, &stored).await, expected, "{typed:?}");
        }
    }

    #[tokio::test]
    async fn an_unknown_user_takes_as_long_as_a_wrong_password() {
        let passwords = Passwords::new(1);
        let stored = passwords.hash(secret("correct horse")).await.unwrap();
        let mut known = Duration::MAX;
        let mut unknown = Duration::MAX;
        let is_alike = |known: Duration, unknown: Duration| {
            (0.5..2.0).contains(&(known.as_secs_f64() / unknown.as_secs_f64()))
        };
        // The least of many: what else the machine does only adds to it.
        for round in 0..40 {
            if round >= 5 && is_alike(known, unknown) {
                break;
            }
            let start = Instant::now();
            passwords.verify(secret("wrong horse"), Some(stored.clone())).await.unwrap();
            known = known.min(start.elapsed());
            let start = Instant::now();
            passwords.verify(secret("wrong horse"), None).await.unwrap();
            unknown = unknown.min(start.elapsed());
        }
        assert!(is_alike(known, unknown), "known {known:?}, unknown {unknown:?}");
    }

    #[tokio::test]
    async fn a_flood_is_shed_instead_of_queued_without_end() {
        let passwords = Passwords::new(1);
        let calls = (0..WAITING_PER_THREAD + 20).map(|_| passwords.verify(secret("wrong horse"), None));
        let answers = futures_util::future::join_all(calls).await;
        let shed =
            answers.iter().filter(|answer| matches!(answer, Err(r) if r.code == Code::Overloaded)).count();
        assert!(shed >= 19, "{shed} of {} were shed", answers.len());
        assert!(answers.iter().any(Result::is_ok));
        assert!(passwords.verify(secret("wrong horse"), None).await.is_ok(), "it works again afterwards");
    }

    #[tokio::test]
    async fn imported_hashes_open_to_their_password_and_mistakes_to_none() {
        let passwords = Passwords::new(1);
        // PHP's, Python's and this crate's: "correct horse", cost 4.
        let made = bcrypt::hash("correct horse", 4).unwrap();
        for kind in ["$2a$", "$2b$", "$2y$"] {
            let stored = PasswordHash::new(made.replacen("$2b$", kind, 1));
            assert!(is_imported(&stored));
            let right = passwords.verify(secret("correct horse"), Some(stored.clone())).await.unwrap();
            let wrong = passwords.verify(secret("correct horsf"), Some(stored)).await.unwrap();
            assert_eq!((right, wrong), (Match::Outdated, Match::Wrong), "{kind}");
        }
        for broken in [made.replacen("$04$", "$31$", 1), made[..20].to_owned(), "$2b$".to_owned()] {
            let stored = Some(PasswordHash::new(broken));
            assert_eq!(passwords.verify(secret("correct horse"), stored).await.unwrap(), Match::Wrong);
        }
        assert!(!is_imported(&hash(b"correct horse")));
    }

    #[test]
    fn passwords_have_8_to_128_characters() {
        assert!(check_password_rules(&secret("1234567")).is_err());
        assert!(check_password_rules(&secret("12345678")).is_ok());
        assert!(check_password_rules(&secret(&"é".repeat(128))).is_ok());
        assert!(check_password_rules(&secret(&"é".repeat(129))).is_err());
        // In their one form.
        assert!(check_password_rules(&secret(&"e\u{301}".repeat(128))).is_ok());
        assert!(check_password_rules(&secret(&"e\u{301}".repeat(7))).is_err());
        assert!(check_password_rules(&secret("tab\tulator")).is_err());
        assert!(may_be_password(&secret(&"e\u{301}".repeat(128))));
        assert!(!may_be_password(&secret(&"e\u{301}".repeat(129))));
    }
}
