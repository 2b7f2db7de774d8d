//! Which web pages may talk to the gateway.
//!
//! Browsers send `Origin` and can't be made to lie about it. A missing Origin
//! is no browser and is allowed; a foreign, `null` or look-alike one is not.

/// `"self"` in the configuration: pages served by this gateway.
const SELF: &str = "self";

/// An exact allow-list.
#[derive(Debug, Clone)]
pub struct Origins {
    exact: Vec<String>,
    allow_self: bool,
}

impl Origins {
    pub fn new(allowed: &[String]) -> Self {
        let (own, exact): (Vec<_>, Vec<_>) = allowed.iter().cloned().partition(|origin| origin == SELF);
        Self { exact, allow_self: !own.is_empty() }
    }

    /// `origin` and `host` are the headers' raw bytes.
    pub fn allow(&self, origin: Option<&[u8]>, host: Option<&[u8]>) -> bool {
        let Some(origin) = origin else { return true };
        if origin == b"null" {
            return false;
        }
        self.exact.iter().any(|allowed| allowed.as_bytes() == origin)
            || (self.allow_self && is_self(origin, host))
    }
}

/// The page came from the host (and port) that it now talks to.
fn is_self(origin: &[u8], host: Option<&[u8]>) -> bool {
    let authority = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"));
    match (authority, host) {
        (Some(authority), Some(host)) => !host.is_empty() && authority.eq_ignore_ascii_case(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins() -> Origins {
        Origins::new(&["self".to_owned(), "https://draw.example".to_owned()])
    }

    #[test]
    fn own_pages_listed_pages_and_programs_may_connect() {
        let host = Some(b"gate.example:8080".as_slice());
        assert!(origins().allow(None, host));
        assert!(origins().allow(Some(b"https://draw.example"), host));
        assert!(origins().allow(Some(b"http://gate.example:8080"), host));
        assert!(origins().allow(Some(b"http://GATE.example:8080"), host));
    }

    #[test]
    fn foreign_null_and_look_alike_origins_may_not() {
        let host = Some(b"gate.example".as_slice());
        let hostile: [&[u8]; 12] = [
            b"null",
            b"",
            b"self",
            b"https://",
            b"https://draw.example.evil.test",
            b"https://draw.example:444",
            b"http://draw.example",
            b"https://evil.test/https://draw.example",
            b"https://gate.example.evil.test",
            b"https://gate.example/",
            b"https://user@gate.example",
            b"file://gate.example",
        ];
        for origin in hostile {
            assert!(!origins().allow(Some(origin), host), "{}", String::from_utf8_lossy(origin));
        }
        assert!(!origins().allow(Some(b"http://"), Some(b"")));
        assert!(!origins().allow(Some(b"http://gate.example"), None));
    }

    #[test]
    fn self_counts_only_when_it_is_listed() {
        let strict = Origins::new(&["https://draw.example".to_owned()]);
        assert!(!strict.allow(Some(b"http://gate.example"), Some(b"gate.example")));
    }
}
