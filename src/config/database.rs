//! Where the databases are and how they are used.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::millis;
use crate::ids::ShardName;

/// What is shown in place of a secret.
const MASK: &str = "***";

/// A password. Never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Named so that a reader of the code sees every place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(MASK)
    }
}

/// One PostgreSQL server. Its role is discovered, never configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// For people and metrics, e.g. `a-1`.
    pub name: String,
    pub host: String,
    #[serde(default = "postgres_port")]
    pub port: u16,
    pub database: String,
    pub user: String,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    /// None: as [`Endpoint::tls`] finds.
    pub tls: Option<Tls>,
    /// Who may have signed its certificate, PEM; none: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// `host:port` of a PgBouncer before it, in transaction mode, for the
    /// connections of pools; the others go to the server itself.
    pub pgbouncer: Option<String>,
    pub zone: Option<String>,
    /// Size of the volume its data lies on; none: how full that is isn't told.
    pub disk_bytes: Option<u64>,
    /// How much of the reads it takes, relative to its siblings.
    #[serde(default = "hundred")]
    pub weight: u32,
}

/// Whether a server must prove who it is, and all is encrypted then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    Off,
    /// A certificate for its `host`, signed by a trusted authority.
    Verify,
}

impl Endpoint {
    /// Unless it is said: off for a server on this machine that no authority is
    /// named for, as nobody can come between.
    pub fn tls(&self) -> Tls {
        let is_here = is_this_machine(&self.host) && self.ca_file.is_none();
        self.tls.unwrap_or(if is_here { Tls::Off } else { Tls::Verify })
    }

    /// As its pools reach it.
    pub fn pooled(&self) -> Self {
        let mut there = self.clone();
        if let Some((host, port)) = self.pgbouncer.as_deref().and_then(host_and_port) {
            (there.host, there.port) = (host.to_owned(), port);
        }
        there
    }

    /// The same server, for the role that changes schemas and promotes.
    pub fn as_migrator(&self, migrations: &Migrations) -> Self {
        let mut endpoint = self.clone();
        if let Some(user) = &migrations.user {
            endpoint.user.clone_from(user);
            endpoint.password.clone_from(&migrations.password);
            endpoint.password_file = None;
        }
        endpoint
    }
}

pub(super) fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host, port.parse().ok().filter(|port| *port > 0)?)).filter(|(host, _)| !host.is_empty())
}

fn is_this_machine(host: &str) -> bool {
    let is_loopback = host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    // A path is the folder of its socket.
    is_loopback || host == "localhost" || host.starts_with('/')
}

fn postgres_port() -> u16 {
    5432
}

fn hundred() -> u32 {
    100
}

/// The directory's endpoints; its tables live in the schema `directory`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    pub endpoints: Vec<Endpoint>,
}

impl Directory {
    /// It is reached and watched like a shard, and has no slots.
    pub fn as_shard(&self) -> Shard {
        let name = ShardName::new("directory").expect("a valid name");
        Shard { name, weight: 0, endpoints: self.endpoints.clone() }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    pub name: ShardName,
    /// How many slots it is proposed, relative to the other shards.
    #[serde(default = "hundred")]
    pub weight: u32,
    pub endpoints: Vec<Endpoint>,
}

/// Connections to one endpoint.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    pub max_connections: u32,
    pub min_idle: u32,
    #[serde(rename = "idle_timeout_ms", with = "millis")]
    pub idle_timeout: Duration,
    #[serde(rename = "acquire_timeout_ms", with = "millis")]
    pub acquire_timeout: Duration,
    #[serde(rename = "connect_timeout_ms", with = "millis")]
    pub connect_timeout: Duration,
    #[serde(rename = "statement_timeout_ms", with = "millis")]
    pub statement_timeout: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_connections: 20,
            min_idle: 5,
            idle_timeout: Duration::from_secs(30),
            acquire_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
        }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reads {
    /// How old an answer may be when the reader doesn't say.
    #[serde(rename = "max_stale_ms", with = "millis")]
    pub max_stale: Duration,
    /// How long to wait for a replica that is almost fresh enough.
    #[serde(rename = "replica_wait_ms", with = "millis")]
    pub replica_wait: Duration,
    /// Reads in flight on a primary because no replica would do.
    pub primary_cap: usize,
    /// How often every endpoint is asked for its role and position.
    #[serde(rename = "monitor_interval_ms", with = "millis")]
    pub monitor_interval: Duration,
    /// How long it may take to answer.
    #[serde(rename = "monitor_timeout_ms", with = "millis")]
    pub monitor_timeout: Duration,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            max_stale: Duration::from_secs(1),
            replica_wait: Duration::from_millis(50),
            primary_cap: 8,
            monitor_interval: Duration::from_millis(250),
            monitor_timeout: Duration::from_millis(500),
        }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Writes {
    pub durability: Durability,
    /// Append tasks a shard; a room always maps to the same one.
    pub lanes: usize,
    /// Submits that may wait in one lane; more are refused as `overloaded`. One user
    /// has half of the places at most.
    pub lane_queue: usize,
    /// Submits in one transaction.
    pub batch_max: usize,
    /// How long submits wait for a shard that has no primary.
    #[serde(rename = "failover_wait_ms", with = "millis")]
    pub failover_wait: Duration,
    /// How long a statement waits for a lock. An append goes on without the
    /// room then; the directory is asked again.
    #[serde(rename = "lock_timeout_ms", with = "millis")]
    pub lock_timeout: Duration,
}

impl Default for Writes {
    fn default() -> Self {
        Self {
            durability: Durability::Async,
            lanes: 4,
            lane_queue: 4096,
            batch_max: 200,
            failover_wait: Duration::from_secs(10),
            lock_timeout: Duration::from_millis(250),
        }
    }
}

/// Schema changes run as a role of their own: the gateway's owns nothing.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Migrations {
    /// Who changes the schema; none is the endpoint's own user.
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    /// Who may read and write the tables: the gateway's user. Granted if the
    /// role exists.
    pub grant_to: String,
    /// How long a change waits for a lock on a table in use.
    #[serde(rename = "lock_timeout_ms", with = "millis")]
    pub lock_timeout: Duration,
    /// How long a migrator waits for another one to finish.
    #[serde(rename = "wait_ms", with = "millis")]
    pub wait: Duration,
}

impl Default for Migrations {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            password_file: None,
            grant_to: "roomgate".to_owned(),
            lock_timeout: Duration::from_secs(2),
            wait: Duration::from_secs(60),
        }
    }
}

/// What an ack promises about a lost primary; see the promise in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    Sync,
    Async,
}
