//! Configuration: file < environment < flags, read once into checked types.
//!
//! Components are given the part they need; nobody else reads the environment.
//! Times are integers in the unit that their key ends in.

mod advice;
mod changes;
mod check;
mod database;
mod error;
mod history;
mod limits;
mod load;
mod mail;
mod memory;
mod network;
#[cfg(test)]
mod tests;
mod traces;
mod tree;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use advice::advice;
pub use database::{Directory, Durability, Endpoint, Migrations, Pool, Reads, Secret, Shard, Tls, Writes};
pub use error::ConfigError;
pub use history::History;
pub use limits::Limits;
pub use load::{Loaded, Sources};
pub use mail::Mail;
pub use memory::Memory;
pub use network::Network;
pub use traces::Traces;

use crate::ids::NodeName;

/// Everything a node is told.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: Node,
    #[serde(default)]
    pub listen: Listen,
    pub directory: Directory,
    pub shards: Vec<Shard>,
    #[serde(default)]
    pub pool: Pool,
    #[serde(default)]
    pub reads: Reads,
    #[serde(default)]
    pub writes: Writes,
    #[serde(default)]
    pub migrations: Migrations,
    pub redis: Redis,
    pub auth: Auth,
    #[serde(default)]
    pub sessions: Sessions,
    #[serde(default)]
    pub history: History,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub memory: Memory,
    #[serde(default)]
    pub jobs: Jobs,
    #[serde(default)]
    pub mail: Mail,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub traces: Traces,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub name: NodeName,
    /// Replicas in the same zone are preferred.
    pub zone: Option<String>,
    /// For the pool budget check: how many nodes share the databases.
    #[serde(default = "one")]
    pub expected_nodes: u32,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// For clients, usually behind a balancer. Loopback by default: the listener speaks
    /// plain HTTP.
    pub public: SocketAddr,
    /// A proxy in front of `public` speaks TLS with the clients.
    pub behind_tls: bool,
    /// For operators: metrics, health, admin. Loopback by default.
    pub admin: SocketAddr,
    /// Names with a dot under which operators reach `admin`.
    pub admin_hosts: Vec<String>,
    /// Exact values of the Origin header that may connect; `"self"` stands for
    /// pages served by this gateway (Origin's host equals the Host header).
    pub allowed_origins: Vec<String>,
    /// Balancers, whose `X-Forwarded-For` tells a client's address. From
    /// anybody else that header is ignored.
    pub trusted_proxies: Vec<Network>,
    /// The drawing app's first protocol, on `/` and `/ws` with `?token=`; its REST
    /// calls; its stored shapes in imports.
    pub legacy_protocol: bool,
    /// From SIGTERM to the hard stop.
    #[serde(rename = "drain_timeout_ms", with = "millis")]
    pub drain_timeout: Duration,
    /// How long a node that is told to stop answers "not ready" before it
    /// closes anything, so that the balancer has noticed.
    #[serde(rename = "drain_notice_ms", with = "millis")]
    pub drain_notice: Duration,
}

impl Config {
    /// The descriptors that a node needs beside those of its clients: full pools, the
    /// connections of monitors, migrations and promotions, and a rest for Redis,
    /// listeners, operators and files.
    pub fn reserved_descriptors(&self) -> usize {
        const BESIDE_A_POOL: usize = 3;
        const REST: usize = 64;
        let shards = self.shards.iter().map(|shard| shard.endpoints.len());
        let endpoints = shards.sum::<usize>() + self.directory.endpoints.len();
        endpoints * (self.pool.max_connections as usize + BESIDE_A_POOL) + REST
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            public: SocketAddr::from(([127, 0, 0, 1], 8080)),
            behind_tls: false,
            admin: SocketAddr::from(([127, 0, 0, 1], 9090)),
            admin_hosts: Vec::new(),
            allowed_origins: vec!["self".to_owned()],
            trusted_proxies: Vec::new(),
            legacy_protocol: false,
            drain_timeout: Duration::from_secs(30),
            drain_notice: Duration::from_secs(2),
        }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `redis://host:port`, without secrets; `rediss` for TLS.
    pub url: String,
    /// Who may have signed its certificate, PEM; none: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    /// The treatment of payloads without a seal.
    #[serde(default)]
    pub unsigned: Unsigned,
    /// Lets a Redis on another machine do without TLS or without a password.
    #[serde(default)]
    pub insecure: bool,
}

