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

/// The general category Zs.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}')
}

#[cfg(test)]
mod tests {
    use super::*;

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
