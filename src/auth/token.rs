//! Access tokens: short-lived JWTs, verified offline.
//!
//! A token is accepted only if its `kid` names a key we hold, its algorithm is
//! that key's one algorithm, and `exp`, `aud`, `iss` and `sub` are present, well
//! formed and ours. Nothing in a token chooses how it is verified, and a header that
//! asks for an extension is refused.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Header, Validation};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::keys::{KeyError, Keys, Signing, Verifying};
use super::revocations::{Revocation, Revocations};
use super::seal::Sealer;
use crate::clock::UnixMillis;
use crate::config;
use crate::ids::UserId;
use crate::log::Authority;
use crate::protocol::{Code, Refusal, strict};

/// Tolerated difference between the issuer's clock and ours.
pub const LEEWAY: Duration = Duration::from_secs(5);

/// Longer tokens are refused unread.
const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// How deep a token's header may nest; a key in it needs two levels.
const HEADER_DEPTH: usize = 8;

/// A name longer than this is cut: it travels with every presence message.
const NAME_MAX_CHARS: usize = 64;

/// The last second of the year 9999: later expiries are treated as this one.
const LATEST_TIME: u64 = 253_402_300_799;

/// The scope that may act in any room, on behalf of any user.
const SERVER_SCOPE: &str = "server";

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub user: UserId,
    /// For people; the user id if the token has none.
    pub name: Arc<str>,
    pub expires_at: UnixMillis,
    /// To the second, as the token has it.
    pub issued_at: Option<UnixMillis>,
    /// The sign-in that it was made for; foreign tokens have none.
    pub login: Option<Uuid>,
    /// `Server` for tokens with `scope:"server"`.
    pub authority: Authority,
}

/// A fresh access token.
#[derive(Debug, Clone)]
pub struct Issued {
    pub token: String,
    pub expires_at: UnixMillis,
}

#[derive(Serialize, Deserialize)]
struct Body {
    iss: Option<String>,
    sub: String,
    exp: NumericDate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<NumericDate>,
    #[serde(default)]
    iat: Option<NumericDate>,
    /// Other issuers may use it for what is no UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// Seconds since 1970, perhaps with a fraction (RFC 7519, 2).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(transparent)]
struct NumericDate(f64);

impl NumericDate {
    fn millis(self) -> UnixMillis {
        UnixMillis((self.0.clamp(0.0, LATEST_TIME as f64) * 1000.0) as i64)
    }
}

/// As a whole number: other verifiers may take nothing else.
impl Serialize for NumericDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0 as u64)
    }
}

#[derive(Serialize)]
struct SignedBody<'a> {
    aud: &'a str,
    #[serde(flatten)]
    body: Body,
}

/// Checks tokens. Cheap to clone; sees a reloaded key set at once.
#[derive(Clone)]
pub struct Verifier {
    pub(super) rules: Arc<ArcSwap<Rules>>,
    revocations: Revocations,
    /// None where the first key is public.
    sealer: Option<Sealer>,
}

/// What tokens are checked against, and made with.
pub struct Rules {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) keys: Keys,
    token_max: Duration,
}

impl Verifier {
    /// Reads the configured keys.
    pub fn load(auth: &config::Auth) -> Result<Self, KeyError> {
        let rules = Rules::load(auth)?;
        let sealer = Sealer::new(rules.keys.sealing.clone());
        let rules = Arc::new(ArcSwap::from_pointee(rules));
        Ok(Self { rules, revocations: Revocations::default(), sealer })
    }

    /// From now on these, for this verifier, its clones and its signers. Answers
    /// whether the keys are others than before.
    pub fn replace(&self, rules: Rules) -> bool {
        let made_of = rules.keys.made_of;
        if let Some(sealer) = &self.sealer {
            sealer.replace(rules.keys.sealing.clone());
        }
        self.rules.swap(Arc::new(rules)).keys.made_of != made_of
    }

