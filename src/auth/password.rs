//! Passwords: argon2id on bounded pools, so that a flood of hashes costs a known
//! number of threads and 19 MiB each, and sockets don't notice.
//!
//! Every hash has a payer, and no caller can leave it out. Sign-ins and rooms have
//! a queue each, so the one can't take the other's threads. In a queue a payer has a
//! bounded share of the places, and the node's budget is asked before a hash begins.
//!
//! A check against an unknown account or an account without a password does
//! the same work as a real one, so time tells nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordVerifier, Version};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::canonical::{canonical_password, decomposed};
use crate::config::Secret;
use crate::digests::PasswordHash;
use crate::ids::UserId;
use crate::protocol::{Code, Refusal};

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

const MIN_CHARS: usize = 8;
const MAX_CHARS: usize = 128;

/// Callers that may wait for a thread, for each thread; more are `overloaded`.
const WAITING_PER_THREAD: usize = 64;

/// A user's share of the queue for rooms, running and waiting.
const SHARE_OF_USER: usize = 16;

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

/// The party that a hash is computed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payer<'a> {
    /// Somebody at this address signs in or up.
    Address(IpAddr),
    /// A user sets or tries a room's password.
    User(&'a UserId),
}

/// Whether a payer may have one more hash; for example a number a minute.
pub type HashBudget = Box<dyn Fn(Payer<'_>) -> Result<(), Refusal> + Send + Sync>;

/// Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    shared: Arc<Shared>,
}

struct Shared {
    sign_ins: Arc<Queue>,
    rooms: Arc<Queue>,
    budget: HashBudget,
    /// Stands in for the hash of an account or room that doesn't exist.
    dummy: PasswordHash,
}

/// Threads of one kind of payer, and the callers that wait for them.
struct Queue {
    threads: Semaphore,
    /// Running and waiting together.
    admitted: Semaphore,
    /// The most of them that are one payer's.
    share: usize,
    /// Places of each payer, by a keyed hash.
    places: Mutex<HashMap<u64, usize>>,
    hasher: RandomState,
}

/// A place in a queue. Given back on drop.
struct Place<'a> {
    queue: &'a Queue,
    payer: u64,
    _admitted: SemaphorePermit<'a>,
}

impl Queue {
    fn new(threads: usize, share: impl FnOnce(usize) -> usize) -> Arc<Self> {
        let places = threads * (1 + WAITING_PER_THREAD);
        Arc::new(Self {
            threads: Semaphore::new(threads),
            admitted: Semaphore::new(places),
            share: share(places),
            places: Mutex::default(),
            hasher: RandomState::new(),
        })
    }

    fn enter(&self, payer: Payer<'_>) -> Result<Place<'_>, Refusal> {
        let admitted = self.admitted.try_acquire().map_err(|_| busy())?;
        let payer = self.hasher.hash_one(payer);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = places.entry(payer).or_default();
        if *taken >= self.share {
            return Err(busy());
        }
        *taken += 1;
        Ok(Place { queue: self, payer, _admitted: admitted })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = self.queue.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut taken) = places.entry(self.payer) {
            *taken.get_mut() -= 1;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }
}

impl Passwords {
    /// At most `threads` hashes of sign-ins are computed at a time, and as many of
    /// rooms.
    pub fn new(threads: usize, budget: HashBudget) -> Self {
        let threads = threads.max(1);
        let shared = Shared {
            // Many people may be behind one address, but not half of all.
            sign_ins: Queue::new(threads, |places| places / 2),
            rooms: Queue::new(threads, |_| SHARE_OF_USER),
            budget,
            dummy: hash(b"nobody's password"),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Of its one form, if it has one. The rules are the caller's to check.
    pub async fn hash(&self, password: Secret, payer: Payer<'_>) -> Result<PasswordHash, Refusal> {
        self.run(payer, move || {
            let typed = password.reveal();
            hash(canonical_password(typed).as_deref().unwrap_or(typed).as_bytes())
        })
        .await
    }

    /// `None` takes as long as a wrong password and is as wrong.
    ///
    /// An imported hash takes its own time, so until its owner signs in (and it
    /// is replaced, see [`Match::Outdated`]) it can be told that there is one.
    pub async fn verify(
        &self,
        password: Secret,
        stored: Option<PasswordHash>,
        payer: Payer<'_>,
    ) -> Result<Match, Refusal> {
        let exists = stored.is_some();
        let against = stored.unwrap_or_else(|| self.shared.dummy.clone());
        let found = self.run(payer, move || compare(password.reveal(), &against)).await?;
        Ok(if exists { found } else { Match::Wrong })
    }

    async fn run<T: Send + 'static>(
        &self,
        payer: Payer<'_>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        (self.shared.budget)(payer)?;
        let queue = match payer {
            Payer::Address(_) => &self.shared.sign_ins,
            Payer::User(_) => &self.shared.rooms,
        };
        let _place = queue.enter(payer)?;
        let permit = tokio::time::timeout(WAIT_MAX, queue.threads.acquire())
            .await
            .map_err(|_| busy())?
            .map_err(|_| busy())?;
        // The thread can't be stopped: if the caller goes away, the permit must
        // still be held until the work is done, so it moves into the closure.
        permit.forget();
        let queue = queue.clone();
        let job = tokio::task::spawn_blocking(move || {
            let _returned = Returned(queue);
            work()
        });
        job.await.map_err(|error| {
            tracing::error!(%error, "password work failed");
            Refusal::new(Code::Internal, "the password could not be checked")
        })
    }
}

/// Gives the thread's permit back when the work ends, panic or not.
struct Returned(Arc<Queue>);

impl Drop for Returned {
    fn drop(&mut self) {
        self.0.threads.add_permits(1);
    }
}

fn busy() -> Refusal {
    Refusal::new(Code::Overloaded, "too many passwords are being checked; try again").retry_after_ms(2_000)
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
#[path = "password_tests.rs"]
mod tests;
