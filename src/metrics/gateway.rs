//! Sessions, submits, delivery, and how gaps are closed.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::registry::{ByLabel, Family, SECONDS, series};
use crate::protocol::server::ResyncReason;
use crate::protocol::{CloseCode, Code};

const SESSIONS: Family = Family::gauge("roomgate_sessions", &["transport"], "Live sessions on this node.");
const ROOMS_ACTIVE: Family =
    Family::gauge("roomgate_rooms_active", &[], "Rooms with at least one session on this node.");
const RECEIVED: Family =
    Family::counter("roomgate_messages_received_total", &["type"], "Messages from clients, by type.");
const DELIVERED: Family = Family::counter(
    "roomgate_events_delivered_total",
    &[],
    "Events put into a session's outbox; one event to ten sessions counts ten.",
);
const SUBMITS: Family = Family::counter(
    "roomgate_submits_total",
    &["outcome"],
    "Submits by how they ended: accepted, duplicate, rejected, refused, unknown.",
);
const SUBMIT_SECONDS: Family =
    Family::histogram("roomgate_submit_seconds", &[], SECONDS, "From receipt of a submit to its answer.");
const DELIVERY_SECONDS: Family = Family::histogram(
    "roomgate_commit_to_delivery_seconds",
    &[],
    SECONDS,
    "From COMMIT, by the committing node's clock, to the outboxes of this node's sessions.",
);
const BATCH_SIZE: Family = Family::histogram(
    "roomgate_append_batch_size",
    &[],
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 150.0, 200.0],
    "Submits in one append transaction, each time that it is tried.",
);
const GAP_REPAIRS: Family = Family::counter(
    "roomgate_gap_repairs_total",
    &["cause"],
    "Readings of the log to fill a hole in a room's order or to find out whether there is one, by what gave cause.",
);
const RESUMES: Family = Family::counter(
    "roomgate_resumes_total",
    &["outcome"],
    "Joins that named a position: resumed or snapshot.",
);
const RESYNCS: Family = Family::counter(
    "roomgate_resyncs_total",
    &["reason"],
    "Times a session had to be given a snapshot in place of events.",
);
const LAGGING: Family = Family::gauge(
    "roomgate_sessions_lagging",
    &[],
    "Sessions, once for each room, that are catching up and not fed live: new in the room, or too slow for it.",
);
const DISCONNECTS: Family =
    Family::counter("roomgate_disconnects_total", &["code"], "Ended sessions by close code.");
const REJECTS: Family = Family::counter(
    "roomgate_rejects_total",
    &["code"],
    "Errors and rejects that clients were told, over HTTP too, by code.",
);
const RATE_LIMITED: Family = Family::counter(
    "roomgate_rate_limited_total",
    &["action"],
    "Rate-limited messages and HTTP requests, by action; `traffic`: frames that waited for the session's budget; \
     `signal_fanout`: signals that waited for their room's; `connection`: connections that were closed at accept; \
     `memory`: requests that the memory budget refused.",
);
const OUTBOX_BYTES: Family =
    Family::gauge("roomgate_outbox_bytes", &[], "Bytes waiting in all outboxes of this node.");
const SNAPSHOTS: Family =
    Family::counter("roomgate_snapshots_total", &[], "Snapshots of rooms that this node has written.");
const EXPIRED: Family =
    Family::counter("roomgate_events_expired_total", &[], "Old events that this node has deleted.");
const MEMORY_RESERVED: Family = Family::gauge(
    "roomgate_memory_reserved_bytes",
    &[],
    "Bytes of requests, answers and room states that are reserved in the node's memory budget.",
);
const FORWARDED_UNTRUSTED: Family = Family::counter(
    "roomgate_forwarded_untrusted_total",
    &[],
    "Requests with an X-Forwarded-For from a peer outside listen.trusted_proxies.",
);
const CLOCK_OFFSET: Family = Family::gauge(
    "roomgate_clock_offset_seconds",
    &[],
    "Seconds by which this node's clock is ahead of the databases', by their median; negative if it is behind.",
);
const BUILD_INFO: Family =
    Family::gauge("roomgate_build_info", &["version", "commit"], "Always 1; its labels tell what runs.");

pub(super) const FAMILIES: &[&Family] = &[
    &SESSIONS,
    &ROOMS_ACTIVE,
    &RECEIVED,
    &DELIVERED,
    &SUBMITS,
    &SUBMIT_SECONDS,
    &DELIVERY_SECONDS,
    &BATCH_SIZE,
    &GAP_REPAIRS,
    &RESUMES,
    &RESYNCS,
    &LAGGING,
    &DISCONNECTS,
    &REJECTS,
    &RATE_LIMITED,
    &OUTBOX_BYTES,
    &MEMORY_RESERVED,
    &FORWARDED_UNTRUSTED,
    &CLOCK_OFFSET,
    &SNAPSHOTS,
    &EXPIRED,
    &BUILD_INFO,
];