    /// Refused as `token_expired` if nothing else is wrong with it, else as
    /// `unauthenticated`; the message doesn't tell an attacker which check failed.
    pub fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(refused());
        }
        let rules = self.rules.load();
        let key = rules.key_of(token).ok_or_else(refused)?;
        let decoded = jsonwebtoken::decode::<Body>(token, &key.key, &rules.validation(key.algorithm));
        let body = decoded.map_err(|_| refused())?.claims;
        check_times(&body, rules.token_max)?;
        let claims = claims(body)?;
        let is_good = key.may_issue.allows(claims.authority) && !self.is_revoked(&claims);
        if is_good { Ok(claims) } else { Err(refused()) }
    }

    /// Whether a token that was accepted has been ended since.
    pub fn is_revoked(&self, claims: &Claims) -> bool {
        self.revocations.end(claims)
    }

    /// From now on these tokens are refused. Answers which of them are news, so
    /// that what goes on with such a token can be ended.
    pub fn revoke(&self, told: Vec<Revocation>) -> Vec<Revocation> {
        self.revocations.learn(told)
    }

    /// Forgets revocations that end no token which is still valid.
    pub fn forget_expired_revocations(&self, now: UnixMillis) {
        self.revocations.forget_expired(now);
    }

    /// Seals what nodes exchange over Redis. Refused if the first key is public.
    pub fn sealer(&self) -> Result<Sealer, KeyError> {
        self.rules.load().check_can_sign()?;
        self.sealer.clone().ok_or(KeyError::None)
    }

    /// Signs with the first key of the set. Refused if that one is public.
    pub fn signer(&self, lifetime: Duration) -> Result<Signer, KeyError> {
        self.rules.load().check_can_sign()?;
        Ok(Signer { rules: self.rules.clone(), lifetime, login: None })
    }
}

impl Rules {
    /// Reads the configured keys.
    pub fn load(auth: &config::Auth) -> Result<Self, KeyError> {
        let keys = Keys::load(&auth.keys)?;
        Ok(Self {
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            keys,
            token_max: auth.token_max,
        })
    }

    pub fn check_can_sign(&self) -> Result<(), KeyError> {
        match &self.keys.signing {
            Some(signing) if signing.may_issue.allows(Authority::Member) => Ok(()),
            Some(signing) => Err(KeyError::MayNotIssueUser { kid: signing.kid.clone() }),
            None => {
                let kid = self.keys.verifying.keys().next().cloned().unwrap_or_default();
                Err(KeyError::CannotSign { kid })
            }
        }
    }

    pub(super) fn signing(&self) -> Result<&Signing, Refusal> {
        let missing = || Refusal::new(Code::Unavailable, "this gateway holds no signing key");
        self.keys.signing.as_ref().ok_or_else(missing)
    }

    /// With the first key.
    pub(super) fn sign(&self, body: &impl Serialize) -> Result<String, Refusal> {
        let signing = self.signing()?;
        let header = Header { kid: Some(signing.kid.clone()), ..Header::new(signing.algorithm) };
        jsonwebtoken::encode(&header, body, &signing.key).map_err(|error| {
            tracing::error!(%error, "signing a token failed");
            Refusal::new(Code::Internal, "a token could not be made")
        })
    }

    /// The key that the header names. None if the header asks for an extension
    /// (`crit`: RFC 7515, 4.1.11) or for a body without base64: neither exists here.
    pub(super) fn key_of(&self, token: &str) -> Option<&Verifying> {
        let bytes = BASE64.decode(token.split('.').next()?).ok()?;
        let header = strict::object(std::str::from_utf8(&bytes).ok()?, HEADER_DEPTH).ok()?;
        let is_plain = !header.contains_key("crit") && header.get("b64").is_none_or(|b64| *b64 == true);
        self.keys.verifying.get(header.get("kid")?.as_str()?).filter(|_| is_plain)
    }

    /// Without the times, of which `jsonwebtoken` takes no huge and no early ones.
    pub(super) fn validation(&self, algorithm: jsonwebtoken::Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["aud", "iss", "sub"]);
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.validate_exp = false;
        validation
    }
}

