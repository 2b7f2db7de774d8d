//! Passwords that a guesser tries first.

use zxcvbn::zxcvbn;

use super::canonical::canonical_password;
use super::password::check_password_rules;
use crate::config::Secret;
use crate::protocol::{Code, Refusal};

/// zxcvbn calls fewer guesses "very guessable".
const GUESSES_MIN: u64 = 1_000_000;
/// A longer password is judged by its beginning: the time grows with the square.
const JUDGED_CHARS: usize = 64;

/// Of new passwords of accounts: [`check_password_rules`], and neither a common one nor
/// one of the account's own names.
///
/// # Errors
/// A refusal that says which rule the password breaks.
pub fn check_account_password(password: &Secret, email: &str, name: &str) -> Result<(), Refusal> {
    check_password_rules(password)?;
    let typed = password.reveal();
    let text = canonical_password(typed).unwrap_or_else(|| typed.to_owned()).to_lowercase();
    let judged: String = text.chars().take(JUDGED_CHARS).collect();
    let local = email.split('@').next().unwrap_or_default();
    if zxcvbn(&judged, &[email, local, name]).guesses() < GUESSES_MIN {
        let message = "this password is too easy to guess: it is a common one, a pattern, or your own name";
        return Err(Refusal::new(Code::BadMessage, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(password: &str) -> bool {
        check_account_password(&Secret::new(password.to_owned()), "Ann.Lee@x.test", "Ann Lee Smith").is_err()
    }

    #[test]
    fn common_passwords_and_own_names_are_refused() {
        for password in [
            "password",
            "PASSWORD",
            "Password1",
            "password123",
            "12345678",
            "123456789012345",
            "87654321",
            "abcdefghij",
            "aaaaaaaa",
            "abababababab",
            "qwertyuiop",
            "iloveyou1!",
            "trustno1",
            "!!dragon99",
            "ann.lee@x.test",
            "Ann.Lee99",
            "ann lee smith",
            "2026Ann Lee Smith",
            "short",
        ] {
            assert!(refused(password), "{password}");
        }
    }

    #[test]
    fn other_passwords_are_accepted() {
        for password in [
            "correct horse",
            "open sesame",
            "draw-together",
            "another one",
            "long enough",
            "x7Kq-92vLm",
            "password of a castle",
            "ann has a horse",
            "\u{e4}\u{f6}\u{fc}\u{df}\u{e9}\u{e8}\u{ea}\u{e0}",
            "18446744073709551557",
        ] {
            assert!(!refused(password), "{password}");
        }
    }
}
