//! `host[:port]`, as the headers `Host` and `Origin` write it. Pure.

use std::net::Ipv6Addr;

/// Equal where it names the same: without regard to case, a dot at the name's end,
/// or how an IPv6 address is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: Option<u16>,
}

impl HostPort {
    /// RFC 3986, 3.2.2 and 3.2.3. None if it is something else, also if it is empty.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), port)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                (name(&text[..end])?, &text[end..])
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        Some(Self { host, port })
    }
}

/// A name, or an IPv4 address.
fn name(text: &str) -> Option<String> {
    const MARKS: &[u8] = b"-._~!$&'()*+,;=%";
    let name = text.strip_suffix('.').unwrap_or(text);
    let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || MARKS.contains(&byte));
    (valid && !name.is_empty()).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_is_equal_however_it_is_written() {
        for (text, host, port) in [
            ("example.org", "example.org", None),
            ("EXAMPLE.org.:", "example.org", None),
            ("example.org:443", "example.org", Some(443)),
            ("a_b-c.test:00080", "a_b-c.test", Some(80)),
            ("192.0.2.7:1", "192.0.2.7", Some(1)),
            ("[::1]", "[::1]", None),
            ("[0:0:0:0:0:0:0:1]:8080", "[::1]", Some(8080)),
            ("[2001:DB8::7]", "[2001:db8::7]", None),
        ] {
            let parsed = HostPort::parse(text.as_bytes());
            assert_eq!(parsed, Some(HostPort { host: host.to_owned(), port }), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "", ".", ":80", "a b", "a/b", "a\\b", "u@h", "a:b", "a:1:2", "::1", "[::1", "[x]", "[::1]x",
            "a:65536", "a:-1", "a:+1", "ä.test", "a\tb", "a?b", "a#b", "<a>",
        ] {
            assert_eq!(HostPort::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(HostPort::parse(b"\xff.test"), None);
    }
}
