//! From an HTTP request to a session: what is checked before the upgrade.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::Instrument;

use super::conversation::{self, Arrival};
use super::dialect::Dialect;
use super::{ClientIo, Sessions, Shared, echo, log_span};
use crate::ids::SessionId;
use crate::limits::ConnectionPlace;
use crate::protocol::{Code, Refusal};
use crate::tasks::Tasks;

const SUBPROTOCOL: &str = "roomgate.v1";
const BEARER: &str = "bearer.";

/// An upgrade that was refused, before any WebSocket exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeRefusal {
    pub status: StatusCode,
    pub refusal: Refusal,
}

/// What the client chose.
struct Offer {
    accept_key: String,
    from: IpAddr,
    place: Option<Arc<ConnectionPlace>>,
    dialect: Dialect,
    /// Out of the subprotocol, or the URL of the first protocol. Checked once
    /// the socket is there: a browser can't see why an upgrade was refused.
    token: Option<String>,
}

impl Sessions {
    /// Whether the request asks for a WebSocket at all.
    pub fn is_upgrade(headers: &HeaderMap) -> bool {
        has_token(headers, header::UPGRADE, "websocket")
    }

    /// Checks the handshake and answers 101; the session starts when hyper has
    /// sent that. The connection must be a [`ClientIo`].
    pub fn upgrade<B>(
        &self,
        request: &mut Request<B>,
        from: IpAddr,
    ) -> Result<Response<()>, HandshakeRefusal> {
        let offer = self.shared.check(request, from)?;
        let switched = hyper::upgrade::on(request);
        let mut response = switching(&offer.accept_key);
        if matches!(offer.dialect, Dialect::V1) {
            let protocol = HeaderValue::from_static(SUBPROTOCOL);
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let shared = self.shared.clone();
        let session = SessionId::random();
        // In the span of its request, so that each can be found by the other.
        tracing::debug!(%session, "a session is opened");
        self.shared.parts.tasks.spawn("session", async move {
            let arriving = arrive(switched, offer).instrument(log_span(&session));
            if let Some(arrival) = arriving.await {
                conversation::run(&shared, session, arrival).await;
            }
        });
        Ok(response)
    }
}

/// Checks the handshake and answers 101 like [`Sessions::upgrade`], to one who is
/// sent back what they say. Not for clients: it holds the framing of sessions
/// against conformance tests.
pub fn upgrade_to_echo<B>(request: &mut Request<B>, tasks: &Tasks) -> Result<Response<()>, HandshakeRefusal> {
    let accept_key = check_websocket(request)?;
    let response = switching(&accept_key);
    let from = IpAddr::from([0, 0, 0, 0]);
    let offer = Offer { accept_key, from, place: None, dialect: Dialect::V1, token: None };
    let switched = hyper::upgrade::on(request);
    tasks.spawn("echo", async move {
        if let Some(arrival) = arrive(switched, offer).await {
            echo::run(arrival).await;
        }
    });
    Ok(response)
}

fn switching(accept_key: &str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let accept = HeaderValue::from_str(accept_key).expect("base64 is a header value");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn arrive(switched: OnUpgrade, offer: Offer) -> Option<Arrival> {
    let upgraded: Upgraded = match switched.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "client left during the upgrade");
            return None;
        }
    };
    match upgraded.downcast::<ClientIo>() {
        Ok(parts) => Some(Arrival {
            tcp: parts.io.into_tcp(),
            from: offer.from,
            place: offer.place,
            // A copy: the original would keep hyper's whole read buffer alive.
            read: Bytes::copy_from_slice(&parts.read_buf),
            dialect: offer.dialect,
            token: offer.token,
        }),
        Err(_) => {
            tracing::error!("the HTTP server returned a connection of another type");
            None
        }
    }
}

impl Shared {
    fn check<B>(&self, request: &Request<B>, from: IpAddr) -> Result<Offer, HandshakeRefusal> {
        let headers = request.headers();
        let accept_key = check_websocket(request)?;
        if !self.parts.origins.allow_request(headers) {
            return Err(refused(
                StatusCode::FORBIDDEN,
                Code::Forbidden,
                "this page's origin may not connect",
            ));
        }
        if self.registry.is_draining() {
            let message = "this gateway is being stopped; connect again";
            return Err(refused(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message));
        }
        let offered = protocols(headers)?;
        let (dialect, token) = self.choose(request, &offered)?;
        self.parts
            .limits
            .handshake(from)
            .map_err(|refusal| HandshakeRefusal { status: StatusCode::TOO_MANY_REQUESTS, refusal })?;
        let place = request.extensions().get().cloned();
        Ok(Offer { accept_key, from, place, dialect, token })
    }

