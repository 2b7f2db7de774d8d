//! The files of `deploy/patroni`, with the words between @ filled in.

use std::path::Path;

/// `values` are pairs of a word and what stands for it. A word that is left
/// over is a mistake, in the file or here.
pub fn fill(file: &str, values: &[(String, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/patroni").join(file);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (word, value) in values {
        text = text.replace(&format!("@{word}@"), value);
    }
    let is_comment = |line: &&str| line.trim_start().starts_with('#') || line.starts_with("--");
    let left = text.lines().filter(|line| !is_comment(line)).find(|line| line.contains('@'));
    assert_eq!(left, None, "{file}: a word is not filled in");
    text
}
