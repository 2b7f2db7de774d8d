//! Who somebody is: access tokens, refresh tokens, passwords, page origins.
//!
//! Tokens are verified offline against a static key set, so that sessions
//! outlast a directory outage. Password work runs on a bounded pool of its
//! own. No SQL here: what is stored is stored by `directory`.

mod canonical;
mod guessable;
mod host;
mod invite;
mod keys;
mod origin;
mod password;
mod reader;
mod refresh;
mod reset;
mod revocations;
mod seal;
mod ticket;
mod token;

pub use canonical::{canonical_email, email_forms};
pub use guessable::check_account_password;
pub use host::HostPort;
pub use invite::InviteCode;
pub use keys::{KeyError, Keys, key_weaknesses};
pub use origin::Origins;
pub use password::{HashBudget, Match, Passwords, Payer, check_password_rules, may_be_password};
pub use refresh::RefreshToken;
pub use reset::ResetToken;
pub use revocations::Revocation;
pub use seal::{SEAL_BYTES, Sealer};
pub use ticket::Ticket;
pub use token::{Claims, Issued, LEEWAY, Rules, Signer, Verifier};
