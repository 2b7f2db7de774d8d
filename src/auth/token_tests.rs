use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::*;
use crate::config::{Issuable, SigningKey};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &[u8] = b"fedcba9876543210fedcba9876543210";

/// A key pair made for these tests only.
const ED_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIPpxj57E64KJNqLf3PSGSEm4wcTksmil0F9QeXLum32s\n-----END PRIVATE KEY-----\n";
const ED_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA9BzpTKWgB45JM5XdMh5PtcorwR+p4imGXO/MQGkC//k=\n-----END PUBLIC KEY-----\n";

struct KeyFiles(std::path::PathBuf);

impl KeyFiles {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("roomgate-keys-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn key(&self, kid: &str, alg: config::Algorithm, bytes: &[u8]) -> SigningKey {
        let file = self.0.join(kid);
        std::fs::write(&file, bytes).unwrap();
        SigningKey { kid: kid.to_owned(), alg, file, may_issue: vec![Issuable::User, Issuable::Server] }
    }
}

impl Drop for KeyFiles {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn auth(keys: Vec<SigningKey>) -> config::Auth {
    config::Auth {
        issuer: "https://issuer.test".to_owned(),
        audience: "roomgate".to_owned(),
        keys,
        access_token: Duration::from_secs(900),
        refresh_token: Duration::from_secs(3600),
        token_max: Duration::from_secs(1 << 60),
    }
}

fn verifier() -> Verifier {
    let files = KeyFiles::new();
    let keys = vec![
        files.key("ed", config::Algorithm::EdDSA, ED_PRIVATE.as_bytes()),
        files.key("hs", config::Algorithm::HS256, SECRET),
    ];
    Verifier::load(&auth(keys)).unwrap()
}

fn in_seconds(seconds: i64) -> i64 {
    UnixMillis::now().0 / 1000 + seconds
}

fn body() -> Value {
    json!({"iss": "https://issuer.test", "aud": "roomgate", "sub": "alice", "exp": in_seconds(60)})
}

fn with(change: Value) -> Value {
    let mut body = body();
    for (key, value) in change.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn without(claim: &str) -> Value {
    let mut body = body();
    body.as_object_mut().unwrap().remove(claim);
    body
}

fn sign(body: &Value) -> String {
    sign_as(Algorithm::HS256, Some("hs"), &EncodingKey::from_secret(SECRET), body)
}

fn sign_as(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, body: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, body, key).unwrap()
}

#[track_caller]
fn assert_unauthenticated(token: &str) {
    assert_eq!(verifier().verify(token).unwrap_err().code, Code::Unauthenticated);
}

#[test]
fn an_issued_token_is_accepted_with_what_it_says() {
    let verifier = verifier();
    let signer = verifier.signer(Duration::from_secs(900)).unwrap();
    let alice = UserId::new("alice").unwrap();
    let issued = signer.issue(&alice, Some("Alice A."), Authority::Member).unwrap();
    let claims = verifier.verify(&issued.token).unwrap();
    assert_eq!(
        (claims.user, &*claims.name, claims.authority),
        (alice.clone(), "Alice A.", Authority::Member)
    );
    assert_eq!(claims.expires_at, issued.expires_at);

    let server = signer.issue(&alice, None, Authority::Server).unwrap();
    let claims = verifier.verify(&server.token).unwrap();
    assert_eq!((&*claims.name, claims.authority), ("alice", Authority::Server));
}

#[test]
fn both_live_keys_of_a_rotation_are_accepted() {
    let ed = EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap();
    assert!(verifier().verify(&sign(&body())).is_ok());
    assert!(verifier().verify(&sign_as(Algorithm::EdDSA, Some("ed"), &ed, &body())).is_ok());
}

#[test]
fn a_retired_key_is_refused_after_a_reload() {
    let verifier = verifier();
    let token = sign(&body());
    assert!(verifier.verify(&token).is_ok());
    let files = KeyFiles::new();
    let only_ed = vec![files.key("ed", config::Algorithm::EdDSA, ED_PUBLIC.as_bytes())];
    assert!(verifier.replace(Rules::load(&auth(only_ed.clone())).unwrap()), "other keys");
    assert!(!verifier.replace(Rules::load(&auth(only_ed)).unwrap()), "the same");
    assert!(verifier.verify(&token).is_err());
    assert!(verifier.signer(Duration::from_secs(1)).is_err(), "a public key can't sign");
}

#[test]
fn a_token_lives_no_longer_than_the_configuration_allows() {
    let files = KeyFiles::new();
    let key = files.key("hs", config::Algorithm::HS256, SECRET);
    let rules = config::Auth { token_max: Duration::from_secs(3600), ..auth(vec![key]) };
    let verifier = Verifier::load(&rules).unwrap();
    for (iat, exp, accepted) in [
        (json!(null), in_seconds(3600), true),
        (json!(null), in_seconds(3700), false),
        (json!(in_seconds(-1800)), in_seconds(1800), true),
        (json!(in_seconds(-1900)), in_seconds(1800), false),
        (json!(in_seconds(3)), in_seconds(3700), false),
    ] {
        let token = sign(&with(json!({"iat": iat, "exp": exp})));
        assert_eq!(verifier.verify(&token).is_ok(), accepted, "{iat} {exp}");
    }
}

#[test]
fn a_key_issues_only_what_its_configuration_allows() {
    let files = KeyFiles::new();
    let tokens = [body(), with(json!({"scope": "room server"}))].map(|body| sign(&body));
    for (may_issue, accepted) in [
        (vec![Issuable::User, Issuable::Server], [true, true]),
        (vec![Issuable::User], [true, false]),
        (vec![Issuable::Server], [false, true]),
    ] {
        let mut key = files.key("hs", config::Algorithm::HS256, SECRET);
        key.may_issue = may_issue;
        let verifier = Verifier::load(&auth(vec![key])).unwrap();
        let verified = tokens.each_ref().map(|token| verifier.verify(token).is_ok());
        assert_eq!(verified, accepted);
        let Ok(signer) = verifier.signer(Duration::from_secs(1)) else {
            assert!(!accepted[0], "a node signs the tokens of users");
            continue;
        };
        let alice = UserId::new("alice").unwrap();
        let issued = [Authority::Member, Authority::Server].map(|a| signer.issue(&alice, None, a).is_ok());
        assert_eq!(issued, accepted);
    }
    let mut key = files.key("hs", config::Algorithm::HS256, SECRET);
    key.may_issue.clear();
    assert!(matches!(Keys::load(&[key]), Err(KeyError::MayIssueNothing { .. })));
}

#[test]
fn unknown_and_missing_kids_are_refused() {
    let key = EncodingKey::from_secret(SECRET);
    assert_unauthenticated(&sign_as(Algorithm::HS256, Some("other"), &key, &body()));
    assert_unauthenticated(&sign_as(Algorithm::HS256, None, &key, &body()));
}

#[test]
fn alg_none_is_refused() {
    for alg in ["none", "None", "NONE", ""] {
        let header = json!({"alg": alg, "typ": "JWT", "kid": "hs"}).to_string();
        let unsigned = format!("{}.{}.", BASE64.encode(header), BASE64.encode(body().to_string()));
        assert_unauthenticated(&unsigned);
    }
}

#[test]
fn swapped_algorithms_are_refused() {
    // The classic: the public key's text used as an HMAC secret.
    let public_as_secret = EncodingKey::from_secret(ED_PUBLIC.as_bytes());
    assert_unauthenticated(&sign_as(Algorithm::HS256, Some("ed"), &public_as_secret, &body()));
    let secret = EncodingKey::from_secret(SECRET);
    assert_unauthenticated(&sign_as(Algorithm::HS512, Some("hs"), &secret, &body()));
    assert_unauthenticated(&sign_as(Algorithm::HS256, Some("ed"), &secret, &body()));
    let ed = EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap();
    assert_unauthenticated(&sign_as(Algorithm::EdDSA, Some("hs"), &ed, &body()));
}

#[test]
fn missing_claims_are_refused() {
    for claim in ["exp", "aud", "iss", "sub"] {
        assert_unauthenticated(&sign(&without(claim)));
    }
}

#[test]
fn malformed_claims_are_refused() {
    let later = in_seconds(60);
    let hostile = [
        json!({"exp": later.to_string()}),
        json!({"exp": null}),
        json!({"exp": -1}),
        json!({"exp": [later]}),
        json!({"aud": "another"}),
        json!({"aud": []}),
        json!({"aud": 7}),
        json!({"iss": "https://issuer.test.evil"}),
        json!({"iss": null}),
        json!({"sub": ""}),
        json!({"sub": 7}),
        json!({"sub": "a b"}),
        json!({"sub": "a".repeat(65)}),
        json!({"nbf": later}),
        json!({"name": {"a": 1}}),
        json!({"scope": ["server"]}),
    ];
    for change in hostile {
        let refusal = verifier().verify(&sign(&with(change.clone()))).expect_err(&change.to_string());
        assert_eq!(refusal.code, Code::Unauthenticated, "{change}");
    }
}

#[test]
fn times_of_any_number_are_accepted() {
    let later = in_seconds(60);
    // Of a JSON text, so that a number keeps its form.
    let signed = |times: String| {
        let body =
            format!("{{\"iss\":\"https://issuer.test\",\"aud\":\"roomgate\",\"sub\":\"alice\",{times}}}");
        sign(&serde_json::from_str(&body).unwrap())
    };
    for (times, expires_at) in [
        (format!("\"exp\":{later}.25"), later * 1000 + 250),
        (format!("\"exp\":{later}.0,\"iat\":1.5,\"nbf\":0.1"), later * 1000),
        (format!("\"exp\":{later},\"iat\":-1,\"nbf\":-1.5"), later * 1000),
        (format!("\"exp\":{later},\"iat\":null,\"nbf\":null"), later * 1000),
        ("\"exp\":4.2e9".to_owned(), 4_200_000_000_000),
        ("\"exp\":1e20".to_owned(), LATEST_TIME as i64 * 1000),
        ("\"exp\":1e308".to_owned(), LATEST_TIME as i64 * 1000),
    ] {
        let claims = verifier().verify(&signed(times.clone())).expect(&times);
        assert_eq!(claims.expires_at, UnixMillis(expires_at), "{times}");
    }
    let claims = verifier().verify(&signed(format!("\"exp\":{later},\"iat\":7.9"))).unwrap();
    assert_eq!(claims.issued_at, Some(UnixMillis(7000)), "a sign-out in that second ends it");
    for (times, code) in [
        (format!("\"exp\":{}.5", in_seconds(-7)), Code::TokenExpired),
        ("\"exp\":1.7e9".to_owned(), Code::TokenExpired),
        ("\"exp\":0".to_owned(), Code::TokenExpired),
        ("\"exp\":-0.5".to_owned(), Code::Unauthenticated),
        (format!("\"exp\":{later},\"nbf\":{later}.5"), Code::Unauthenticated),
        (format!("\"exp\":{later},\"nbf\":1e300"), Code::Unauthenticated),
        (format!("\"exp\":{later},\"nbf\":\"0\""), Code::Unauthenticated),
        (format!("\"exp\":{later},\"iat\":\"0\""), Code::Unauthenticated),
        (format!("\"exp\":{later},\"iat\":{later}"), Code::Unauthenticated),
        ("\"exp\":\"NaN\"".to_owned(), Code::Unauthenticated),
        ("\"exp\":true".to_owned(), Code::Unauthenticated),
    ] {
        assert_eq!(verifier().verify(&signed(times.clone())).unwrap_err().code, code, "{times}");
    }
}

/// Signed with a header of this text.
fn sign_with_header(header: &str) -> String {
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(body().to_string()));
    let key = EncodingKey::from_secret(SECRET);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[test]
fn a_header_that_asks_for_an_extension_is_refused() {
    let header = |more: &str| format!("{{\"alg\":\"HS256\",\"kid\":\"hs\"{more}}}");
    for more in [
        "",
        ",\"typ\":\"JWT\"",
        ",\"typ\":\"at+jwt\"",
        ",\"typ\":\"application/at+jwt\"",
        ",\"b64\":true",
        ",\"x-own\":{\"a\":[1]}",
    ] {
        assert!(verifier().verify(&sign_with_header(&header(more))).is_ok(), "{more}");
    }
    for more in [
        ",\"crit\":[\"exp\"],\"exp\":1",
        ",\"crit\":[\"http://example.invalid/UNDEFINED\"],\"http://example.invalid/UNDEFINED\":true",
        ",\"crit\":[\"b64\"],\"b64\":true",
        ",\"crit\":[\"b64\"],\"b64\":false",
        ",\"crit\":[\"alg\"]",
        ",\"crit\":[\"absent\"]",
        ",\"crit\":[]",
        ",\"crit\":null",
        ",\"crit\":\"exp\"",
        ",\"crit\":{}",
        ",\"b64\":false",
        ",\"kid\":\"hs\"",
        ",\"alg\":\"HS256\"",
        ",\"x\":1,\"x\":2",
        ",\"typ\":7",
    ] {
        assert_unauthenticated(&sign_with_header(&header(more)));
    }
}

#[test]
fn an_audience_may_be_one_of_several() {
    for (aud, accepted) in [
        (json!(["roomgate"]), true),
        (json!(["another", "roomgate"]), true),
        (json!(["another"]), false),
        (json!(["roomgate", 7]), false),
    ] {
        assert_eq!(verifier().verify(&sign(&with(json!({"aud": aud})))).is_ok(), accepted, "{aud}");
    }
}

#[test]
fn an_expired_token_says_so_but_a_forged_one_never_does() {
    let stale = with(json!({"exp": in_seconds(-31)}));
    assert_eq!(verifier().verify(&sign(&stale)).unwrap_err().code, Code::TokenExpired);
    let forged = sign_as(Algorithm::HS256, Some("hs"), &EncodingKey::from_secret(OTHER_SECRET), &stale);
    assert_unauthenticated(&forged);
}

#[test]
fn tampered_truncated_and_huge_tokens_are_refused() {
    let token = sign(&body());
    let parts: Vec<&str> = token.split('.').collect();
    let other = BASE64.encode(with(json!({"sub": "mallory"})).to_string());
    assert_unauthenticated(&format!("{}.{other}.{}", parts[0], parts[2]));
    assert_unauthenticated(&format!("{}.{}.", parts[0], parts[1]));
    assert_unauthenticated(&format!("{}.{}", parts[0], parts[1]));
    for text in ["", ".", "..", "…", &"a".repeat(1 << 20), &format!("{token} ")] {
        assert_unauthenticated(text);
    }
    assert_unauthenticated(&sign(&with(json!({"name": "n".repeat(TOKEN_MAX_BYTES)}))));
}

#[test]
fn an_expiry_beyond_all_calendars_doesnt_overflow() {
    let claims = verifier().verify(&sign(&with(json!({"exp": u64::MAX})))).unwrap();
    assert_eq!(claims.expires_at, UnixMillis(LATEST_TIME as i64 * 1000));
}

#[test]
fn weak_and_ambiguous_key_sets_are_refused_at_boot() {
    let files = KeyFiles::new();
    let short = files.key("short", config::Algorithm::HS256, b"short");
    assert!(matches!(Keys::load(&[short]), Err(KeyError::ShortSecret { .. })));
    let key = files.key("k", config::Algorithm::HS256, SECRET);
    assert!(matches!(Keys::load(&[key.clone(), key]), Err(KeyError::DuplicateKid { .. })));
    let not_ed = files.key("n", config::Algorithm::EdDSA, SECRET);
    assert!(matches!(Keys::load(&[not_ed]), Err(KeyError::NotEd25519 { .. })));
    assert!(matches!(Keys::load(&[]), Err(KeyError::None)));
}

#[test]
fn a_key_that_others_may_read_or_guess_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let files = KeyFiles::new();
    let weaknesses = |bytes: &[u8], mode: u32| {
        let key = files.key("k", config::Algorithm::HS256, bytes);
        std::fs::set_permissions(&key.file, std::fs::Permissions::from_mode(mode)).unwrap();
        crate::auth::key_weaknesses(&key).len()
    };
    for _ in 0..100 {
        let bytes: [u8; 32] = rand::random();
        assert_eq!(weaknesses(&bytes, 0o600), 0);
        let hex: String = bytes[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(weaknesses(hex.as_bytes(), 0o640), 0, "{hex}");
    }
    assert_eq!(weaknesses(&[0; 64], 0o600), 1);
    assert_eq!(weaknesses(b"secretsecretsecretsecretsecretsecret", 0o600), 1);
    assert_eq!(weaknesses(b"secretsecretsecretsecretsecretsecret", 0o644), 2);
}
