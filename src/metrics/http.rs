//! HTTP requests, by route pattern: a path would be a label without bound.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Histogram};

use super::registry::{Family, SECONDS, series};

const REQUESTS: Family =
    Family::counter("http_requests_total", &["method", "route", "status"], "Answered HTTP requests.");
const DURATION: Family = Family::histogram(
    "http_request_duration_seconds",
    &["method", "route"],
    SECONDS,
    "From the request's headers to the answer's.",
);

pub(super) const FAMILIES: &[&Family] = &[&REQUESTS, &DURATION];

/// By route, then method and status. Routes are the router's patterns and
/// methods the known ones, so this has a bound.
type Known = RwLock<HashMap<String, HashMap<(&'static str, u16), (Counter, Histogram)>>>;
static KNOWN: LazyLock<Known> = LazyLock::new(RwLock::default);

/// `route` is the pattern that matched, `"none"` if none did.
pub fn request_done(method: &str, route: &str, status: u16, elapsed: Duration) {
    let method = known_method(method);
    let (requests, duration) = handles(method, route, status);
    requests.increment(1);
    duration.record(elapsed);
}

fn handles(method: &'static str, route: &str, status: u16) -> (Counter, Histogram) {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(handles) = known.get(route).and_then(|of_route| of_route.get(&(method, status))) {
        return handles.clone();
    }
    drop(known);
    let handles: (Counter, Histogram) =
        (series(&REQUESTS, &[method, route, &status.to_string()]), series(&DURATION, &[method, route]));
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    known.entry(route.to_owned()).or_default().insert((method, status), handles.clone());
    handles
}

/// A client may invent methods; they all count as one.
fn known_method(method: &str) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    METHODS.into_iter().find(|known| *known == method).unwrap_or("other")
}
