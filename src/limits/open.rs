//! How many sessions each user has open on this node.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::UserId;
use crate::protocol::{Code, Refusal};

/// Holds one entry for each user with a session, and no more.
#[derive(Clone, Default)]
pub(super) struct OpenSessions {
    counts: Arc<Mutex<HashMap<UserId, u32>>>,
}

/// One open session. Given back on drop.
pub struct SessionSlot {
    user: UserId,
    open: OpenSessions,
}

impl OpenSessions {
    /// `most` = 0: as many as they like.
    pub fn enter(&self, user: &UserId, most: u32) -> Result<SessionSlot, Refusal> {
        let mut counts = self.counts();
        let count = counts.entry(user.clone()).or_default();
        if most > 0 && *count >= most {
            let message = format!("at most {most} sessions a user");
            return Err(Refusal::new(Code::RateLimited, message).retry_after_ms(5_000));
        }
        *count += 1;
        Ok(SessionSlot { user: user.clone(), open: self.clone() })
    }

    fn leave(&self, user: &UserId) {
        if let Entry::Occupied(mut entry) = self.counts().entry(user.clone()) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<UserId, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        self.open.leave(&self.user);
    }
}
