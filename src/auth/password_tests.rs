use std::time::Instant;

use super::*;

const HERE: Payer<'_> = Payer::Address(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

fn passwords(threads: usize) -> Passwords {
    Passwords::new(threads, Box::new(|_| Ok(())))
}

#[tokio::test]
async fn only_the_right_password_opens() {
    let passwords = passwords(2);
    let stored = passwords.hash(secret("correct horse"), HERE).await.unwrap();
    assert!(stored.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    let shown = async |text, stored| passwords.verify(secret(text), stored, HERE).await.unwrap();
    assert_eq!(shown("correct horse", Some(stored.clone())).await, Match::Right);
    assert_eq!(shown("correct horsf", Some(stored)).await, Match::Wrong);
    assert_eq!(shown("nobody's password", None).await, Match::Wrong);
}

#[tokio::test]
async fn a_password_opens_in_every_form_and_old_hashes_do() {
    let passwords = passwords(1);
    let shown = async |text, stored: &PasswordHash| {
        passwords.verify(secret(text), Some(stored.clone()), HERE).await.unwrap()
    };
    let (composed, decomposed) = ("pr\u{e9}sident\u{a0}2", "pre\u{301}sident 2");
    for (typed, other) in [(composed, decomposed), (decomposed, composed)] {
        let stored = passwords.hash(secret(typed), HERE).await.unwrap();
        assert_eq!([shown(typed, &stored).await, shown(other, &stored).await], [Match::Right; 2]);
        assert_eq!(shown("president 2", &stored).await, Match::Wrong);
    }
    // Older hashes are of the bytes as they were typed.
    for typed in [composed, decomposed, "tab\tulator", "short"] {
        let stored = hash(typed.as_bytes());
        let is_canonical = canonical_password(typed).is_none_or(|canonical| canonical == typed);
        let expected = if is_canonical { Match::Right } else { Match::Outdated };
        assert_eq!(shown(typed, &stored).await, expected, "{typed:?}");
    }
}

#[tokio::test]
async fn an_unknown_user_takes_as_long_as_a_wrong_password() {
    let passwords = passwords(1);
    let stored = passwords.hash(secret("correct horse"), HERE).await.unwrap();
    let mut known = Duration::MAX;
    let mut unknown = Duration::MAX;
    let is_alike = |known: Duration, unknown: Duration| {
        (0.5..2.0).contains(&(known.as_secs_f64() / unknown.as_secs_f64()))
    };
    // The least of many: other work of the machine only adds to it.
    for round in 0..40 {
        if round >= 5 && is_alike(known, unknown) {
            break;
        }
        let start = Instant::now();
        passwords.verify(secret("wrong horse"), Some(stored.clone()), HERE).await.unwrap();
        known = known.min(start.elapsed());
        let start = Instant::now();
        passwords.verify(secret("wrong horse"), None, HERE).await.unwrap();
        unknown = unknown.min(start.elapsed());
    }
    assert!(is_alike(known, unknown), "known {known:?}, unknown {unknown:?}");
}

#[tokio::test]
async fn a_flood_is_shed_instead_of_queued_without_end() {
    let passwords = passwords(1);
    let calls = (0..WAITING_PER_THREAD + 20).map(|_| passwords.verify(secret("wrong horse"), None, HERE));
    let answers = futures_util::future::join_all(calls).await;
    let shed = answers.iter().filter(|answer| matches!(answer, Err(r) if r.code == Code::Overloaded)).count();
    assert!(shed >= 19, "{shed} of {} were shed", answers.len());
    assert!(answers.iter().any(Result::is_ok));
    assert!(passwords.verify(secret("wrong horse"), None, HERE).await.is_ok(), "it works again afterwards");
}

#[tokio::test]
async fn imported_hashes_open_to_their_password_and_mistakes_to_none() {
    let passwords = passwords(1);
    // PHP's, Python's and this crate's: "correct horse", cost 4.
    let made = bcrypt::hash("correct horse", 4).unwrap();
    for kind in ["$2a$", "$2b$", "$2y$"] {
        let stored = PasswordHash::new(made.replacen("$2b$", kind, 1));
        assert!(is_imported(&stored));
        let right = passwords.verify(secret("correct horse"), Some(stored.clone()), HERE).await.unwrap();
        let wrong = passwords.verify(secret("correct horsf"), Some(stored), HERE).await.unwrap();
        assert_eq!((right, wrong), (Match::Outdated, Match::Wrong), "{kind}");
    }
    for broken in [made.replacen("$04$", "$31$", 1), made[..20].to_owned(), "$2b$".to_owned()] {
        let stored = Some(PasswordHash::new(broken));
        assert_eq!(passwords.verify(secret("correct horse"), stored, HERE).await.unwrap(), Match::Wrong);
    }
    assert!(!is_imported(&hash(b"correct horse")));
}

#[test]
fn passwords_have_8_to_128_characters() {
    assert!(check_password_rules(&secret("1234567")).is_err());
    assert!(check_password_rules(&secret("12345678")).is_ok());
    assert!(check_password_rules(&secret(&"é".repeat(128))).is_ok());
    assert!(check_password_rules(&secret(&"é".repeat(129))).is_err());
    // In their one form.
    assert!(check_password_rules(&secret(&"e\u{301}".repeat(128))).is_ok());
    assert!(check_password_rules(&secret(&"e\u{301}".repeat(7))).is_err());
    assert!(check_password_rules(&secret("tab\tulator")).is_err());
    assert!(may_be_password(&secret(&"e\u{301}".repeat(128))));
    assert!(!may_be_password(&secret(&"e\u{301}".repeat(129))));
}

#[tokio::test]
async fn rooms_take_no_place_of_sign_ins_and_a_user_has_a_share() {
    let passwords = passwords(1);
    let [ann, bob] = ["ann", "bob"].map(|name| UserId::new(name).unwrap());
    let floods = (0..50).map(|_| passwords.hash(secret("a new password"), Payer::User(&ann)));
    let others = [
        passwords.verify(secret("wrong horse"), None, HERE),
        passwords.verify(secret("wrong horse"), None, Payer::User(&bob)),
    ];
    let (floods, others) = futures_util::future::join(
        futures_util::future::join_all(floods),
        futures_util::future::join_all(others),
    )
    .await;
    assert!(others.iter().all(Result::is_ok), "{others:?}");
    let done = floods.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(done, SHARE_OF_USER, "the others of the same user are shed");
}

#[tokio::test]
async fn a_payer_without_a_budget_has_no_hash() {
    let refusal = || Refusal::new(Code::RateLimited, "no more");
    let budget = move |payer: Payer<'_>| match payer {
        Payer::User(_) => Err(refusal()),
        Payer::Address(_) => Ok(()),
    };
    let passwords = Passwords::new(1, Box::new(budget));
    let ann = UserId::new("ann").unwrap();
    let refused = [
        passwords.hash(secret("a new password"), Payer::User(&ann)).await.map(drop),
        passwords.verify(secret("a new password"), None, Payer::User(&ann)).await.map(drop),
    ];
    assert!(refused.iter().all(|answer| answer.as_ref().is_err_and(|r| r.code == Code::RateLimited)));
    assert!(passwords.verify(secret("a new password"), None, HERE).await.is_ok());
}
