//! Which web pages may talk to the gateway.
//!
//! Browsers send `Origin` and can't be made to lie about it. A missing Origin
//! is no browser and is allowed; a foreign, `null` or look-alike one is not.

use hyper::HeaderMap;
use hyper::header::{self, HeaderValue};

use super::host::HostPort;

/// `"self"` in the configuration: pages served by this gateway.
const SELF: &str = "self";

/// An exact allow-list.
#[derive(Debug, Clone)]
pub struct Origins {
    exact: Vec<String>,
    allow_self: bool,
}

/// An origin of RFC 6454 whose scheme is one that pages come by.
#[derive(Debug, PartialEq, Eq)]
struct WebOrigin {
    is_https: bool,
    host: String,
    port: u16,
}

impl Origins {
    pub fn new(allowed: &[String]) -> Self {
        let (own, exact): (Vec<_>, Vec<_>) = allowed.iter().cloned().partition(|origin| origin == SELF);
        Self { exact, allow_self: !own.is_empty() }
    }

    /// By the headers of a request. Those in which a balancer names the host that
    /// it was asked for must be gone by now if they are not from one.
    pub fn allow_request(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let origin = origins.next().map(HeaderValue::as_bytes);
        // Two of them could be read differently by somebody on the way.
        if origins.next().is_some() {
            return false;
        }
        let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
        self.allow(origin, [host, x_forwarded_host(headers), forwarded_host(headers)].into_iter().flatten())
    }

    /// `origin` is the header's raw bytes, `hosts` are the names of this gateway.
    pub fn allow<'a>(&self, origin: Option<&[u8]>, hosts: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let Some(origin) = origin else { return true };
        if self.exact.iter().any(|allowed| allowed.as_bytes() == origin) {
            return origin != b"null";
        }
        let Some(origin) = WebOrigin::parse(origin) else { return false };
        let is_listed = |allowed: &String| WebOrigin::parse(allowed.as_bytes()).as_ref() == Some(&origin);
        self.exact.iter().any(is_listed)
            || (self.allow_self && hosts.into_iter().any(|host| origin.is_at(host)))
    }
}

impl WebOrigin {
    fn parse(origin: &[u8]) -> Option<Self> {
        let (is_https, authority) = match origin.strip_prefix(b"https://") {
            Some(authority) => (true, authority),
            None => (false, origin.strip_prefix(b"http://")?),
        };
        let HostPort { host, port } = HostPort::parse(authority)?;
        Some(Self { is_https, host, port: port.unwrap_or(default_port(is_https)) })
    }

    /// The page came from the host (and port) that it now talks to. A host without a
    /// port was asked at the default one of the page's scheme: which one that was
    /// isn't seen behind a balancer.
    fn is_at(&self, host: &[u8]) -> bool {
        HostPort::parse(host).is_some_and(|HostPort { host, port }| {
            host == self.host && port.unwrap_or(default_port(self.is_https)) == self.port
        })
    }
}

fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

/// The last one: the client may have written those before it.
fn x_forwarded_host(headers: &HeaderMap) -> Option<&[u8]> {
    let last = headers.get_all("x-forwarded-host").iter().next_back()?;
    Some(last.to_str().ok()?.rsplit(',').next()?.trim().as_bytes())
}

/// Likewise, of RFC 7239.
fn forwarded_host(headers: &HeaderMap) -> Option<&[u8]> {
    let last = headers.get_all(header::FORWARDED).iter().next_back()?.to_str().ok()?.rsplit(',').next()?;
    let mut pairs = last.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, host) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("host"))?;
    Some(host.trim_matches('"').as_bytes())
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
        assert!(!origins().allow(Some(b"http://"), Some(b"".as_slice())));
        assert!(!origins().allow(Some(b"http://gate.example"), None));
    }

    #[test]
    fn one_origin_is_own_however_its_host_is_written() {
        for (origin, host, expected) in [
            ("https://example.org", "example.org:443", true),
            ("https://example.org:443", "example.org", true),
            ("http://example.org", "example.org:80", true),
            ("https://example.org", "EXAMPLE.org.", true),
            ("https://example.org.", "example.org", true),
            ("http://[::1]:8080", "[0:0:0:0:0:0:0:1]:8080", true),
            ("https://[::1]", "[::1]:443", true),
            ("https://example.org", "example.org:80", false),
            ("http://example.org", "example.org:443", false),
            ("https://example.org", "example.org:8443", false),
            ("https://example.org:8443", "example.org", false),
            ("http://[::1]", "[::2]", false),
            ("https://example.org.evil.test", "example.org", false),
            ("https://example.org", "example.org, evil.test", false),
            ("https://example.org:443:443", "example.org", false),
            ("https://example.org..", "example.org", false),
            ("ws://example.org", "example.org", false),
        ] {
            let allowed = origins().allow(Some(origin.as_bytes()), Some(host.as_bytes()));
            assert_eq!(allowed, expected, "{origin} at {host}");
        }
        assert!(origins().allow(Some(b"https://draw.example:443"), None), "listed without its port");
        assert!(!origins().allow(Some(b"http://draw.example:443"), None));
    }

    #[test]
    fn a_balancer_may_name_the_host_that_it_was_asked_for() {
        for (name, value, expected) in [
            ("x-forwarded-host", "example.org", true),
            ("x-forwarded-host", "example.org:443", true),
            ("x-forwarded-host", "evil.test, example.org", true),
            ("x-forwarded-host", "example.org, evil.test", false),
            ("x-forwarded-host", "", false),
            ("forwarded", "for=192.0.2.7;host=example.org;proto=https", true),
            ("forwarded", "host=evil.test, for=\"[::1]\"; Host=\"example.org:443\"", true),
            ("forwarded", "host=example.org, for=192.0.2.7", false),
            ("forwarded", "example.org", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("origin", HeaderValue::from_static("https://example.org"));
            headers.insert("host", HeaderValue::from_static("gateway:8080"));
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(origins().allow_request(&headers), expected, "{name}: {value}");
        }
    }

    #[test]
    fn self_counts_only_when_it_is_listed() {
        let strict = Origins::new(&["https://draw.example".to_owned()]);
        assert!(!strict.allow(Some(b"http://gate.example"), Some(b"gate.example".as_slice())));
    }
}
