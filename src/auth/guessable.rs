//! Passwords that a guesser tries first.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::canonical::canonical_password;
use super::password::check_password_rules;
use crate::config::Secret;
use crate::protocol::{Code, Refusal};

/// Without lines that begin with #.
const LIST: &str = include_str!("common_passwords.txt");

static COMMON: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| LIST.lines().filter(|line| !line.starts_with('#')).collect());

/// Digits and signs that people add to a word to please such rules.
const ADDED_MAX: usize = 6;
/// A password of fewer different characters is a repetition.
const DIFFERENT_MIN: usize = 5;

/// Of new passwords of accounts: [`check_password_rules`], and neither a common one nor
/// one of the account's own names.
///
/// # Errors
/// A refusal that says which rule the password breaks.
pub fn check_account_password(password: &Secret, email: &str, name: &str) -> Result<(), Refusal> {
    check_password_rules(password)?;
    let typed = password.reveal();
    let text = canonical_password(typed).unwrap_or_else(|| typed.to_owned()).to_lowercase();
    if is_common(&text) {
        return Err(Refusal::new(Code::BadMessage, "this password is too common; take another one"));
    }
    if is_name(&text, email) || is_name(&text, name) {
        let message = "a password must not be made of the account's name or e-mail address";
        return Err(Refusal::new(Code::BadMessage, message));
    }
    Ok(())
}

fn is_common(text: &str) -> bool {
    let different: HashSet<char> = text.chars().collect();
    different.len() < DIFFERENT_MIN || is_listed(text) || is_sequence(text)
}

fn is_listed(text: &str) -> bool {
    let core = text.trim_matches(|c: char| !c.is_alphabetic());
    let added = text.chars().count() - core.chars().count();
    COMMON.contains(text) || added <= ADDED_MAX && COMMON.contains(core)
}

/// Each character follows the one before it, as in abcdefgh, 87654321 and 890123.
fn is_sequence(text: &str) -> bool {
    let follows = |first: char, second: char| match (first.to_digit(10), second.to_digit(10)) {
        (Some(first), Some(second)) => (first + 1) % 10 == second,
        _ => u32::from(first) + 1 == u32::from(second),
    };
    let next = || text.chars().zip(text.chars().skip(1));
    next().all(|(first, second)| follows(first, second))
        || next().all(|(first, second)| follows(second, first))
}

/// The whole name, or its part before the @, with a few digits or signs at most.
fn is_name(text: &str, name: &str) -> bool {
    let name = name.to_lowercase();
    let local = name.split('@').next().unwrap_or_default();
    [name.as_str(), local].into_iter().filter(|part| !part.is_empty()).any(|part| {
        let added = text.strip_prefix(part).or_else(|| text.strip_suffix(part));
        added.is_some_and(|added| {
            added.chars().count() <= ADDED_MAX && !added.chars().any(char::is_alphabetic)
        })
    })
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
            "Password2026!",
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
