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
mod alter;
mod answer;
mod audit;
mod body;
mod charge;
mod chats;
mod content;
mod error;
mod events;
mod export;
mod freshness;
mod health;
mod held;
mod idempotency;
mod import;
mod invites;
mod legacy;
mod live;
mod me;
mod members;
mod openapi;
mod page;
mod paging;
mod passwords;
mod path;
mod people;
mod presence;
mod query;
mod rooms;
mod search;
mod shapes;
mod sign_ins;
mod signed_in;
mod stats;
mod submits;
mod takeover;
mod tickets;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Method;
use axum::routing::{get, post};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::auth::{Origins, Passwords, Sealer, Signer, Verifier};
use crate::bus::Bus;
use crate::config;
use crate::directory::Directory;
use crate::limits::Limits;
use crate::mail::Mailer;
use crate::memory::Memory;
use crate::room::Hub;
use crate::room::access::Access;
use crate::session::Sessions;
use crate::store::append::Appender;
use crate::store::history::History;
use crate::store::imports::Imports;
use crate::store::rooms::Rooms;
use crate::tasks::Tasks;

#[cfg(fuzzing)]
pub use shapes::fuzz_cursor;

pub use accept::{Admission, bind, serve};
pub use admin::{AdminParts, admin_router};
pub use health::{Facts, Probe, Watched};
pub use me::Eraser;

use shapes::Pins;

/// Below, the headers of compression cost more than it saves.
const COMPRESSED_FROM: u64 = 1024;

const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

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
    pub sealer: Sealer,
    /// None: the gateway sends no mail.
    pub mailer: Option<Mailer>,
    pub tasks: Tasks,
    pub limits: Limits,
    pub memory: Memory,
    pub origins: Origins,
    pub probe: Probe,
    pub bus: Bus,
    pub eraser: Eraser,
    pub refresh_token: Duration,
    /// How old an answer may be when the reader doesn't say.
    pub max_stale: Duration,
    /// After so long a submit is answered, or its fate is unknown.
    pub submit_timeout: Duration,
    pub trusted_proxies: Vec<config::Network>,
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
    let is_legacy = parts.legacy_protocol;
    let app: App = Arc::new(Shared { parts, pins: Pins::new() });
    // For every POST that creates.
    let once = axum::middleware::from_fn_with_state(app.clone(), idempotency::once);
    let forwarded = axum::middleware::from_fn_with_state(app.clone(), address::believe_balancers);
    let charged = axum::middleware::from_fn_with_state(app.clone(), charge::charge);
    let once_by_id = axum::middleware::from_fn_with_state(app.clone(), idempotency::once_by_id);
    let (routes, described) = OpenApiRouter::<App>::default()
        .routes(routes!(people::sign_up))
        .routes(routes!(people::sign_in))
        .routes(routes!(people::refresh))
        .routes(routes!(people::sign_out))
        .routes(routes!(me::get, me::change, me::erase))
        .routes(routes!(passwords::change))
        .routes(routes!(sign_ins::list))
        .routes(routes!(sign_ins::end))
        .routes(routes!(passwords::ask_for_reset))
        .routes(routes!(passwords::reset))
        .routes(routes!(search::list))
        .routes(routes!(rooms::create).layer(once.clone()))
        .routes(routes!(rooms::get, alter::alter, alter::archive))
        .routes(routes!(members::list))
        .routes(routes!(members::join, members::leave))
        .routes(routes!(members::give, members::remove))
        .routes(routes!(invites::list))
        .routes(routes!(invites::create).layer(once_by_id))
        .routes(routes!(invites::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(shapes::list))
        .routes(routes!(events::list, submits::submit))
        .routes(routes!(import::import))
        .routes(routes!(presence::list))
        .routes(routes!(stats::list))
        .routes(routes!(live::live))
        .routes(routes!(tickets::issue))
        .routes(routes!(upgrade::upgrade))
        .routes(routes!(health::public))
        .split_for_parts();
    let document = openapi::text(described);
    let describe = get(async move || openapi::serve(document).await);
    // What is not described: the page, and the drawing app's first protocol.
    let mut routes = routes
        .route("/openapi.json", describe.clone())
        .route("/v1/openapi.json", describe)
        .route("/", get(upgrade::upgrade_or_page))
        .route("/ws", get(upgrade::upgrade));
    if is_legacy {
        routes = routes
            .route("/signup", post(legacy::sign_up))
            .route("/signin", post(legacy::sign_in))
            .route("/room", post(legacy::create_room))
            .route("/room/{room}", get(legacy::room))
            .route("/chats/{room}", get(chats::list));
    }
    routes
        .fallback(page::asset)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(charged)
        .layer(cors)
        .layer(compression())
        .layer(forwarded)
        .layer(axum::middleware::from_fn(answer::finish))
        .with_state(app)
}

/// Pages of allowed origins may read answers. There are no cookies, so a page
/// can do nothing here that it has no token for.
fn cors(origins: Origins) -> CorsLayer {
    let allowed = AllowOrigin::predicate(move |_, request| origins.allow_request(&request.headers));
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods(METHODS)
        .allow_headers(answer::accepted())
        .expose_headers(answer::exposed())
        .max_age(Duration::from_secs(600))
}

/// Streams of events stay as they are: each must leave at once.
fn compression() -> CompressionLayer<impl Predicate> {
    let worth = SizeAbove::new(COMPRESSED_FROM).and(NotForContentType::SSE).and(NotForContentType::IMAGES);
    CompressionLayer::new().gzip(true).compress_when(worth)
}
