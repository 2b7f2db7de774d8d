//! Tokens that end before their time. Kept in memory by every node, for as long
//! as such a token may live; where they come from is the directory's business.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

use super::Claims;
use crate::clock::UnixMillis;
use crate::ids::UserId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    pub id: Uuid,
    pub user: UserId,
    /// Ends the tokens of this sign-in; without it, all that were made by then.
    pub login: Option<Uuid>,
    pub at: UnixMillis,
    /// No token that it ends lives longer.
    pub until: UnixMillis,
}

impl Revocation {
    pub fn ends(&self, claims: &Claims) -> bool {
        if self.user != claims.user {
            return false;
        }
        match self.login {
            Some(_) => claims.login == self.login,
            // Of a token that doesn't say when it was made, the worst is assumed.
            None => claims.issued_at.is_none_or(|made| made <= self.at),
        }
    }
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Revocations {
    by_user: Arc<RwLock<HashMap<UserId, Vec<Revocation>>>>,
}

impl Revocations {
    pub fn end(&self, claims: &Claims) -> bool {
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        by_user.get(&claims.user).is_some_and(|of_user| of_user.iter().any(|each| each.ends(claims)))
    }

    /// Answers which of them are news.
    pub fn learn(&self, told: Vec<Revocation>) -> Vec<Revocation> {
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        let mut news = Vec::new();
        for revocation in told {
            let of_user = by_user.entry(revocation.user.clone()).or_default();
            if of_user.iter().all(|known| known.id != revocation.id) {
                of_user.push(revocation.clone());
                news.push(revocation);
            }
        }
        news
    }

    /// Forgets revocations of tokens that have expired.
    pub fn forget_expired(&self, now: UnixMillis) {
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        by_user.retain(|_, of_user| {
            of_user.retain(|revocation| revocation.until > now);
            !of_user.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Authority;

    fn token(user: &str, login: Option<Uuid>, issued_at: Option<i64>) -> Claims {
        Claims {
            user: UserId::new(user).unwrap(),
            name: user.into(),
            expires_at: UnixMillis(100_000),
            issued_at: issued_at.map(UnixMillis),
            login,
            authority: Authority::Member,
        }
    }

    fn revocation(login: Option<Uuid>) -> Revocation {
        let user = UserId::new("ann").unwrap();
        Revocation { id: Uuid::new_v4(), user, login, at: UnixMillis(5_500), until: UnixMillis(9_000) }
    }

    #[test]
    fn a_sign_out_ends_the_tokens_of_its_sign_in_and_no_others() {
        let (here, there) = (Uuid::new_v4(), Uuid::new_v4());
        let out = revocation(Some(here));
        assert!(out.ends(&token("ann", Some(here), Some(9_000))));
        assert!(!out.ends(&token("ann", Some(there), Some(1_000))));
        assert!(!out.ends(&token("ann", None, Some(1_000))));
        assert!(!out.ends(&token("eve", Some(here), Some(1_000))));
    }

    #[test]
    fn what_ends_all_tokens_of_a_person_leaves_later_ones() {
        let all = revocation(None);
        assert!(all.ends(&token("ann", Some(Uuid::new_v4()), Some(5_000))));
        assert!(all.ends(&token("ann", None, None)));
        assert!(!all.ends(&token("ann", None, Some(6_000))));
        assert!(!all.ends(&token("eve", None, Some(1_000))));
    }

    #[test]
    fn each_is_news_once_and_forgotten_when_it_has_had_its_time() {
        let revocations = Revocations::default();
        let all = revocation(None);
        assert_eq!(revocations.learn(vec![all.clone(), all.clone()]), std::slice::from_ref(&all));
        assert_eq!(revocations.learn(vec![all]), []);
        let ann = token("ann", None, Some(1_000));
        revocations.forget_expired(UnixMillis(8_999));
        assert!(revocations.end(&ann));
        revocations.forget_expired(UnixMillis(9_000));
        assert!(!revocations.end(&ann));
    }
}
