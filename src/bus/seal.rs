//! The seal on everything that goes through Redis, so that the password of Redis
//! is not enough to show something to a room.
//!
//! The only door in both directions: `Bus` publishes and stores sealed bytes alone,
//! and a payload without a valid seal never becomes a [`super::BusEvent`]. So a new
//! kind of announcement is covered without a further edit. A seal covers the channel,
//! the origin, a number that no message of the origin repeats, and the time.
//!
//! Layout of a message, integers big-endian: version u8, origin u64, number u64,
//! time i64, seal 16 bytes, payload. Of an entry: node, a space, `s1.TIME.SEAL`, a
//! space, the member.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::NodeId;
use super::life::KEPT_S;
use crate::auth::{SEAL_BYTES, Sealer};
use crate::clock::UnixMillis;
use crate::config::Unsigned;
use crate::metrics::bus::{self as metrics, Forged};

/// Unsealed messages of earlier versions begin with 1.
const VERSION: u8 = 2;
/// A message that is older, or from the future, is refused. Redis keeps no message,
/// so an older one was kept by somebody who sends it again.
const AGE_MAX_MS: i64 = 15_000;
/// Messages of one node may overtake each other by so many.
const WINDOW: u64 = 1024;
/// Nodes whose numbers are remembered. Each restart of a node is a new one.
const ORIGINS_MAX: usize = 4096;
const MESSAGE: &[u8] = b"message";
const ENTRY: &[u8] = b"entry";
const ENTRY_MARK: &str = "s1.";

/// The time of Redis, which is one for all nodes, as last learned.
#[derive(Debug)]
pub(super) struct ServerClock {
    started: Instant,
    /// Redis' time when this node started; until it is known, the node's own.
    started_ms: AtomicI64,
}

impl Default for ServerClock {
    fn default() -> Self {
        Self { started: Instant::now(), started_ms: AtomicI64::new(UnixMillis::now().0) }
    }
}

impl ServerClock {
    pub fn learn(&self, now_ms: i64) {
        self.started_ms.store(now_ms - self.elapsed_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> i64 {
        self.started_ms.load(Ordering::Relaxed) + self.elapsed_ms()
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// Seals what this node sends, and opens what it reads. A cheap handle.
#[derive(Clone)]
pub(super) struct Seals {
    sealer: Sealer,
    node: NodeId,
    unsigned: Unsigned,
    number: Arc<AtomicU64>,
    pub clock: Arc<ServerClock>,
}

/// An entry of a room's members, as it is stored.
pub(super) struct Entry<'a> {
    pub node: NodeId,
    pub member: &'a str,
    /// The time and the seal; none of an entry of an earlier version.
    proof: Option<(i64, [u8; SEAL_BYTES])>,
}

impl Seals {
    pub fn new(sealer: Sealer, node: NodeId, unsigned: Unsigned) -> Self {
        Self { sealer, node, unsigned, number: Arc::default(), clock: Arc::default() }
    }

    pub fn close(&self, channel: &str, payload: &[u8]) -> Bytes {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let header = Header { origin: self.node, number, at_ms: self.clock.now_ms() };
        let mut out = BytesMut::with_capacity(1 + 24 + SEAL_BYTES + payload.len());
        out.put_u8(VERSION);
        out.put_slice(&header.bytes());
        out.put_slice(&self.sealer.seal(&[MESSAGE, channel.as_bytes(), &header.bytes(), payload]));
        out.put_slice(payload);
        out.freeze()
    }

    /// The payload of a message of `channel`.
    pub fn open(&self, channel: &str, message: Bytes, known: &mut Replays) -> Result<Bytes, Forged> {
        let mut rest = message.clone();
        if rest.try_get_u8().ok() != Some(VERSION) {
            return match self.unsigned {
                Unsigned::Accept => Ok(message),
                Unsigned::Refuse => Err(Forged::Unsigned),
            };
        }
        let header = Header::read(&mut rest).ok_or(Forged::WrongSeal)?;
        if rest.remaining() < SEAL_BYTES {
            return Err(Forged::WrongSeal);
        }
        let seal = rest.split_to(SEAL_BYTES);
        if !self.sealer.is_seal(&[MESSAGE, channel.as_bytes(), &header.bytes(), &rest], &seal) {
            return Err(Forged::WrongSeal);
        }
        if !self.is_recent(header.at_ms, AGE_MAX_MS) {
            return Err(Forged::Stale);
        }
        if known.is_new(header.origin, header.number) { Ok(rest) } else { Err(Forged::Replayed) }
    }

    /// The entry to store for a session of this node.
    pub fn close_entry(&self, key: &str, session: &str, member: &str) -> String {
        let (node, at_ms) = (self.node, self.clock.now_ms());
        let seal = u128::from_be_bytes(self.sealer.seal(&entry_parts(
            key,
            session,
            &node.0.to_be_bytes(),
            &at_ms.to_be_bytes(),
            member,
        )));
        format!("{node} {ENTRY_MARK}{at_ms}.{seal:032x} {member}")
    }

    /// Whether the node that an entry names stored it for this session, and lately:
    /// each node stores its entries again at every heartbeat.
    pub fn check_entry(&self, key: &str, session: &str, entry: &Entry) -> Result<(), Forged> {
        let Some((at_ms, seal)) = entry.proof else {
            return match self.unsigned {
                Unsigned::Accept => Ok(()),
                Unsigned::Refuse => Err(Forged::Unsigned),
            };
        };
        let (node, at) = (entry.node.0.to_be_bytes(), at_ms.to_be_bytes());
        if !self.sealer.is_seal(&entry_parts(key, session, &node, &at, entry.member), &seal) {
            return Err(Forged::WrongSeal);
        }
        if self.is_recent(at_ms, KEPT_S * 1000) { Ok(()) } else { Err(Forged::Stale) }
    }

    fn is_recent(&self, at_ms: i64, age_max_ms: i64) -> bool {
        at_ms.abs_diff(self.clock.now_ms()) <= age_max_ms.unsigned_abs()
    }
}

fn entry_parts<'a>(
    key: &'a str,
    session: &'a str,
    node: &'a [u8],
    at: &'a [u8],
    member: &'a str,
) -> [&'a [u8]; 6] {
    [ENTRY, key.as_bytes(), session.as_bytes(), node, at, member.as_bytes()]
}

impl<'a> Entry<'a> {
    /// Reads an entry without checking it.
    pub fn read(text: &'a str) -> Option<Self> {
        let (node, rest) = text.split_once(' ')?;
        let node = NodeId::parse(node)?;
        let Some(sealed) = rest.strip_prefix(ENTRY_MARK) else {
            return Some(Self { node, member: rest, proof: None });
        };
        let (proof, member) = sealed.split_once(' ')?;
        let (at, seal) = proof.split_once('.')?;
        let seal = u128::from_str_radix(seal, 16).ok()?.to_be_bytes();
        Some(Self { node, member, proof: Some((at.parse().ok()?, seal)) })
    }
}

struct Header {
    origin: NodeId,
    number: u64,
    at_ms: i64,
}

impl Header {
    fn bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.origin.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_be_bytes());
        bytes[16..].copy_from_slice(&self.at_ms.to_be_bytes());
        bytes
    }