/// The treatment of payloads in Redis that carry no seal, as older nodes write them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unsigned {
    #[default]
    Refuse,
    Accept,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub issuer: String,
    pub audience: String,
    /// Tokens are signed with the first; all are accepted.
    pub keys: Vec<SigningKey>,
    #[serde(rename = "access_token_ms", with = "millis", default = "quarter_hour")]
    pub access_token: Duration,
    #[serde(rename = "refresh_token_ms", with = "millis", default = "thirty_days")]
    pub refresh_token: Duration,
    /// The longest that a token of any issuer may live, from `iat` to `exp`.
    #[serde(rename = "token_max_ms", with = "millis", default = "four_hundred_days")]
    pub token_max: Duration,
}

fn four_hundred_days() -> Duration {
    Duration::from_secs(400 * 24 * 3600)
}

fn quarter_hour() -> Duration {
    Duration::from_secs(15 * 60)
}

fn thirty_days() -> Duration {
    Duration::from_secs(30 * 24 * 3600)
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    pub kid: String,
    /// A key has one algorithm; a token that names another is refused.
    pub alg: Algorithm,
    /// HS256: the secret's bytes, at least 32. EdDSA: a PKCS#8 PEM private key
    /// (or a public one, for a key that only verifies).
    pub file: PathBuf,
    /// Tokens with another authority are refused, though the key signed them.
    #[serde(default = "any_authority")]
    pub may_issue: Vec<Issuable>,
}

fn any_authority() -> Vec<Issuable> {
    vec![Issuable::User, Issuable::Server]
}

/// An authority that a token may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Issuable {
    /// Of one user.
    User,
    /// `scope: "server"`: every room, on behalf of any user.
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Algorithm {
    HS256,
    EdDSA,
}

/// How a node treats its sessions and rooms.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    /// The server's ping interval, announced as `heartbeat_ms`.
    #[serde(rename = "heartbeat_ms", with = "millis")]
    pub heartbeat: Duration,
    /// From a ping without any sign of life to close 4001.
    #[serde(rename = "pong_timeout_ms", with = "millis")]
    pub pong_timeout: Duration,
    /// From the upgrade to `hello`.
    #[serde(rename = "hello_timeout_ms", with = "millis")]
    pub hello_timeout: Duration,
    /// What may wait for one client's socket before it is fed from the log.
    pub outbox_bytes: usize,
    /// A client that takes nothing for so long is closed with 4000.
    #[serde(rename = "slow_consumer_timeout_ms", with = "millis")]
    pub slow_consumer_timeout: Duration,
    /// Recent events a room keeps in memory.
    pub ring_events: usize,
    /// Serve joins and resumes from memory where it is provably current. Off:
    /// every read goes to a database.
    pub memory_serving: bool,
    /// How long a hole in the order is held before the log is asked.
    #[serde(rename = "gap_wait_ms", with = "millis")]
    pub gap_wait: Duration,
    /// How often the heads of live rooms are compared with the log.
    #[serde(rename = "head_check_ms", with = "millis")]
    pub head_check: Duration,
    /// How long a room stays in memory after its last session here left.
    #[serde(rename = "room_linger_ms", with = "millis")]
    pub room_linger: Duration,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(5),
            outbox_bytes: 1 << 20,
            slow_consumer_timeout: Duration::from_secs(30),
            ring_events: 1000,
            memory_serving: true,
            gap_wait: Duration::from_millis(100),
            head_check: Duration::from_secs(2),
            room_linger: Duration::from_secs(10),
        }
    }
}

/// What every node does by itself.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jobs {
    /// How often it is looked for what a crash left half done.
    #[serde(rename = "janitor_interval_ms", with = "millis")]
    pub janitor_interval: Duration,
    /// A room whose making has taken so long is finished by the janitor.
    #[serde(rename = "unfinished_room_ms", with = "millis")]
    pub unfinished_room: Duration,
    /// How often new events are counted into their days.
    #[serde(rename = "stats_interval_ms", with = "millis")]
    pub stats_interval: Duration,
    /// How long notes of the audit trail are kept; 0: for ever.
    #[serde(rename = "audit_keep_ms", with = "millis")]
    pub audit_keep: Duration,
}

impl Jobs {
    /// The functions of the databases trim no younger notes.
    pub const AUDIT_KEEP_MIN: Duration = Duration::from_secs(30 * 24 * 3600);
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            janitor_interval: Duration::from_secs(15),
            unfinished_room: Duration::from_secs(60),
            stats_interval: Duration::from_secs(10),
            audit_keep: Duration::from_secs(400 * 24 * 3600),
        }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A `tracing` filter, e.g. `info,roomgate::bus=debug`.
    pub filter: String,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Pretty }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Pretty,
    Json,
}

/// For keys that end in `_ms`.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_millis)
    }

    pub(super) fn serialize<S: Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }
}
