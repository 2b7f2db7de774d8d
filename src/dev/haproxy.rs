//! The balancer before the nodes.

use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::Signal;

use super::gateway::Gateway;
use super::layout::{Layout, replace};
use super::service::{Probe, Service};
use super::{Error, Port, Spec, binary};

#[derive(Debug)]
pub struct Haproxy {
    service: Arc<Service>,
    public: Port,
    stats: Port,
}

impl Haproxy {
    pub async fn start(layout: &Layout, public: Port, nodes: &[Gateway]) -> Result<Self, Error> {
        let folder = layout.folder("haproxy")?;
        let stats = layout.port("haproxy-stats")?;
        let file = folder.join("haproxy.cfg");
        replace(&file, configuration(public.number(), stats.number(), nodes).as_bytes())?;
        let service =
            Service::launch(spec(&folder, &file)?, Probe::Http { port: stats.number(), path: "/stats" })?;
        service.ready().await?;
        Ok(Self { service: Arc::new(service), public, stats })
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.public.number())
    }

    pub fn stats_url(&self) -> String {
        format!("http://127.0.0.1:{}/stats", self.stats.number())
    }

    /// Where Prometheus finds its metrics.
    pub fn metrics_address(&self) -> String {
        format!("127.0.0.1:{}", self.stats.number())
    }
}

fn spec(folder: &Path, file: &Path) -> Result<Spec, Error> {
    Ok(Spec {
        name: "haproxy".to_owned(),
        program: binary::find("haproxy", "haproxy")?,
        args: vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()],
        env: Vec::new(),
        log: folder.join("haproxy.log"),
        folder: folder.to_owned(),
        user: None,
        stop_with: Signal::SIGTERM,
        kill_with: Signal::SIGKILL,
    })
}

/// Nodes are stateless, so any may take any client: the one with the fewest
/// connections. A node that drains answers "not ready" and gets no new ones; its
/// old ones are left alone, because it says goodbye to them at its own pace.
fn configuration(public: u16, stats: u16, nodes: &[Gateway]) -> String {
    let servers: String = nodes.iter().map(server).collect();
    format!(
        "global
    maxconn 8000

defaults
    mode http
    option dontlognull
    # a node that is gone: the next attempt is for another one, at once
    option redispatch 1
    retries 2
    retry-on conn-failure empty-response
    timeout connect 2s
    timeout http-request 10s
    timeout queue 5s
    # an event stream has a comment every 15 s
    timeout client 75s
    timeout server 75s
    # a WebSocket: the node's heartbeat is what ends a dead one
    timeout tunnel 1h

frontend public
    bind 127.0.0.1:{public}
    default_backend nodes

backend nodes
    balance leastconn
    option forwardfor
    # what a node that stops took and did not answer may be asked again if it
    # changes nothing
    http-request disable-l7-retry if !METH_GET
    option httpchk
    http-check send meth GET uri /health/ready
    http-check expect status 200
    default-server check inter 500ms fall 2 rise 1
{servers}
frontend stats
    bind 127.0.0.1:{stats}
    http-request use-service prometheus-exporter if {{ path /metrics }}
    stats enable
    stats uri /stats
    stats refresh 5s
"
    )
}

/// Health is asked for on the operators' listener.
fn server(node: &Gateway) -> String {
    format!("    server {} 127.0.0.1:{} port {}\n", node.name(), node.public_port(), node.admin_port())
}
