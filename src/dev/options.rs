//! What kind of cluster is wanted.

use std::path::PathBuf;

use crate::config::Limits;

/// Defaults are those of `roomgate dev`.
#[derive(Debug, Clone)]
pub struct Options {
    pub shards: usize,
    /// Streaming replicas of each shard.
    pub replicas: usize,
    pub nodes: usize,
    /// Acks wait for a replica: durability `sync`.
    pub sync: bool,
    /// Start from nothing instead of the data found in `data`.
    pub reset: bool,
    pub prometheus: bool,
    /// Everything is kept below it. One cluster at a time may use it.
    pub data: PathBuf,
    /// The balancer's port. 0: any free one; none: the last one, or 8080, or any.
    pub port: Option<u16>,
    /// Start again what died without being asked to.
    pub restart: bool,
    /// The `roomgate` binary that nodes run.
    pub program: PathBuf,
    /// For the nodes, in addition to our own environment.
    pub env: Vec<(String, String)>,
}

impl Options {
    pub fn new(data: impl Into<PathBuf>, program: impl Into<PathBuf>) -> Self {
        Self {
            shards: 2,
            replicas: 1,
            nodes: 3,
            sync: false,
            reset: false,
            prometheus: false,
            data: data.into(),
            port: None,
            restart: false,
            program: program.into(),
            env: Vec::new(),
        }
    }

    /// Nobody is slowed down, and nobody has a quota: for tests and load.
    pub fn without_limits(self) -> Self {
        Limits::COUNTS.iter().fold(self, |options, limit| options.set(&format!("limits.{limit}"), 0))
    }

    /// A setting of every node, by its place in the configuration, e.g.
    /// `sessions.memory_serving`.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        let name = format!("ROOMGATE__{}", key.to_uppercase().replace('.', "__"));
        self.env.push((name, value.to_string()));
        self
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.shards == 0 || self.shards > 26 {
            return Err("a cluster has 1 to 26 shards".to_owned());
        }
        if self.nodes == 0 || self.nodes > 50 {
            return Err("a cluster has 1 to 50 nodes".to_owned());
        }
        if self.replicas > 8 {
            return Err("a shard has at most 8 replicas".to_owned());
        }
        if self.sync && self.replicas == 0 {
            return Err("--sync needs at least one replica to wait for".to_owned());
        }
        Ok(())
    }
}
