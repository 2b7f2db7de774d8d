//! RFC 7396 merge patches, on text: what a patch doesn't name stays as it was
//! written, and what it brings goes in as it was sent.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::protocol::{push_string, strict};

/// `target` changed by `patch`, both objects as JSON text.
pub fn merge_patch(target: &str, patch: &str) -> serde_json::Result<String> {
    let mut out = String::with_capacity(target.len() + patch.len());
    merge(&mut out, target, patch)?;
    Ok(out)
}

fn merge(out: &mut String, target: &str, patch: &str) -> serde_json::Result<()> {
    let mut patch: BTreeMap<Cow<'_, str>, &str> =
        strict::entries(patch)?.into_iter().map(|(key, value)| (key, value.get())).collect();
    let mut object = Members { out, first: true };
    object.out.push('{');
    if target.starts_with('{') {
        for (key, old) in strict::entries(target)? {
            match patch.remove(&key) {
                None => object.member(&key, old.get()),
                Some(new) => object.change(&key, old.get(), new)?,
            }
        }
    }
    for (key, new) in patch {
        object.change(&key, "", new)?;
    }
    object.out.push('}');
    Ok(())
}

struct Members<'o> {
    out: &'o mut String,
    first: bool,
}

impl Members<'_> {
    fn change(&mut self, key: &str, old: &str, new: &str) -> serde_json::Result<()> {
        if new == "null" {
            return Ok(());
        }
        if new.starts_with('{') {
            self.key(key);
            return merge(self.out, old, new);
        }
        self.member(key, new);
        Ok(())
    }

    fn member(&mut self, key: &str, value: &str) {
        self.key(key);
        self.out.push_str(value);
    }

    fn key(&mut self, key: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(',');
        }
        push_string(self.out, key);
        self.out.push(':');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn merged(target: &str, patch: &str) -> Value {
        serde_json::from_str(&merge_patch(target, patch).unwrap()).unwrap()
    }

    /// The examples of RFC 7396, appendix A, that have an object on both sides.
    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let expected: Value = serde_json::from_str(result).unwrap();
            assert_eq!(merged(target, patch), expected, "{target} {patch}");
        }
    }

    #[test]
    fn untouched_members_stay_as_they_were_written() {
        let merged =
            merge_patch(r#"{"z":1.50,"k\u0022":-18446744073709551615,"a":1}"#, r#"{"a":2e0,"b":{"c":1.0}}"#);
        assert_eq!(merged.unwrap(), r#"{"z":1.50,"k\"":-18446744073709551615,"a":2e0,"b":{"c":1.0}}"#);
    }
}
