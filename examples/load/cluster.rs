//! The cluster under load: its nodes, tokens for it, rooms in it.

use std::path::Path;

use roomgate::auth::{Signer, Verifier};
use roomgate::config;
use roomgate::dev::Api;
use roomgate::dev::report::{Node, Report, Role};
use roomgate::ids::UserId;
use roomgate::log::Authority;
use serde_json::{Value, json};

use crate::Failure;
use crate::process::Process;

pub struct Cluster {
    report: Report,
    pub nodes: Vec<Node>,
    signer: Signer,
    /// Makes users and rooms of this run its own.
    run: String,
}

impl Cluster {
    pub fn open(dev_json: &Path, node: Option<&str>) -> Result<Self, Failure> {
        let text =
            std::fs::read_to_string(dev_json).map_err(|error| format!("{}: {error}", dev_json.display()))?;
        let report: Report = serde_json::from_str(&text)?;
        let chosen = |candidate: &&Node| node.is_none_or(|name| candidate.name == name);
        let nodes: Vec<Node> = report.nodes.iter().filter(chosen).cloned().collect();
        if nodes.is_empty() {
            return Err("no such node in dev.json".into());
        }
        let auth: config::Auth = serde_json::from_value(json!({
            "issuer": report.jwt.issuer,
            "audience": report.jwt.audience,
            "keys": [{ "kid": report.jwt.kid, "alg": report.jwt.alg, "file": report.jwt.key_file }],
        }))?;
        let signer = Verifier::load(&auth)?.signer(std::time::Duration::from_secs(24 * 3600))?;
        let run = format!("{:x}", roomgate::clock::UnixMillis::now().0);
        Ok(Self { report, nodes, signer, run })
    }

    /// The `index`-th connection's node, in turn.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index % self.nodes.len()]
    }

    /// A token for the `index`-th user of this run.
    pub fn token(&self, index: usize) -> Result<String, Failure> {
        let user = UserId::new(&format!("load-{}-{index}", self.run))?;
        Ok(self.signer.issue(&user, Some("load"), Authority::Member)?.token)
    }

    /// A room of its own, open to everyone, that takes any shape.
    pub async fn create_room(&self, index: usize) -> Result<u64, Failure> {
        let api = Api::new(&self.node(index).url).signed_in(&self.token(0)?);
        let room = json!({ "slug": format!("load-{}-{index}", self.run), "schema": "open" });
        let answer = api.post("/v1/rooms", &room).await?;
        let id = answer.json().get("room").and_then(Value::as_u64);
        id.ok_or_else(|| format!("creating a room: {} {}", answer.status, answer.text).into())
    }

    pub fn node_processes(&self) -> Vec<Process> {
        self.nodes.iter().map(|node| Process(node.pid)).collect()
    }

    /// All nodes of the cluster, loaded or not: they deliver too.
    pub fn all_node_processes(&self) -> Vec<Process> {
        self.report.nodes.iter().map(|node| Process(node.pid)).collect()
    }

    /// The postmasters of the primaries.
    pub fn primaries(&self) -> Vec<Process> {
        self.postmasters(Role::Primary)
    }

    pub fn replicas(&self) -> Vec<Process> {
        self.postmasters(Role::Replica)
    }

    pub fn redis(&self) -> Process {
        Process(self.report.redis.pid)
    }

    fn postmasters(&self, role: Role) -> Vec<Process> {
        let endpoints = self.report.shards.iter().flat_map(|shard| &shard.endpoints);
        endpoints.filter(|e| e.role == role).map(|e| Process(e.pid)).collect()
    }
}
