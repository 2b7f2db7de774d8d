//! Connections: accepted, bounded in time and memory, ended in order.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::address::{Peer, is_trusted};
use super::takeover::divert;
use crate::config::Network;
use crate::limits::{ConnectionPlace, Connections};
use crate::metrics::gateway;
use crate::session::ClientIo;
use crate::tasks::{Stop, Tasks};

/// Thousands may come back at once.
const BACKLOG: u32 = 4096;

/// A request's head must be there within this, also the next one of a
/// connection that is kept open.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Read buffer, and with it the largest head: 16 KiB.
const HEADER_BYTES: usize = 16 * 1024;

const HEADERS_MAX: usize = 100;

/// Without descriptors there is nothing to do but wait for some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds `address`; port 0 takes any free one.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `tasks` is told to stop; then no new connection is accepted and
/// requests under way are answered. WebSockets and event streams are their
/// sessions' own.
///
/// Without `admission` any number of connections is accepted.
pub async fn serve(listener: TcpListener, router: Router, admission: Option<Admission>, tasks: Tasks) {
    let mut stop = tasks.stop_signal();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = stop.wait() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                let place = match &admission {
                    None => None,
                    Some(admission) => match admission.enter(peer.ip().to_canonical()) {
                        Some(place) => Some(place),
                        None => {
                            // Closed at once: an answer would need the descriptor for longer.
                            gateway::rate_limited("connection");
                            continue;
                        }
                    },
                };
                let connection = connection(stream, peer, place, router.clone(), tasks.stop_signal());
                tasks.spawn("http-connection", connection);
            }
            Err(error) => {
                if !failing {
                    tracing::error!(%error, "can't accept connections");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The bounds of open connections.
pub struct Admission {
    pub connections: Connections,
    pub trusted_proxies: Vec<Network>,
}

impl Admission {
    /// `None`: there are too many. The connections of a balancer count to its clients.
    fn enter(&self, peer: IpAddr) -> Option<Arc<ConnectionPlace>> {
        self.connections.enter(Some(peer).filter(|peer| !is_trusted(*peer, &self.trusted_proxies)))
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    place: Option<Arc<ConnectionPlace>>,
    router: Router,
    mut stop: Stop,
) {
    let client = match ClientIo::new(stream) {
        Ok(client) => client,
        Err(error) => {
            tracing::debug!(%error, "client left at once");
            return;
        }
    };
    let (hand_over, mut handed_over) = mpsc::channel(1);
    let held = place.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip().to_canonical()));
        if let Some(place) = &held {
            request.extensions_mut().insert(place.clone());
        }
        let (router, hand_over) = (router.clone(), hand_over.clone());
        async move {
            let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            Ok::<_, Infallible>(divert(response, &hand_over).await)
        }
    });
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS_MAX)
        // A client may end its side once it has asked. Without this, hyper drops the
        // request's handler then.
        .half_close(true)
        .serve_connection(client, service)
        .with_upgrades();
    let mut stopped = false;
    let ended = loop {
        tokio::select! {
            ended = &mut serving => break ended,
            () = stop.wait(), if !stopped => {
                stopped = true;
                Pin::new(&mut serving).graceful_shutdown();
            }
            Some(handover) = handed_over.recv() => {
                // What the client sent behind its request is no request.
                let parts = serving.into_parts();
                return parts.map(|parts| handover.begin(parts.io.into_tcp(), place)).unwrap_or_default();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
