//! A gateway node: its configuration file and its process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::Signal;

use super::layout::{Layout, replace};
use super::postgres::MAX_CONNECTIONS;
use super::service::{Probe, Service};
use super::{Error, Options, Port, Redis, Shard, Spec};
use crate::config::Endpoint;

#[derive(Debug)]
pub struct Gateway {
    service: Arc<Service>,
    name: String,
    public: Port,
    admin: Port,
}

/// Who issues tokens in a development cluster, and for whom.
pub(super) const ISSUER: &str = "roomgate-dev";
pub(super) const AUDIENCE: &str = "roomgate";
pub(super) const KEY_ID: &str = "dev-1";

/// A node that could be started: its ports are taken, its file is written.
#[derive(Debug)]
pub(super) struct Planned {
    pub file: PathBuf,
    spec: Spec,
    public: Port,
    admin: Port,
}

impl Planned {
    /// Node number `index`.
    pub fn new(
        layout: &Layout,
        index: usize,
        options: &Options,
        shards: &[&Shard],
        redis: &Redis,
    ) -> Result<Self, Error> {
        let name = format!("node-{}", index + 1);
        let public = layout.port(&name)?;
        let admin = layout.port(&format!("{name}-admin"))?;
        let folder = layout.folder("nodes")?;
        let file = folder.join(format!("{name}.toml"));
        replace(&file, text(&name, [&public, &admin], layout, options, shards, redis).as_bytes())?;
        let spec = Spec {
            name: name.clone(),
            program: options.program.clone(),
            args: ["serve", "--config", &file.display().to_string()].map(str::to_owned).to_vec(),
            env: options.env.clone(),
            log: folder.join(format!("{name}.log")),
            folder,
            user: None,
            stop_with: Signal::SIGTERM,
            kill_with: Signal::SIGKILL,
        };
        Ok(Self { file, spec, public, admin })
    }

    /// Starts it without waiting for it.
    pub fn launch(self) -> Result<Gateway, Error> {
        let Self { spec, public, admin, .. } = self;
        let name = spec.name.clone();
        let probe = Probe::Http { port: admin.number(), path: "/health/ready" };
        Ok(Gateway { service: Service::launch(spec, probe)?.into(), name, public, admin })
    }
}

impl Gateway {
    /// Its file anew; it reads it at SIGHUP, or when it is started again.
    pub(super) fn write(
        &self,
        layout: &Layout,
        options: &Options,
        shards: &[&Shard],
        redis: &Redis,
    ) -> Result<(), Error> {
        let file = layout.folder("nodes")?.join(format!("{}.toml", self.name));
        let ports = [&self.public, &self.admin];
        replace(&file, text(&self.name, ports, layout, options, shards, redis).as_bytes())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.public.number())
    }

    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin.number())
    }

    pub fn public_port(&self) -> u16 {
        self.public.number()
    }

    pub fn admin_port(&self) -> u16 {
        self.admin.number()
    }
}

fn text(
    name: &str,
    [public, admin]: [&Port; 2],
    layout: &Layout,
    options: &Options,
    shards: &[&Shard],
    redis: &Redis,
) -> String {
    let key = layout.file("jwt.key");
    [
        node_section(name, public, admin, options),
        database_sections(shards),
        mail_section(&layout.file(&format!("nodes/{name}.mail"))),
        bus_and_auth_sections(redis, &key),
    ]
    .concat()
}

fn node_section(name: &str, public: &Port, admin: &Port, options: &Options) -> String {
    let pool = pool_size(options.nodes);
    let durability = if options.sync { "sync" } else { "async" };
    format!(
        "# Written by `roomgate dev` at every start.
[node]
name = {name:?}
expected_nodes = {nodes}

[listen]
public = \"127.0.0.1:{public}\"
admin = \"127.0.0.1:{admin}\"
allowed_origins = [\"self\"]
# HAProxy and everybody else on this machine.
trusted_proxies = [\"127.0.0.1\"]
legacy_protocol = true
drain_timeout_ms = 5000
drain_notice_ms = 0

[pool]
max_connections = {pool}
min_idle = {idle}

# The gateway's own role owns nothing.
[migrations]
user = \"roomgate_owner\"
grant_to = \"roomgate\"

[writes]
durability = \"{durability}\"
",
        nodes = options.nodes,
        idle = pool.min(5),
        public = public.number(),
        admin = admin.number(),
    )
}

/// What fits into a server with two databases, every node being there twice
/// during a restart; the default, if that does.
fn pool_size(nodes: usize) -> usize {
    let reserved = 16;
    let fits = (MAX_CONNECTIONS - reserved) / (nodes * 4);
    fits.saturating_sub(3).clamp(2, 20)
}

/// The directory's tables lie in a schema on the first shard's servers.
fn database_sections(shards: &[&Shard]) -> String {
    let mut text = String::new();
    for server in shards.iter().take(1).flat_map(|shard| shard.servers()) {
        text += &endpoint("directory.endpoints", &server.endpoint());
    }
    for shard in shards {
        text += &format!("\n[[shards]]\nname = {:?}\n", shard.name());
        for server in shard.servers() {
            text += &endpoint("shards.endpoints", &server.endpoint());
        }
    }
    text
}

/// A sink: one line of JSON a mail.
fn mail_section(file: &Path) -> String {
    format!("\n[mail]\nfile = {:?}\n", file.display().to_string())
}

fn endpoint(table: &str, endpoint: &Endpoint) -> String {
    let Endpoint { name, host, port, database, user, .. } = endpoint;
    let disk = endpoint.disk_bytes.map(|bytes| format!("disk_bytes = {bytes}\n")).unwrap_or_default();
    format!(
        "\n[[{table}]]\nname = {name:?}\nhost = {host:?}\nport = {port}\ndatabase = {database:?}\nuser = {user:?}\n{disk}"
    )
}

fn bus_and_auth_sections(redis: &Redis, key: &Path) -> String {
    format!(
        "
[redis]
url = {:?}

[auth]
issuer = \"{ISSUER}\"
audience = \"{AUDIENCE}\"

[[auth.keys]]
kid = \"{KEY_ID}\"
alg = \"HS256\"
file = {:?}
",
        redis.url(),
        key.display().to_string(),
    )
}
