//! `dev.json`: what outside programs need to know about a running cluster.
//! Its fields are binding.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The balancer's URL.
    pub lb: String,
    pub nodes: Vec<Node>,
    pub shards: Vec<Shard>,
    pub directory: Directory,
    pub redis: Redis,
    pub haproxy: Haproxy,
    pub prometheus: Option<Prometheus>,
    pub demo: Demo,
    pub jwt: Jwt,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub url: String,
    pub admin_url: String,
    pub pid: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub name: String,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub role: Role,
    pub pid: i32,
    /// A superuser's.
    pub admin_dsn: String,
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Primary,
    Replica,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    pub admin_dsn: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redis {
    pub url: String,
    pub pid: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Haproxy {
    pub pid: i32,
    pub stats_url: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prometheus {
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demo {
    pub email: String,
    pub password: String,
    /// The room's id.
    pub room: u64,
    pub slug: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwt {
    pub issuer: String,
    pub audience: String,
    pub kid: String,
    pub alg: String,
    pub key_file: PathBuf,
}