    fn choose<B>(
        &self,
        request: &Request<B>,
        offered: &[String],
    ) -> Result<(Dialect, Option<String>), HandshakeRefusal> {
        let url_token = query_value(request.uri().query(), "token");
        if offered.iter().any(|protocol| protocol == SUBPROTOCOL) {
            if url_token.is_some() || query_value(request.uri().query(), "access_token").is_some() {
                return Err(bad("a token in the URL ends up in logs: send it in hello or as a subprotocol"));
            }
            let bearer = offered.iter().find_map(|protocol| protocol.strip_prefix(BEARER));
            return Ok((Dialect::V1, bearer.map(str::to_owned)));
        }
        let is_legacy_path = matches!(request.uri().path(), "/" | "/ws");
        if !is_legacy_path || !self.parts.legacy_protocol {
            return Err(bad("offer the subprotocol roomgate.v1"));
        }
        match url_token {
            Some(token) => Ok((Dialect::legacy(), Some(token.to_owned()))),
            None => Err(refused(
                StatusCode::UNAUTHORIZED,
                Code::Unauthenticated,
                "connect with ?token=, or offer the subprotocol roomgate.v1",
            )),
        }
    }
}

/// RFC 6455, 4.2.1. Returns the accept key.
fn check_websocket<B>(request: &Request<B>) -> Result<String, HandshakeRefusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, Code::BadMessage, "a WebSocket begins with GET"));
    }
    if request.version() < Version::HTTP_11 {
        return Err(bad("a WebSocket needs HTTP/1.1"));
    }
    if !Sessions::is_upgrade(headers) || !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(bad("the headers Connection: upgrade and Upgrade: websocket are needed"));
    }
    if single(headers, header::SEC_WEBSOCKET_VERSION) != Some(b"13") {
        let message = "Sec-WebSocket-Version must be 13";
        return Err(refused(StatusCode::UPGRADE_REQUIRED, Code::BadMessage, message));
    }
    match single(headers, header::SEC_WEBSOCKET_KEY) {
        Some(key) if is_key(key) => Ok(derive_accept_key(key)),
        _ => Err(bad("Sec-WebSocket-Key must be 16 bytes in base64")),
    }
}

/// 16 bytes in base64: 22 characters and two of padding.
fn is_key(key: &[u8]) -> bool {
    key.len() == 24
        && key.ends_with(b"==")
        && key[..22].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

fn protocols(headers: &HeaderMap) -> Result<Vec<String>, HandshakeRefusal> {
    let mut offered = Vec::new();
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        let value = value.to_str().map_err(|_| bad("Sec-WebSocket-Protocol is not text"))?;
        offered.extend(value.split(',').map(|protocol| protocol.trim().to_owned()));
    }
    Ok(offered)
}

/// The header's value if it came once.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// Tokens are made of characters that need no escape, so none is undone.
fn query_value<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
}

fn bad(message: &'static str) -> HandshakeRefusal {
    refused(StatusCode::BAD_REQUEST, Code::BadMessage, message)
}

fn refused(status: StatusCode, code: Code, message: &'static str) -> HandshakeRefusal {
    HandshakeRefusal { status, refusal: Refusal::new(code, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455's own example.
    fn request() -> Request<()> {
        Request::builder()
            .uri("/v1/ws")
            .header("Host", "server.example.com")
            .header("Upgrade", "websocket")
            .header("Connection", "keep-alive, Upgrade")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Version", "13")
            .body(())
            .unwrap()
    }

    /// The status of a handshake whose header `name` is `values` instead.
    fn status_with(name: &'static str, values: &[&str]) -> StatusCode {
        let mut request = request();
        request.headers_mut().remove(name);
        for value in values {
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        check_websocket(&request).map_or_else(|refused| refused.status, |_| StatusCode::SWITCHING_PROTOCOLS)
    }

    #[test]
    fn a_right_handshake_is_accepted_with_its_key() {
        assert_eq!(check_websocket(&request()).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_bad_handshake_is_refused() {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        let cases: [(&str, &[&str], StatusCode); 10] = [
            ("upgrade", &[], BAD),
            ("upgrade", &["h2c"], BAD),
            ("connection", &["keep-alive"], BAD),
            ("sec-websocket-version", &[], StatusCode::UPGRADE_REQUIRED),
            ("sec-websocket-version", &["8"], StatusCode::UPGRADE_REQUIRED),
            ("sec-websocket-version", &["13", "13"], StatusCode::UPGRADE_REQUIRED),
            ("sec-websocket-key", &[], BAD),
            ("sec-websocket-key", &["c2hvcnQ="], BAD),
            ("sec-websocket-key", &["dGhlIHNhbXBsZSBub25j!!=="], BAD),
            ("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="], BAD),
        ];
        for (name, values, status) in cases {
            assert_eq!(status_with(name, values), status, "{name}: {values:?}");
        }
        let mut post = request();
        *post.method_mut() = Method::POST;
        assert_eq!(check_websocket(&post).unwrap_err().status, StatusCode::METHOD_NOT_ALLOWED);
        let mut old = request();
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(check_websocket(&old).unwrap_err().status, BAD);
    }

    #[test]
    fn subprotocols_may_come_in_one_header_or_in_several() {
        let mut headers = HeaderMap::new();
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("chat, roomgate.v1"));
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("bearer.a.b.c"));
        assert_eq!(protocols(&headers).unwrap(), ["chat", "roomgate.v1", "bearer.a.b.c"]);
    }

    #[test]
    fn a_token_is_found_in_the_query_by_its_whole_name() {
        assert_eq!(query_value(Some("a=b&token=x.y.z"), "token"), Some("x.y.z"));
        assert_eq!(query_value(Some("mytoken=x"), "token"), None);
        assert_eq!(query_value(None, "token"), None);
    }
}
