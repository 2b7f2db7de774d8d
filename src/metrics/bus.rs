//! Redis: is it there, and what went through it.

use std::sync::LazyLock;

use metrics::{Counter, Gauge};

use super::registry::{Family, series};

const UP: Family =
    Family::gauge("roomgate_bus_up", &[], "1 while Redis answers this node and takes every command of it.");
const REFUSED: Family = Family::gauge(
    "roomgate_bus_refused",
    &["command", "resource"],
    "1 while Redis answers this node and refuses the command, by command and by its keys or channels.",
);
const RECONNECTS: Family =
    Family::counter("roomgate_bus_reconnects_total", &[], "Connections to listen on Redis after the first.");
const PUBLISHED: Family = Family::counter("roomgate_bus_published_total", &[], "Announcements Redis took.");
const DROPPED: Family = Family::counter(
    "roomgate_bus_dropped_total",
    &[],
    "Announcements that were not made: Redis was away or the queue full. Delivery repairs them from the log.",
);
const RECEIVED: Family = Family::counter(
    "roomgate_bus_received_total",
    &[],
    "Announcements that came from Redis, own ones included.",
);

const FORGED: Family = Family::counter(
    "roomgate_bus_forged_total",
    &["reason"],
    "Messages and entries in Redis that this node refused because no node of its cluster wrote them, by reason.",
);

pub(super) const FAMILIES: &[&Family] =
    &[&UP, &REFUSED, &RECONNECTS, &PUBLISHED, &DROPPED, &RECEIVED, &FORGED];

/// Why what came from Redis is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forged {
    /// Without a seal: a forgery, or of a node of an earlier version.
    Unsigned,
    /// Changed, of another channel, or of a key that this node doesn't have.
    WrongSeal,
    /// The same message again.
    Replayed,
    /// Too old.
    Stale,
    /// An event with a valid seal that the log doesn't have.
    NotInLog,
}

impl Forged {
    pub const ALL: [Self; 5] = [Self::Unsigned, Self::WrongSeal, Self::Replayed, Self::Stale, Self::NotInLog];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::WrongSeal => "wrong_seal",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::NotInLog => "not_in_log",
        }
    }
}

struct Bus {
    up: Gauge,
    reconnects: Counter,
    published: Counter,
    dropped: Counter,
    received: Counter,
}

static BUS: LazyLock<Bus> = LazyLock::new(|| Bus {
    up: series(&UP, &[]),
    reconnects: series(&RECONNECTS, &[]),
    published: series(&PUBLISHED, &[]),
    dropped: series(&DROPPED, &[]),
    received: series(&RECEIVED, &[]),
});

pub(super) fn init() {
    LazyLock::force(&BUS);
    for reason in Forged::ALL {
        drop::<Counter>(series(&FORGED, &[reason.as_str()]));
    }
}

/// The bus works in whole, or doesn't.
pub fn up(works: bool) {
    BUS.up.set(if works { 1.0 } else { 0.0 });
}

/// Redis refuses a command, or takes it.
pub fn refused(command: &'static str, resource: &'static str, refused: bool) {
    let gauge: Gauge = series(&REFUSED, &[command, resource]);
    gauge.set(if refused { 1.0 } else { 0.0 });
}

pub fn forged(reason: Forged) {
    let counter: Counter = series(&FORGED, &[reason.as_str()]);
    counter.increment(1);
}

pub fn reconnected() {
    BUS.reconnects.increment(1);
}

pub fn published(messages: u64) {
    BUS.published.increment(messages);
}

pub fn dropped(messages: u64) {
    BUS.dropped.increment(messages);
}

pub fn received(messages: u64) {
    BUS.received.increment(messages);
}
