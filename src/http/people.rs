//! Accounts: sign up, sign in, new tokens, sign out.

use std::net::IpAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::address::Caller;
use super::answer;
use super::body::{Json, OptionalJson};
use super::error::{Answer, ApiError};
use super::openapi::schemas;
use super::signed_in::claims;
use crate::auth::{
    Match, Payer, RefreshToken, canonical_email, check_account_password, email_forms, may_be_password,
};
use crate::config::Secret;
use crate::digests::{AddressDigest, PasswordHash};
use crate::directory::{Account, DirectoryError, NewAccount, Seen};
use crate::ids::UserId;
use crate::limits::{Guess, network};
use crate::log::Authority;
use crate::protocol::{Code, ObjectWriter};

const EMAIL_MAX_BYTES: usize = 254;
const NAME_MAX_CHARS: usize = 64;

#[derive(Deserialize, ToSchema)]
pub(super) struct SignUp {
    #[schema(max_length = 254)]
    email: String,
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    password: Secret,
    #[schema(min_length = 1, max_length = 64)]
    name: String,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct SignIn {
    email: String,
    #[schema(value_type = String, format = Password)]
    password: Secret,
    /// Any refresh token of an earlier sign-in, also if it is spent or ended. Failed
    /// sign-ins of others then don't slow down this client.
    refresh_token: Option<String>,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Refresh {
    refresh_token: String,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct SignOut {
    refresh_token: Option<String>,
}

#[utoipa::path(
    post, path = "/v1/signup", tag = "people",
    summary = "Makes an account and signs in",
    security(()),
    request_body = SignUp,
    responses(
        (status = 201, description = "Signed in", body = schemas::SignedIn),
        (status = 409, description = "email_taken", body = schemas::Refused),
    ),
)]
pub(super) async fn sign_up(
    State(app): State<App>,
    caller: Caller,
    Json(wish): Json<SignUp>,
) -> Answer<Response> {
    let from = caller.address;
    app.limits.sign_up(from)?;
    let email = checked_email(&wish.email)?;
    check_name(&wish.name)?;
    check_account_password(&wish.password, &email, &wish.name)?;
    let password = app.passwords.hash(wish.password, Payer::Address(from)).await?;
    let id = UserId::new(&Uuid::new_v4().to_string()).expect("a UUID is a user id");
    let new = NewAccount { id, email, email_forms: email_forms(&wish.email), name: wish.name, password };
    let account = app.directory.create_account(&new).await?;
    let tokens = begin(&app, &account, &new.password, &caller).await?;
    Ok(answer::json(StatusCode::CREATED, tokens))
}

/// An unknown email and a wrong password get the same answer in the same time.
#[utoipa::path(
    post, path = "/v1/signin", tag = "people",
    summary = "Signs in",
    security(()),
    request_body = SignIn,
    responses(
        (status = 200, description = "Signed in", body = schemas::SignedIn),
        (status = 401, description = "unauthenticated: the email or the password is wrong", body = schemas::Refused),
        (status = 429, description = "rate_limited: too many failures of the account from the address; from an address where the account never signed in, also of the account or of the address", body = schemas::Refused),
    ),
)]
pub(super) async fn sign_in(
    State(app): State<App>,
    caller: Caller,
    Json(wish): Json<SignIn>,
) -> Answer<Response> {
    let from = caller.address;
    let canonical = canonical_email(&wish.email);
    let email = canonical.as_deref().unwrap_or(&wish.email);
    let possible = wish.email.len() <= EMAIL_MAX_BYTES && may_be_password(&wish.password);
    if !possible {
        let stranger = Guess { email, from, device: None, is_known: false };
        app.limits.sign_in(stranger).await?.fail().await;
        return Err(wrong_credentials());
    }
    let found = app.directory.credentials(&wish.email, &email_forms(&wish.email)).await?;
    let (account, hash) = found.map(|found| (found.account, found.password)).unzip();
    let guess = guess(&app, account.as_ref(), email, from, wish.refresh_token.as_deref()).await?;
    let attempt = app.limits.sign_in(guess).await?;
    let found = app.passwords.verify(wish.password.clone(), hash.clone(), Payer::Address(from)).await;
    let found = match found {
        Ok(found) => found,
        // Nobody has looked at the password.
        Err(refusal) => {
            attempt.give_back();
            return Err(refusal.into());
        }
    };
    if found == Match::Wrong {
        let is_first = attempt.fail().await;
        note_failure(&app, account.filter(|_| is_first), from);
        return Err(wrong_credentials());
    }
    let account = account.ok_or_else(wrong_credentials)?;
    attempt.give_back();
    let mut hash = hash.ok_or_else(wrong_credentials)?;
    if found == Match::Outdated {
        hash = rehash(&app, &account, hash, wish.password, Payer::Address(from)).await;
    }
    let tokens = begin(&app, &account, &hash, &caller).await?;
    Ok(answer::json(StatusCode::OK, tokens))
}

