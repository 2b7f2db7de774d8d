//! Where a request comes from, and which host it asks for.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Once};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::Extensions;
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;

use super::App;
use crate::config::Network;
use crate::limits::ConnectionPlace;
use crate::metrics;
use crate::protocol::Refusal;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The headers in which balancers pass on the host that they were asked for.
const FORWARDED_HOST: [HeaderName; 2] = [HeaderName::from_static("x-forwarded-host"), header::FORWARDED];

/// The other end of the TCP connection; set by the accept loop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub IpAddr);

/// The client, as far as it can be known: the peer, or what a trusted balancer
/// says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub IpAddr);

impl FromRequestParts<App> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
        Ok(Self(client(peer, &parts.headers, &app.trusted_proxies)))
    }
}

/// Counts the connection of a request to the client that opens a session on it. A
/// request of a balancer itself counts to nobody.
pub(super) fn charge_connection(app: &App, extensions: &Extensions, client: IpAddr) -> Result<(), Refusal> {
    match extensions.get::<Arc<ConnectionPlace>>() {
        Some(place) if !is_trusted(client, &app.trusted_proxies) => place.belongs_to(client),
        _ => Ok(()),
    }
}

/// The client of a request that may sign in.
pub(super) struct Caller {
    pub address: IpAddr,
    /// Its `User-Agent`, shortened.
    pub agent: Option<String>,
}

/// Of a `User-Agent`, in bytes: enough for browsers' own.
const AGENT_BYTES: usize = 200;

impl FromRequestParts<App> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let ClientAddress(address) = ClientAddress::from_request_parts(parts, app).await?;
        let agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        // Visible ASCII by now.
        Ok(Self { address, agent: agent.map(|agent| agent.chars().take(AGENT_BYTES).collect()) })
    }
}

/// Removes the host that a request was sent to first, unless a balancer names it.
pub(super) async fn believe_balancers(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    if !peer.is_some_and(|peer| is_trusted(peer, &app.trusted_proxies)) {
        if request.headers().contains_key(FORWARDED_FOR) {
            note_untrusted(peer);
        }
        for name in FORWARDED_HOST {
            request.headers_mut().remove(name);
        }
    }
    next.run(request).await
}

pub(super) fn is_trusted(peer: IpAddr, trusted: &[Network]) -> bool {
    trusted.iter().any(|network| network.contains(peer))
}

/// A balancer that is missing in the configuration, or a client that makes up an
/// address. Logged once: a client could fill the log.
fn note_untrusted(peer: Option<IpAddr>) {
    static LOGGED: Once = Once::new();
    metrics::gateway::forwarded_untrusted();
    LOGGED.call_once(|| {
        tracing::warn!(
            peer = peer.map(tracing::field::display),
            "ignored an X-Forwarded-For from a peer that is not in listen.trusted_proxies; \
             if it is a balancer, all its clients count as one address"
        );
    });
}

/// The last hop that is not a balancer of ours: what came before it was written
/// by the client.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let hops = headers.get_all(FORWARDED_FOR).iter().rev().filter_map(|value| value.to_str().ok());
    let hops = hops.flat_map(|value| value.rsplit(','));
    let mut last = peer;
    for hop in hops {
        match hop.trim().parse::<IpAddr>() {
            Ok(address) if is_trusted(address, trusted) => last = address.to_canonical(),
            Ok(address) => return address.to_canonical(),
            Err(_) => return last,
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let trusted = ["127.0.0.1".parse().unwrap(), "10.0.0.0/24".parse().unwrap()];
        client(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn a_trusted_balancer_is_believed_for_its_last_hop_only() {
        assert_eq!(seen("127.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(seen("127.0.0.1", &["6.6.6.6, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(seen("127.0.0.1", &["6.6.6.6", "192.0.2.7, 10.0.0.1"]), "192.0.2.7");
        assert_eq!(seen("127.0.0.1", &[]), "127.0.0.1");
    }

    #[test]
    fn a_spoofed_header_changes_nothing() {
        assert_eq!(seen("198.51.100.1", &["192.0.2.7"]), "198.51.100.1");
        assert_eq!(seen("127.0.0.1", &["192.0.2.7, nonsense"]), "127.0.0.1");
    }
}