fn claims(body: Body) -> Result<Claims, Refusal> {
    let user = UserId::new(&body.sub).map_err(|_| refused())?;
    let name = match body.name.as_deref().map(str::trim) {
        Some(name) if !name.is_empty() => name.chars().take(NAME_MAX_CHARS).collect::<String>().into(),
        _ => user.as_str().into(),
    };
    let server = body.scope.is_some_and(|scope| scope.split(' ').any(|word| word == SERVER_SCOPE));
    let authority = if server { Authority::Server } else { Authority::Member };
    // To the second, so that a sign-out ends what was made in its own second.
    let issued_at = body.iat.map(|NumericDate(seconds)| NumericDate(seconds.floor()).millis());
    let login = body.sid.as_ref().and_then(|sid| sid.as_str()).and_then(|sid| Uuid::parse_str(sid).ok());
    Ok(Claims { user, name, expires_at: body.exp.millis(), issued_at, login, authority })
}

/// Of a token that is valid otherwise.
fn check_times(body: &Body, most: Duration) -> Result<(), Refusal> {
    let (now, leeway) = (UnixMillis::now().0 as f64 / 1000.0, LEEWAY.as_secs_f64());
    // A sign-out of all devices ends the tokens issued before it. One issued in
    // the future would outlive it.
    let is_early = |time: Option<NumericDate>| time.is_some_and(|time| time.0 > now + leeway);
    if body.exp.0 < 0.0 || is_early(body.nbf) || is_early(body.iat) {
        return Err(refused());
    }
    if body.exp.0 + leeway < now {
        return Err(Refusal::new(Code::TokenExpired, "the token has expired; get a new one"));
    }
    // Else a sign-out would have to be remembered for ever.
    let issued = body.iat.map_or(now, |iat| iat.0.min(now));
    if body.exp.0.min(LATEST_TIME as f64) - issued > most.as_secs_f64() + leeway {
        let text = "the token lives longer than auth.token_max_ms allows: get one with an earlier exp";
        return Err(Refusal::new(Code::Unauthenticated, text));
    }
    Ok(())
}

fn refused() -> Refusal {
    Refusal::new(Code::Unauthenticated, "a valid token is needed")
}

/// Makes tokens that [`Verifier`] accepts. Cheap to clone.
#[derive(Clone)]
pub struct Signer {
    pub(super) rules: Arc<ArcSwap<Rules>>,
    lifetime: Duration,
    login: Option<Uuid>,
}

impl Signer {
    /// Tokens that end with this sign-in.
    pub fn for_login(&self, login: Uuid) -> Self {
        Self { login: Some(login), ..self.clone() }
    }

    /// An access token for `user`, valid from now for the signer's lifetime.
    pub fn issue(&self, user: &UserId, name: Option<&str>, authority: Authority) -> Result<Issued, Refusal> {
        let rules = self.rules.load();
        if !rules.signing()?.may_issue.allows(authority) {
            let text = "the first key of auth.keys may not issue such a token: see its may_issue";
            return Err(Refusal::new(Code::Unavailable, text));
        }
        let now = UnixMillis::now().0.unsigned_abs() / 1000;
        let exp = now.saturating_add(self.lifetime.as_secs()).min(LATEST_TIME);
        let scope = match authority {
            Authority::Server => Some(SERVER_SCOPE.to_owned()),
            Authority::Member => None,
        };
        let body = Body {
            iss: Some(rules.issuer.clone()),
            sub: user.as_str().to_owned(),
            exp: NumericDate(exp as f64),
            nbf: None,
            iat: Some(NumericDate(now as f64)),
            sid: self.login.map(|login| login.to_string().into()),
            name: name.map(str::to_owned),
            scope,
        };
        let token = rules.sign(&SignedBody { aud: &rules.audience, body })?;
        Ok(Issued { token, expires_at: UnixMillis((exp * 1000) as i64) })
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