/// In the background: an account that exists must not cost the caller more time.
fn note_failure(app: &App, account: Option<Account>, from: IpAddr) {
    let Some(account) = account else { return };
    tracing::info!(user = %account.id, %from, "sign-in failed");
    let directory = app.directory.clone();
    app.tasks.spawn("failed-sign-in", async move {
        if let Err(error) = directory.note_failed_sign_in(&account.id).await {
            tracing::debug!(%error, "a failed sign-in is not in the audit trail");
        }
    });
}

/// Takes as long without an account.
async fn guess<'a>(
    app: &App,
    account: Option<&Account>,
    email: &'a str,
    from: IpAddr,
    token: Option<&str>,
) -> Answer<Guess<'a>> {
    let id = account.map(|account| &account.id);
    let address = address_digests(app, id, from);
    let token = token.and_then(RefreshToken::parse).map(|token| token.digest());
    let known = app.directory.acquaintance(id, &address, token).await?;
    Ok(Guess { email, from, device: known.device, is_known: known.is_known_address })
}

/// By each key of the nodes, that of new digests first.
pub(super) fn address_digests(app: &App, account: Option<&UserId>, from: IpAddr) -> Vec<AddressDigest> {
    let (account, network) = (account.map_or("", UserId::as_str), network(from).to_string());
    let parts: [&[u8]; 3] = [b"address of an account", account.as_bytes(), network.as_bytes()];
    app.sealer.seals(&parts).into_iter().map(AddressDigest).collect()
}

/// A right password replaces a hash that is outdated; if that fails now, the next
/// time. Returns the hash of the password that the account has now.
async fn rehash(
    app: &App,
    account: &Account,
    old: PasswordHash,
    password: Secret,
    payer: Payer<'_>,
) -> PasswordHash {
    let Ok(new) = app.passwords.hash(password.clone(), payer).await else { return old };
    match app.directory.replace_hash(&account.id, &old, &new).await {
        Ok(true) => new,
        Ok(false) => replaced_by_another(app, account, password, payer).await.unwrap_or(old),
        Err(error) => {
            tracing::debug!(%error, "an outdated hash stays for now");
            old
        }
    }
}

/// The current hash, if it is of the same password: another sign-in replaced it.
async fn replaced_by_another(
    app: &App,
    account: &Account,
    password: Secret,
    payer: Payer<'_>,
) -> Option<PasswordHash> {
    let current = app.directory.credentials_of(&account.id).await.ok()??.password;
    let found = app.passwords.verify(password, Some(current.clone()), payer).await;
    found.is_ok_and(|found| found != Match::Wrong).then_some(current)
}

#[utoipa::path(
    post, path = "/v1/token/refresh", tag = "people",
    summary = "New tokens for a refresh token, which is spent",
    security(()),
    request_body = Refresh,
    responses(
        (status = 200, description = "New tokens", body = schemas::SignedIn),
        (status = 401, description = "unauthenticated: the refresh token is unknown, spent or expired", body = schemas::Refused),
    ),
)]
pub(super) async fn refresh(State(app): State<App>, Json(wish): Json<Refresh>) -> Answer<Response> {
    let old = RefreshToken::parse(&wish.refresh_token).ok_or(DirectoryError::RefreshTokenInvalid)?;
    let new = RefreshToken::random();
    let lifetime = app.refresh_token;
    let rotated = app.directory.rotate_refresh_token(old.digest(), new.digest(), lifetime).await;
    if matches!(rotated, Err(DirectoryError::RefreshTokenReused)) {
        app.bus.tell_revoked().await;
    }
    let (user, login) = rotated?;
    let account = app.directory.account(&user).await?.ok_or(DirectoryError::RefreshTokenInvalid)?;
    Ok(answer::json(StatusCode::OK, session(&app, &account, login, &new)?))
}