/// As they are called in the protocol; what is none of them is `invalid`.
pub const MESSAGE_TYPES: [&str; 8] =
    ["hello", "join", "leave", "submit", "signal", "refresh", "ping", "invalid"];
const LIMITED: [&str; 9] =
    ["connection", "hello", "join", "submit", "signal", "signal_fanout", "traffic", "http", "memory"];

struct Gateway {
    sessions: ByLabel<Gauge>,
    rooms_active: Gauge,
    received: ByLabel<Counter>,
    delivered: Counter,
    submits: ByLabel<Counter>,
    submit_seconds: Histogram,
    delivery_seconds: Histogram,
    batch_size: Histogram,
    gap_repairs: ByLabel<Counter>,
    resumes: ByLabel<Counter>,
    resyncs: ByLabel<Counter>,
    disconnects: HashMap<CloseCode, Counter>,
    lagging: Gauge,
    rejects: ByLabel<Counter>,
    rate_limited: ByLabel<Counter>,
    outbox_bytes: Gauge,
    memory_reserved: Gauge,
    forwarded_untrusted: Counter,
    clock_offset: Gauge,
    snapshots: Counter,
    expired: Counter,
}

static GATEWAY: LazyLock<Gateway> = LazyLock::new(|| {
    let build: Gauge = series(
        &BUILD_INFO,
        &[env!("CARGO_PKG_VERSION"), option_env!("ROOMGATE_COMMIT").unwrap_or("unknown")],
    );
    build.set(1.0);
    Gateway {
        sessions: ByLabel::new(&SESSIONS, &[]),
        rooms_active: series(&ROOMS_ACTIVE, &[]),
        received: ByLabel::new(&RECEIVED, &[]),
        delivered: series(&DELIVERED, &[]),
        submits: ByLabel::new(&SUBMITS, &[]),
        submit_seconds: series(&SUBMIT_SECONDS, &[]),
        delivery_seconds: series(&DELIVERY_SECONDS, &[]),
        batch_size: series(&BATCH_SIZE, &[]),
        gap_repairs: ByLabel::new(&GAP_REPAIRS, &[]),
        resumes: ByLabel::new(&RESUMES, &[]),
        resyncs: ByLabel::new(&RESYNCS, &[]),
        disconnects: CloseCode::ALL
            .into_iter()
            .map(|code| (code, series(&DISCONNECTS, &[&code.number().to_string()])))
            .collect(),
        lagging: series(&LAGGING, &[]),
        rejects: ByLabel::new(&REJECTS, &[]),
        rate_limited: ByLabel::new(&RATE_LIMITED, &[]),
        outbox_bytes: series(&OUTBOX_BYTES, &[]),
        memory_reserved: series(&MEMORY_RESERVED, &[]),
        forwarded_untrusted: series(&FORWARDED_UNTRUSTED, &[]),
        clock_offset: series(&CLOCK_OFFSET, &[]),
        snapshots: series(&SNAPSHOTS, &[]),
        expired: series(&EXPIRED, &[]),
    }
});

pub(super) fn init() {
    let gateway = &*GATEWAY;
    gateway.sessions.prepare([Transport::WebSocket, Transport::Legacy, Transport::Sse].map(Transport::label));
    let submits = [Submit::Accepted, Submit::Duplicate, Submit::Rejected, Submit::Refused, Submit::Unknown];
    gateway.submits.prepare(submits.map(Submit::label));
    let causes = [GapCause::Hole, GapCause::Head, GapCause::Bus, GapCause::Epoch];
    gateway.gap_repairs.prepare(causes.map(GapCause::label));
    gateway.resumes.prepare([Resume::Resumed, Resume::Snapshot].map(Resume::label));
    gateway.resyncs.prepare(ResyncReason::ALL.map(ResyncReason::as_str));
    gateway.rejects.prepare(Code::ALL.map(Code::as_str));
    gateway.received.prepare(MESSAGE_TYPES);
    gateway.rate_limited.prepare(LIMITED);
}

/// Bytes were reserved in the memory budget.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
pub fn memory_reserved(bytes: usize) {
    GATEWAY.memory_reserved.increment(bytes as f64);
}

/// Reserved bytes were given back.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
pub fn memory_freed(bytes: usize) {
    GATEWAY.memory_reserved.decrement(bytes as f64);
}

/// A peer that is no trusted proxy named another address.
pub fn forwarded_untrusted() {
    GATEWAY.forwarded_untrusted.increment(1);
}

