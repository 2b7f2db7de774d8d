//! HTTP: accounts, rooms, history, the page, and the way to a WebSocket.
//!
//! Owns the server loop, routes, statuses and headers of the public and the
//! operators' listener. Guarantees: headers, bodies, times and answers are
//! bounded; every answer carries a request id; every refusal is
//! `{"error":{code,message,request_id}}` with the status of its code.
//! Knows no SQL; `/metrics` and `/health/…` are never on the public listener.

mod accept;
mod address;
mod admin;
mod answer;
mod body;
mod chats;
mod error;
mod events;
mod export;
mod freshness;
mod health;
mod idempotency;
mod import;
mod live;
mod me;
mod members;
mod page;
mod people;
mod presence;
mod rooms;
mod shapes;
mod signed_in;
mod submits;
mod takeover;
mod tickets;
mod upgrade;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post, put};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::auth::{Origins, Passwords, Signer, Verifier};
use crate::bus::Bus;
use crate::config;
use crate::directory::Directory;
use crate::limits::Limits;
use crate::room::Hub;
use crate::room::access::Access;
use crate::session::Sessions;
use crate::store::append::Appender;
use crate::store::history::History;
use crate::store::imports::Imports;
use crate::store::rooms::Rooms;

pub use accept::{bind, serve};
pub use admin::{AdminParts, admin_router};
pub use health::{Facts, Probe};
pub use me::Eraser;

use shapes::Pins;

/// What the public listener is built on.
pub struct Parts {
    pub sessions: Sessions,
    pub access: Access,
    pub rooms: Rooms,
    pub history: History,
    pub imports: Imports,
    pub appender: Appender,
    pub hub: Hub,
    pub directory: Directory,
    pub passwords: Passwords,
    pub verifier: Verifier,
    pub signer: Signer,
    pub limits: Limits,
    pub origins: Origins,
    pub probe: Probe,
    pub bus: Bus,
    pub eraser: Eraser,
    pub refresh_token: Duration,
    /// How old an answer may be when the reader doesn't say.
    pub max_stale: Duration,
    /// After so long a submit is answered, or its fate is unknown.
    pub submit_timeout: Duration,
    pub trusted_proxies: Vec<IpAddr>,
    pub legacy_protocol: bool,
}

/// What every handler sees.
type App = Arc<Shared>;

struct Shared {
    parts: Parts,
    pins: Pins,
}

impl std::ops::Deref for Shared {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// All public routes.
pub fn router(parts: Parts) -> Router {
    let cors = cors(parts.origins.clone());
    let legacy = parts.legacy_protocol;
    let app: App = Arc::new(Shared { parts, pins: Pins::new() });
    // For every POST that creates.
    let once = axum::middleware::from_fn_with_state(app.clone(), idempotency::once);
    let mut routes = Router::new()
        .route("/v1/signup", post(people::sign_up))
        .route("/v1/signin", post(people::sign_in))
        .route("/v1/token/refresh", post(people::refresh))
        .route("/v1/signout", post(people::sign_out))
        .route("/v1/me", get(me::get).patch(me::change).delete(me::erase))
        .route("/v1/rooms", get(rooms::mine).merge(post(rooms::create).layer(once.clone())))
        .route("/v1/rooms/{room}", get(rooms::get))
        .route("/v1/rooms/{room}/members", get(members::list))
        .route("/v1/rooms/{room}/members/me", put(members::join).delete(members::leave))
        .route("/v1/rooms/{room}/members/{user}", put(members::give).delete(members::remove))
        .route("/v1/rooms/{room}/shapes", get(shapes::list))
        .route("/v1/rooms/{room}/events", get(events::list).post(submits::submit))
        .route(import::ROUTE, post(import::import))
        .route("/v1/rooms/{room}/presence", get(presence::list))
        .route("/v1/rooms/{room}/live", get(live::live))
        .route("/v1/tickets", post(tickets::issue))
        .route("/v1/ws", get(upgrade::upgrade))
        .route("/health", get(health::public))
        .route("/", get(upgrade::upgrade_or_page))
        .route("/ws", get(upgrade::upgrade));
    if legacy {
        routes = routes.route("/chats/{room}", get(chats::list));
    }
    routes
        .fallback(page::asset)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(cors)
        .layer(axum::middleware::from_fn(answer::finish))
        .with_state(app)
}

/// Pages of allowed origins may read answers. There are no cookies, so a page
/// can do nothing here that it has no token for.
fn cors(origins: Origins) -> CorsLayer {
    let allowed = AllowOrigin::predicate(move |origin, request| {
        let host = request.headers.get(axum::http::header::HOST);
        origins.allow(Some(origin.as_bytes()), host.map(|host| host.as_bytes()))
    });
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods(Any)
        .allow_headers(Any)
        .expose_headers(answer::exposed())
        .max_age(Duration::from_secs(600))
}

/// Built once, from the configuration.
pub fn trusted_proxies(listen: &config::Listen) -> Vec<IpAddr> {
    listen.trusted_proxies.iter().map(IpAddr::to_canonical).collect()
}
