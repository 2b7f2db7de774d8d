//! `roomgate token`: tokens for programs and for tests.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{ConfigArgs, Failure};
use crate::auth::Verifier;
use crate::ids::UserId;
use crate::log::Authority;

/// Make access tokens with the configured key.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Print a signed access token.
    ///
    /// Nobody needs an account for it: whoever holds the token is that user
    /// until it expires.
    #[command(after_help = "Example:\n  roomgate token issue --user importer --scope server --lifetime 3600")]
    Issue(IssueArgs),
}

#[derive(Debug, Args)]
pub struct IssueArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Whose token it is: the claim `sub`
    #[arg(long)]
    user: String,
    /// The name others see
    #[arg(long)]
    name: Option<String>,
    /// server: any room, and on behalf of any user
    #[arg(long)]
    scope: Option<Scope>,
    /// In seconds [default: auth.access_token_ms]
    #[arg(long, value_name = "SECONDS")]
    lifetime: Option<u64>,
    /// Print JSON with the expiry
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scope {
    Server,
}

pub(super) fn run(verb: TokenVerb) -> Result<(), Failure> {
    let TokenVerb::Issue(args) = verb;
    let auth = args.config.load()?.config.auth;
    let user = UserId::new(&args.user).map_err(|error| Failure { status: 2, message: error.to_string() })?;
    let lifetime = args.lifetime.map_or(auth.access_token, Duration::from_secs);
    if lifetime > auth.token_max {
        let message = format!(
            "auth.token_max_ms allows {} s at most: ask for a shorter --lifetime or raise it on every node",
            auth.token_max.as_secs()
        );
        return Err(Failure { status: 2, message });
    }
    let signer =
        Verifier::load(&auth).and_then(|verifier| verifier.signer(lifetime)).map_err(Failure::new)?;
    let authority = if args.scope == Some(Scope::Server) { Authority::Server } else { Authority::Member };
    let issued = signer.issue(&user, args.name.as_deref(), authority).map_err(Failure::new)?;
    if args.json {
        println!("{:#}", json!({"token": issued.token, "expires_at": issued.expires_at}));
    } else {
        println!("{}", issued.token);
    }
    Ok(())
}
