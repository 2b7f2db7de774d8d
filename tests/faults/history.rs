//! What happened, as the clients saw it. Besides this the checker knows only
//! what the databases hold at the end.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

/// Since the beginning of the run.
pub type Micros = u64;

pub const SECOND: Micros = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub epoch: u64,
    pub seq: u64,
}

impl Position {
    /// The `epoch` and `seq` of a message.
    pub fn of(message: &Value) -> Option<Self> {
        Some(Self { epoch: message["epoch"].as_u64()?, seq: message["seq"].as_u64()? })
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(&self) -> Micros {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// One sending of a submit.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub connection: usize,
    pub room: u64,
    pub op: String,
    pub body: Arc<Value>,
    pub sent: Micros,
    /// `None`: nobody knows what became of it.
    pub answer: Option<(Micros, Answer)>,
}

#[derive(Debug, Clone)]
pub enum Answer {
    Ack { at: Position, duplicate: bool },
    Reject { code: String },
}

/// Something a client was told about a room.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Micros,
    pub connection: usize,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    /// `from`: the position that was asked for, if it was granted.
    Joined {
        from: Option<Position>,
    },
    /// The head of a page of events, before its events.
    Page {
        from: u64,
        to: u64,
        head: Position,
    },
    /// The whole of a snapshot.
    Snapshot {
        at: Position,
        state: u64,
    },
    Event {
        at: Position,
        digest: u64,
    },
    /// From here on events come live.
    Live,
    Resync {
        reason: String,
    },
    /// The connection is over.
    Lost,
}

/// A connection of a client.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    pub node: String,
    /// The client went on its own account.
    pub left: bool,
    pub lost: Option<Micros>,
    /// All its rooms were live again.
    pub live: Option<Micros>,
    pub close_code: Option<u16>,
}

/// All that one client did and saw.
#[derive(Debug, Clone, Default)]
pub struct Diary {
    pub user: String,
    pub connections: Vec<Connection>,
    pub attempts: Vec<Attempt>,
    pub rooms: BTreeMap<u64, Vec<Seen>>,
    /// Refusals that answer no submit: a client that behaves gets none.
    pub errors: Vec<String>,
}

/// How new an answer was asked to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Freshness {
    AtLeast(Position),
    MaxStale(Micros),
    Primary,
}

/// A read over HTTP.
#[derive(Debug, Clone)]
pub struct Read {
    pub room: u64,
    pub began: Micros,
    pub freshness: Freshness,
    pub status: u16,
    pub position: Option<Position>,
    pub served_by: String,
    /// Why the primary answered instead of a replica.
    pub fallback: String,
    /// Of all shapes at `position`.
    pub state: Option<u64>,
    pub text: String,
}

/// A fault as it was played.
#[derive(Debug, Clone)]
pub struct Played {
    pub name: String,
    pub began: Micros,
    pub healed: Micros,
    /// The next one begins then.
    pub until: Micros,
    pub felt: BTreeMap<String, f64>,
    pub excuses: Vec<Excuse>,
    /// Repaired after it should have been over.
    pub late_gaps: f64,
    /// What was acked before it healed may be gone, and declared so.
    pub may_lose: bool,
    /// What should have been felt: any of these.
    pub leaves: &'static [&'static str],
    pub failover: Option<Failover>,
}

impl Played {
    /// The one that suffers, if one does.
    pub fn shard(&self) -> Option<usize> {
        self.excuses.iter().find_map(|excuse| match excuse {
            Excuse::Shard(shard) => Some(*shard),
            Excuse::Node(_) | Excuse::Client(_) => None,
        })
    }
}

/// The moments of a failover in which the primary was killed.
#[derive(Debug, Clone, Copy)]
pub struct Failover {
    pub shard: usize,
    pub killed: Micros,
    /// The first node saw that it is gone.
    pub detected: Micros,
    pub promoted: Micros,
    /// The last node has the new one as its primary.
    pub followed: Micros,
}

/// Whom a fault keeps from being on time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excuse {
    /// Sessions of a node.
    Node(String),
    /// Rooms of a shard.
    Shard(usize),
    /// A client, by number.
    Client(usize),
}

pub struct History {
    pub diaries: Vec<Diary>,
    pub reads: Vec<Read>,
    pub played: Vec<Played>,
    pub events: Events,
}

/// Every distinct event that anybody saw, by digest.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Mutex<HashMap<u64, Arc<Value>>>>);

impl Events {
    /// Remembers an event and gives its digest.
    pub fn note(&self, event: &Value) -> u64 {
        let event = bare(event);
        let digest = digest(&event);
        let mut known = self.0.lock().expect("nobody panics with it");
        known.entry(digest).or_insert_with(|| Arc::new(event));
        digest
    }

    pub fn get(&self, digest: u64) -> Option<Arc<Value>> {
        self.0.lock().expect("nobody panics with it").get(&digest).cloned()
    }
}

/// Without what only some ways of telling it carry.
pub fn bare(event: &Value) -> Value {
    let mut event = event.clone();
    if let Some(fields) = event.as_object_mut() {
        fields.remove("type");
        fields.remove("room");
    }
    event
}

/// Equal for equal JSON values: serde_json's maps are sorted.
pub fn digest(value: &Value) -> u64 {
    xxh3_64(value.to_string().as_bytes())
}
