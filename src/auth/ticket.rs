//! Tickets: what a token says, in a text that may stand in an address because it
//! is worth nothing soon. Signed like tokens, for an audience of its own, so that
//! neither is taken for the other. That it is used once is its taker's business.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::token::{Claims, Issued, Rules, Signer, Verifier};
use crate::clock::UnixMillis;
use crate::ids::UserId;
use crate::log::Authority;
use crate::protocol::{Code, Refusal};

const LIFETIME: Duration = Duration::from_secs(30);

/// Longer ones are refused unread.
const BYTES_MAX: usize = 4 * 1024;

/// What a valid ticket says.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// Of no other ticket.
    pub id: Uuid,
    pub expires_at: UnixMillis,
    pub claims: Claims,
}

#[derive(Serialize, Deserialize)]
struct Body {
    iss: String,
    aud: String,
    sub: String,
    exp: u64,
    jti: String,
    name: String,
    /// When the token was made and ends that it stands for, and its sign-in.
    made: Option<UnixMillis>,
    until: UnixMillis,
    sid: Option<String>,
    server: bool,
}

impl Signer {
    /// Stands for the token of these claims.
    pub fn ticket(&self, claims: &Claims) -> Result<Issued, Refusal> {
        let rules = self.rules.load();
        let expires_at = UnixMillis::now().0.unsigned_abs() + LIFETIME.as_millis() as u64;
        // Of whole seconds, so it may live for one more.
        let exp = expires_at.div_ceil(1000);
        let body = Body {
            iss: rules.issuer.clone(),
            aud: audience(&rules),
            sub: claims.user.as_str().to_owned(),
            exp,
            jti: Uuid::new_v4().to_string(),
            name: claims.name.to_string(),
            made: claims.issued_at,
            until: claims.expires_at,
            sid: claims.login.map(|login| login.to_string()),
            server: claims.authority == Authority::Server,
        };
        let token = rules.sign(&body)?;
        Ok(Issued { token, expires_at: UnixMillis((exp * 1000) as i64) })
    }
}

impl Verifier {
    /// Refused as `unauthenticated`, or as `token_expired` if the token has ended
    /// that it stands for.
    pub fn verify_ticket(&self, ticket: &str) -> Result<Ticket, Refusal> {
        if ticket.len() > BYTES_MAX {
            return Err(refused());
        }
        let rules = self.rules.load();
        let key = rules.key_of(ticket).ok_or_else(refused)?;
        let mut validation = rules.validation(key.algorithm);
        validation.set_audience(&[audience(&rules)]);
        let body = jsonwebtoken::decode::<Body>(ticket, &key.key, &validation).map_err(|_| refused())?.claims;
        let expires_at = UnixMillis((body.exp.min(u64::from(u32::MAX)) * 1000) as i64);
        let now = UnixMillis::now();
        if expires_at <= now {
            return Err(refused());
        }
        if body.until <= now {
            return Err(Refusal::new(Code::TokenExpired, "the token has expired; get a new one"));
        }
        let id = Uuid::parse_str(&body.jti).map_err(|_| refused())?;
        let login = body.sid.as_deref().map(Uuid::parse_str).transpose().map_err(|_| refused())?;
        let claims = Claims {
            user: UserId::new(&body.sub).map_err(|_| refused())?,
            name: body.name.into(),
            expires_at: body.until,
            issued_at: body.made,
            login,
            authority: if body.server { Authority::Server } else { Authority::Member },
        };
        if self.is_revoked(&claims) {
            return Err(refused());
        }
        Ok(Ticket { id, expires_at, claims })
    }
}

fn audience(rules: &Rules) -> String {
    format!("{}/tickets", rules.audience)
}

fn refused() -> Refusal {
    Refusal::new(Code::Unauthenticated, "a valid ticket is needed; it lives for 30 s")
}