/// By how much this node's clock is ahead of the databases'.
pub fn clock_offset(seconds: f64) {
    GATEWAY.clock_offset.set(seconds);
}

/// A gauge that is one higher for as long as this lives.
#[must_use = "the gauge falls again when this is dropped"]
pub struct Counted(Gauge);

impl Counted {
    fn up(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// How a session speaks to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    /// The drawing app's first protocol.
    Legacy,
    Sse,
}

impl Transport {
    fn label(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Legacy => "legacy",
            Self::Sse => "sse",
        }
    }
}

/// A session began; it ends when the answer is dropped.
pub fn session(transport: Transport) -> Counted {
    Counted::up(GATEWAY.sessions.get(transport.label()))
}

/// Why a session ended.
pub fn disconnected(code: CloseCode) {
    if let Some(counter) = GATEWAY.disconnects.get(&code) {
        counter.increment(1);
    }
}

/// A room has someone here, until the answer is dropped.
pub fn active_room() -> Counted {
    Counted::up(GATEWAY.rooms_active.clone())
}

/// A session is fed from the log, until the answer is dropped.
pub fn lagging_session() -> Counted {
    Counted::up(GATEWAY.lagging.clone())
}

/// A message of a client, by its `type`; `"invalid"` for what is none.
pub fn message_received(kind: &'static str) {
    GATEWAY.received.get(kind).increment(1);
}

/// `count` events went into outboxes.
pub fn events_delivered(count: u64) {
    GATEWAY.delivered.increment(count);
}

/// How a submit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submit {
    Accepted,
    /// Accepted earlier; the answer names the first effect.
    Duplicate,
    /// By the rules of the room.
    Rejected,
    /// Before any rule was asked: rights, limits, load, an absent shard.
    Refused,
    /// Nobody can tell yet; the client asks again with the same op.
    Unknown,
}

impl Submit {
    pub fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// A submit was answered, `elapsed` after its receipt.
pub fn submit_done(outcome: Submit, elapsed: Duration) {
    GATEWAY.submits.get(outcome.label()).increment(1);
    GATEWAY.submit_seconds.record(elapsed);
}

/// An event reached this node's outboxes, `elapsed` after its COMMIT.
pub fn commit_to_delivery(elapsed: Duration) {
    GATEWAY.delivery_seconds.record(elapsed);
}

/// A transaction with `submits` submits was sent.
#[allow(clippy::cast_precision_loss, reason = "a batch has hundreds of submits at most")]
pub fn batch_appended(submits: usize) {
    GATEWAY.batch_size.record(submits as f64);
}

/// What told that a room lacked events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// A later event came, and the ones between did not.
    Hole,
    /// The periodic comparison with the log.
    Head,
    /// Announcements found the room's mailbox full, or the last reading failed.
    Bus,
    /// An event of an unfamiliar epoch.
    Epoch,
}

impl GapCause {
    fn label(self) -> &'static str {
        match self {
            Self::Hole => "hole",
            Self::Head => "head",
            Self::Bus => "bus",
            Self::Epoch => "epoch",
        }
    }
}

/// Events were read from the log to fill a gap.
pub fn gap_repaired(cause: GapCause) {
    GATEWAY.gap_repairs.get(cause.label()).increment(1);
}

/// What became of a join that named a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    Resumed,
    /// The position was not valid, or too far back.
    Snapshot,
}

impl Resume {
    fn label(self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Snapshot => "snapshot",
        }
    }
}

pub fn resume_done(outcome: Resume) {
    GATEWAY.resumes.get(outcome.label()).increment(1);
}

/// A session was sent `resync`.
pub fn resynced(reason: ResyncReason) {
    GATEWAY.resyncs.get(reason.as_str()).increment(1);
}

/// A client was told no: `error`, `reject` or an HTTP error.
pub fn rejected(code: Code) {
    GATEWAY.rejects.get(code.as_str()).increment(1);
}

/// Signals that waited for the budget of their room.
pub fn signals_held(count: u64) {
    if count > 0 {
        GATEWAY.rate_limited.get("signal_fanout").increment(count);
    }
}

/// A limit held back `action`, e.g. `submit`, `signal`, `signin`.
pub fn rate_limited(action: &'static str) {
    GATEWAY.rate_limited.get(action).increment(1);
}

/// Bytes came into outboxes.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
pub fn outbox_grew(bytes: usize) {
    GATEWAY.outbox_bytes.increment(bytes as f64);
}

/// Bytes left outboxes, sent or dropped.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
pub fn outbox_shrank(bytes: usize) {
    GATEWAY.outbox_bytes.decrement(bytes as f64);
}

pub fn events_expired(count: u64) {
    GATEWAY.expired.increment(count);
}

pub fn snapshot_written() {
    GATEWAY.snapshots.increment(1);
}