    fn read(from: &mut Bytes) -> Option<Self> {
        let origin = NodeId(from.try_get_u64().ok()?);
        Some(Self { origin, number: from.try_get_u64().ok()?, at_ms: from.try_get_i64().ok()? })
    }
}

/// The numbers that were received of each origin.
#[derive(Debug, Default)]
pub(super) struct Replays {
    of: HashMap<NodeId, Window>,
}

/// The last [`WINDOW`] numbers up to the highest: a bit each, by the number.
#[derive(Debug, Default)]
struct Window {
    highest: u64,
    seen: [u64; (WINDOW / 64) as usize],
}

impl Replays {
    /// Only for numbers under a valid seal: others would crowd out true origins.
    fn is_new(&mut self, origin: NodeId, number: u64) -> bool {
        if self.of.len() >= ORIGINS_MAX && !self.of.contains_key(&origin) {
            // Beyond any real cluster: a node that restarts all the time. The time in
            // the seal still bounds replays.
            self.of.clear();
        }
        self.of.entry(origin).or_default().is_new(number)
    }
}

impl Window {
    fn is_new(&mut self, number: u64) -> bool {
        if number.saturating_add(WINDOW) <= self.highest {
            return false;
        }
        let first_unknown = self.highest.saturating_add(1);
        if number > self.highest {
            for skipped in first_unknown.max(number.saturating_sub(WINDOW - 1))..=number {
                let (word, bit) = place(skipped);
                self.seen[word] &= !bit;
            }
            self.highest = number;
        }
        let (word, bit) = place(number);
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }
}

fn place(number: u64) -> (usize, u64) {
    let index = number % WINDOW;
    ((index / 64) as usize, 1 << (index % 64))
}

/// Tells the operators of refused messages: a count each, and a line now and then.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    told_at: Option<Instant>,
    untold: u64,
}

impl Complaints {
    const PAUSE: Duration = Duration::from_secs(10);

    pub fn note(&mut self, place: &str, why: Forged) {
        metrics::forged(why);
        self.untold += 1;
        if self.told_at.is_none_or(|told| told.elapsed() >= Self::PAUSE) {
            tracing::warn!(
                place,
                reason = why.as_str(),
                refused = self.untold,
                "refused what another node of this cluster did not write to Redis"
            );
            (self.told_at, self.untold) = (Some(Instant::now()), 0);
        }
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
