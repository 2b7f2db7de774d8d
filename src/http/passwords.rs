//! Passwords of accounts: changed by the user, or set by a token from a mail.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::App;
use super::address::ClientAddress;
use super::body::Json;
use super::error::{Answer, ApiError};
use super::openapi::schemas;
use super::people::address_digests;
use super::signed_in::SignedIn;
use crate::auth::{
    Match, Payer, ResetToken, canonical_email, check_account_password, email_forms, may_be_password,
};
use crate::clock::UnixMillis;
use crate::config::Secret;
use crate::directory::{PasswordChange, Seen};
use crate::limits::Guess;
use crate::mail::{Mailer, PasswordReset};
use crate::protocol::{Code, Refusal};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    #[schema(value_type = String, format = Password)]
    current_password: Secret,
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    new_password: Secret,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AskForReset {
    email: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reset {
    /// As it was in the mail.
    token: String,
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    new_password: Secret,
}

/// Wrong guesses of the current password count for the caller's own sign-in.
#[utoipa::path(
    put, path = "/v1/me/password", tag = "people",
    summary = "Changes the password; ends the caller's other sign-ins",
    request_body = NewPassword,
    responses(
        (status = 204, description = "Changed. This sign-in goes on, the others have ended"),
        (status = 400, description = "bad_message: the new password is too short, too long or too easy to guess", body = schemas::Refused),
        (status = 403, description = "bad_password: the current password is another one", body = schemas::Refused),
        (status = 404, description = "not_found: the token was not made here", body = schemas::Refused),
    ),
)]
pub(super) async fn change(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    ClientAddress(from): ClientAddress,
    Json(wish): Json<NewPassword>,
) -> Answer<Response> {
    let found = app.directory.credentials_of(&claims.user).await?;
    let found = found.ok_or_else(|| ApiError::new(Code::NotFound, "you have no account here"))?;
    let account = &found.account;
    check_account_password(&wish.new_password, &account.email, &account.name)?;
    let email = canonical_email(&account.email);
    let email = email.as_deref().unwrap_or(&account.email);
    let attempt = app.limits.sign_in(Guess { email, from, device: claims.login, is_known: true }).await?;
    let payer = Payer::User(&claims.user);
    let is_right = match may_be_password(&wish.current_password) {
        true => app.passwords.verify(wish.current_password, Some(found.password.clone()), payer).await,
        false => Ok(Match::Wrong),
    };
    match is_right {
        Ok(Match::Wrong) => {
            attempt.fail().await;
            tracing::info!(user = %claims.user, "a password change showed a wrong password");
            return Err(wrong_password());
        }
        Ok(Match::Right | Match::Outdated) => attempt.give_back(),
        Err(refusal) => {
            attempt.give_back();
            return Err(refusal.into());
        }
    }
    let new = app.passwords.hash(wish.new_password, payer).await?;
    let change =
        PasswordChange { account: &claims.user, old: &found.password, new: &new, kept: claims.login };
    if !app.directory.change_password(&change).await? {
        return Err(wrong_password());
    }
    if let Some(&address) = address_digests(&app, Some(&claims.user), from).first() {
        let (account, password) = (&claims.user, &new);
        let seen = Seen { account, password, address, login: None, agent: None };
        app.directory.note_seen(&seen).await?;
    }
    app.bus.tell_revoked().await;
    tracing::info!(user = %claims.user, "password changed");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The answer and its time are the same with and without an account.
#[utoipa::path(
    post, path = "/v1/auth/reset", tag = "people",
    summary = "Sends a token that sets a new password to the account's mailbox",
    security(()),
    request_body = AskForReset,
    responses(
        (status = 202, description = "If there is such an account, a mail is on its way"),
        (status = 404, description = "not_found: the gateway sends no mail", body = schemas::Refused),
    ),
)]
pub(super) async fn ask_for_reset(
    State(app): State<App>,
    ClientAddress(from): ClientAddress,
    Json(wish): Json<AskForReset>,
) -> Answer<Response> {
    let mailer = app.mailer.clone().ok_or_else(no_mail)?;
    app.limits.reset_of_address(from)?;
    let place = mailer.place().ok_or_else(|| {
        Refusal::new(Code::Overloaded, "too many mails wait to be sent; try again").retry_after_ms(10_000)
    })?;
    let sender = app.clone();
    app.tasks.spawn("password-reset", async move {
        match send_reset(&sender, &mailer, &wish.email).await {
            Ok(()) => {}
            Err(problem) => tracing::warn!(problem, "a reset of a password was not sent"),
        }
        drop(place);
    });
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Tokens that were sent before stay valid, so nobody can keep a mail from being of use.
async fn send_reset(app: &App, mailer: &Mailer, email: &str) -> Result<(), String> {
    let canonical = canonical_email(email).unwrap_or_else(|| email.to_owned());
    if app.limits.reset_of_account(&canonical).await.is_err() {
        return Ok(());
    }
    let found = app.directory.credentials(email, &email_forms(email)).await;
    let Some(found) = found.map_err(|error| error.to_string())? else { return Ok(()) };
    let account = found.account;
    let token = ResetToken::random();
    let lifetime = mailer.token_lifetime();
    let begun = app.directory.begin_reset(&account.id, token.digest(), lifetime).await;
    begun.map_err(|error| error.to_string())?;
    let lifetime = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
    let mail = PasswordReset {
        to: &account.email,
        name: &account.name,
        token: token.reveal(),
        expires_at: UnixMillis(UnixMillis::now().0.saturating_add(lifetime)),
    };
    mailer.send(&mail).await.map_err(|error| error.to_string())?;
    tracing::info!(user = %account.id, "password reset sent");
    Ok(())
}

#[utoipa::path(
    post, path = "/v1/auth/reset/confirm", tag = "people",
    summary = "Sets a new password by a token from a mail; ends all sign-ins of the account",
    security(()),
    request_body = Reset,
    responses(
        (status = 204, description = "Set. The token is spent; sign in with the new password"),
        (status = 400, description = "bad_message: the new password is too short, too long or too easy to guess", body = schemas::Refused),
        (status = 401, description = "unauthenticated: the token is unknown, spent or expired", body = schemas::Refused),
    ),
)]
pub(super) async fn reset(
    State(app): State<App>,
    ClientAddress(from): ClientAddress,
    Json(wish): Json<Reset>,
) -> Answer<Response> {
    let token = ResetToken::parse(&wish.token).ok_or_else(token_of_no_use)?.digest();
    let account = app.directory.reset_of(token).await?.ok_or_else(token_of_no_use)?;
    check_account_password(&wish.new_password, &account.email, &account.name)?;
    let new = app.passwords.hash(wish.new_password, Payer::Address(from)).await?;
    if !app.directory.finish_reset(token, &new).await? {
        return Err(token_of_no_use());
    }
    app.bus.tell_revoked().await;
    tracing::info!(user = %account.id, "password reset");
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn wrong_password() -> ApiError {
    ApiError::new(Code::BadPassword, "the current password is another one")
}

fn no_mail() -> ApiError {
    ApiError::new(Code::NotFound, "this gateway sends no mail, so it can't reset passwords")
}

fn token_of_no_use() -> ApiError {
    ApiError::new(Code::Unauthenticated, "the token is unknown, used or expired; ask for another one")
}
