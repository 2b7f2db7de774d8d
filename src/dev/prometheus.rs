//! A Prometheus that watches the nodes and the balancer (`--prometheus`).

use std::sync::Arc;

use nix::sys::signal::Signal;

use super::gateway::Gateway;
use super::layout::{Layout, make_folder, replace};
use super::service::{Probe, Service};
use super::{Error, Haproxy, Port, Spec, binary};

/// The files of the folder `grafana` by which it judges and draws, as in
/// production.
macro_rules! grafana {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../grafana/", $name)))),*]
    };
}

const RULES: [(&str, &str); 2] = grafana!["prometheus/rules/recording.yml", "prometheus/rules/alerts.yml"];
/// Served below `/user/`.
const PAGES: [(&str, &str); 9] = grafana![
    "live/index.html",
    "live/live.js",
    "live/panels.js",
    "live/units.js",
    "dashboards/overview.json",
    "dashboards/node.json",
    "dashboards/shards.json",
    "dashboards/bus.json",
    "dashboards/rooms.json",
];

#[derive(Debug)]
pub struct Prometheus {
    service: Arc<Service>,
    port: Port,
}

impl Prometheus {
    pub async fn start(layout: &Layout, nodes: &[Gateway], haproxy: &Haproxy) -> Result<Self, Error> {
        let folder = layout.folder("prometheus")?;
        let port = layout.port("prometheus")?;
        let file = folder.join("prometheus.yml");
        replace(&file, configuration(nodes, haproxy).as_bytes())?;
        let pages = folder.join("pages");
        for path in ["prometheus/rules", "pages/live", "pages/dashboards"] {
            make_folder(&folder.join(path))?;
        }
        for (name, text) in RULES {
            replace(&folder.join(name), text.as_bytes())?;
        }
        for (name, text) in PAGES {
            replace(&pages.join(name), text.as_bytes())?;
        }
        let spec = Spec {
            name: "prometheus".to_owned(),
            program: binary::find("prometheus", "prometheus")?,
            args: vec![
                format!("--config.file={}", file.display()),
                format!("--storage.tsdb.path={}", folder.join("data").display()),
                format!("--web.listen-address=127.0.0.1:{}", port.number()),
                format!("--web.user-assets={}", pages.display()),
            ],
            env: Vec::new(),
            log: folder.join("prometheus.log"),
            folder,
            user: None,
            stop_with: Signal::SIGTERM,
            kill_with: Signal::SIGKILL,
        };
        let service = Service::launch(spec, Probe::Http { port: port.number(), path: "/-/ready" })?;
        service.ready().await?;
        Ok(Self { service: Arc::new(service), port })
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }
}

fn configuration(nodes: &[Gateway], haproxy: &Haproxy) -> String {
    let target = |node: &Gateway| {
        let (name, port) = (node.name(), node.admin_port());
        format!("      - targets: ['127.0.0.1:{port}']\n        labels: {{node: '{name}'}}\n")
    };
    let targets: String = nodes.iter().map(target).collect();
    let balancer = haproxy.metrics_address();
    format!(
        "global:
  scrape_interval: 2s
  evaluation_interval: 2s
rule_files: [prometheus/rules/*.yml]
scrape_configs:
  - job_name: roomgate
    static_configs:
{targets}  - job_name: haproxy
    static_configs:
      - targets: ['{balancer}']
"
    )
}
