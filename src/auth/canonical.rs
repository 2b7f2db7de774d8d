//! One form of a text that can be typed in several forms: two keyboards write the
//! same letter in different code points.

use unicode_normalization::UnicodeNormalization;

/// A password by the profile OpaqueString of RFC 8265: all spaces are U+0020, the rest
/// is composed (NFC), and letters keep their case. `None` for control characters,
/// which some keyboards can't write. Unassigned code points are accepted, so that a
/// letter of a newer Unicode does not depend on the version of a table here.
pub fn canonical_password(typed: &str) -> Option<String> {
    if typed.chars().any(char::is_control) {
        return None;
    }
    Some(typed.chars().map(|c| if is_space(c) { ' ' } else { c }).nfc().collect())
}

/// The form (NFD) in which some keyboards write.
pub fn decomposed(text: &str) -> String {
    text.nfd().collect()
}

/// An e-mail address in its one form: composed and in lower case, its domain in
/// Unicode. `None` if its domain can't be one.
pub fn canonical_email(typed: &str) -> Option<String> {
    let (local, domain) = typed.split_once('@')?;
    let (domain, valid) = idna::domain_to_unicode(domain);
    let local: String = local.nfc().flat_map(char::to_lowercase).nfc().collect();
    valid.ok().map(|()| format!("{local}@{domain}"))
}

/// In lower case, the forms in which an older account may have the address, best
/// first.
pub fn email_forms(typed: &str) -> Vec<String> {
    let mut forms = vec![typed.to_lowercase()];
    if let Some(canonical) = canonical_email(typed) {
        let decomposed = canonical.nfd().collect();
        let ascii = canonical
            .split_once('@')
            .and_then(|(local, domain)| Some(format!("{local}@{}", idna::domain_to_ascii(domain).ok()?)));
        forms.push(canonical);
        forms.extend(ascii);
        forms.push(decomposed);
    }
    forms
}

/// The general category Zs.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_has_one_form_whatever_keyboard_wrote_it() {
        for (typed, canonical) in [
            ("Ann@Example.TEST", "ann@example.test"),
            ("a+b@x", "a+b@x"),
            ("Rene\u{301}@x.test", "ren\u{e9}@x.test"),
            ("REN\u{c9}@x.test", "ren\u{e9}@x.test"),
            ("a@M\u{dc}NCHEN.test", "a@m\u{fc}nchen.test"),
            ("a@mu\u{308}nchen.test", "a@m\u{fc}nchen.test"),
            ("a@xn--mnchen-3ya.test", "a@m\u{fc}nchen.test"),
            ("a@\u{ff45}xample\u{3002}test", "a@example.test"),
        ] {
            assert_eq!(canonical_email(typed).as_deref(), Some(canonical), "{typed:?}");
            assert_eq!(canonical_email(canonical).as_deref(), Some(canonical), "{canonical:?}");
            assert!(email_forms(typed).contains(&canonical.to_owned()), "{typed:?}");
        }
        let same = email_forms("a@m\u{fc}nchen.test");
        for stored in ["a@xn--mnchen-3ya.test", "a@mu\u{308}nchen.test"] {
            assert!(same.contains(&stored.to_owned()), "{same:?}");
        }
        for typed in ["", "a", "a@xn--\u{fc}.test", "a@xn--0.test"] {
            assert_eq!(canonical_email(typed), None, "{typed:?}");
        }
    }

    #[test]
    fn a_password_has_one_form_whatever_keyboard_wrote_it() {
        for (typed, canonical) in [
            ("p\u{e4}ssword", "p\u{e4}ssword"),
            ("pa\u{308}ssword", "p\u{e4}ssword"),
            // Hangul, an angstrom sign, and marks in another order.
            ("\u{1100}\u{1161}\u{11a8}", "\u{ac01}"),
            ("\u{212b}", "\u{c5}"),
            ("q\u{307}\u{323}", "q\u{323}\u{307}"),
            ("a\u{a0}b\u{2003}c\u{202f}d\u{205f}e\u{3000}f\u{1680}g", "a b c d e f g"),
            ("  Case  KEPT ", "  Case  KEPT "),
            // Compatibility forms stay apart: the profile maps no widths.
            ("\u{ff21}\u{fb01}", "\u{ff21}\u{fb01}"),
            ("\u{1f980}\u{200d}\u{1f980}", "\u{1f980}\u{200d}\u{1f980}"),
            ("", ""),
        ] {
            assert_eq!(canonical_password(typed).as_deref(), Some(canonical), "{typed:?}");
            assert_eq!(canonical_password(canonical).as_deref(), Some(canonical), "{canonical:?}");
        }
        for typed in ["a\tb", "a\nb", "a\0b", "a\u{7f}b", "a\u{85}b", "\u{1b}[31m"] {
            assert_eq!(canonical_password(typed), None, "{typed:?}");
        }
    }
}