/// Ends the sign-in of the refresh token that is shown; without one, with a valid
/// access token, all of the user's. Its access tokens end with it, and the
/// sessions that live on them, on every node.
#[utoipa::path(
    post, path = "/v1/signout", tag = "people",
    summary = "Ends a sign-in, or without a refresh token all of the caller",
    security(()),
    request_body = Option<SignOut>,
    responses(
        (status = 204, description = "Signed out; sessions that lived on it are closed"),
        (status = 401, description = "unauthenticated: neither token was shown", body = schemas::Refused),
    ),
)]
pub(super) async fn sign_out(State(app): State<App>, request: axum::extract::Request) -> Answer<Response> {
    let signed_in = claims(request.headers(), &app.verifier);
    let OptionalJson(wish) =
        <OptionalJson<SignOut> as axum::extract::FromRequest<App>>::from_request(request, &app).await?;
    let user = signed_in.as_ref().ok().and_then(Option::as_ref).map(|claims| claims.user.to_string());
    match wish.refresh_token {
        Some(text) => {
            if let Some(token) = RefreshToken::parse(&text) {
                app.directory.end_login(token.digest()).await?;
            }
        }
        None => {
            let claims = signed_in?.ok_or_else(|| {
                ApiError::new(Code::Unauthenticated, "show a token, or the refresh token to end")
            })?;
            app.directory.end_logins_of(&claims.user).await?;
            if claims.login.is_none() {
                // Not made here, so it belongs to no sign-in.
                app.directory.end_tokens_of(&claims.user).await?;
            }
        }
    }
    app.bus.tell_revoked().await;
    tracing::info!(user, "signed out");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A new family of refresh tokens and the first access token.
async fn begin(app: &App, account: &Account, password: &PasswordHash, caller: &Caller) -> Answer<String> {
    let refresh = RefreshToken::random();
    let login = app.directory.add_refresh_token(refresh.digest(), &account.id, app.refresh_token).await?;
    let most = app.limits.configured().signins_kept_per_user;
    app.directory.end_oldest_logins(&account.id, most).await?;
    if let Some(&address) = address_digests(app, Some(&account.id), caller.address).first() {
        let (login, agent) = (Some(login), caller.agent.as_deref());
        let seen = Seen { account: &account.id, password, address, login, agent };
        // The password was changed after it was checked, too late to end this sign-in.
        if !app.directory.note_seen(&seen).await? {
            app.directory.end_login(refresh.digest()).await?;
            return Err(wrong_credentials());
        }
    }
    tracing::info!(user = %account.id, sign_in = %login, from = %caller.address, "signed in");
    session(app, account, login, &refresh)
}

fn session(app: &App, account: &Account, login: Uuid, refresh: &RefreshToken) -> Answer<String> {
    let issued = app.signer.for_login(login).issue(&account.id, Some(&account.name), Authority::Member)?;
    Ok(ObjectWriter::object(1024)
        .raw("user", &user_json(account))
        .string("token", &issued.token)
        .string("refresh_token", refresh.reveal())
        .number("expires_at", issued.expires_at.0)
        .end())
}

pub(super) fn user_json(account: &Account) -> String {
    let user = ObjectWriter::object(256)
        .string("id", account.id.as_str())
        .string("email", &account.email)
        .string("name", &account.name);
    match &account.photo {
        Some(photo) => user.string("photo", photo),
        None => user.raw("photo", "null"),
    }
    .end()
}

/// In its one form. Enough to tell an address from a typo; whether it is one, only
/// mail can tell.
fn checked_email(email: &str) -> Answer<String> {
    let valid = email.len() <= EMAIL_MAX_BYTES
        && email
            .split_once('@')
            .is_some_and(|(who, host)| !who.is_empty() && !host.is_empty() && !host.contains('@'))
        && !email.chars().any(|c| c.is_whitespace() || c.is_control());
    let canonical = canonical_email(email).filter(|canonical| valid && canonical.len() <= EMAIL_MAX_BYTES);
    let canonical = canonical.ok_or_else(|| ApiError::bad_message("this is not an email address"))?;
    // Letters of ASCII are shown as they were typed: the directory's index folds them.
    Ok(if email.to_ascii_lowercase() == canonical { email.to_owned() } else { canonical })
}

pub(super) fn check_name(name: &str) -> Answer<()> {
    let length = name.chars().count();
    if (1..=NAME_MAX_CHARS).contains(&length) && !name.trim().is_empty() {
        return Ok(());
    }
    Err(ApiError::bad_message("a name has 1 to 64 characters"))
}

fn wrong_credentials() -> ApiError {
    ApiError::new(Code::Unauthenticated, "the email or the password is wrong")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emails_are_told_from_typos() {
        for email in ["a@b", "ünï@example.test", "a+b@example.test"] {
            assert!(checked_email(email).is_ok(), "{email}");
        }
        for email in ["", "@", "a@", "@b", "a b@c", "a@b@c", "a\n@b", &format!("{}@b", "a".repeat(300))] {
            assert!(checked_email(email).is_err(), "{email}");
        }
    }
}
