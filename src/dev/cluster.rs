//! The whole of it: shards, Redis, nodes, balancer, and who looks after them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join, try_join_all};
use nix::sys::signal::Signal;

use super::gateway::{AUDIENCE, ISSUER, KEY_ID, Planned};
use super::layout::{Layout, replace, write_secret};
use super::migrations::migrate;
use super::supervise::{Notice, Observer, Supervisor};
use super::{Error, Gateway, Haproxy, Options, Postgres, Prometheus, Redis, Service, Shard, demo, report};
use crate::tasks::Tasks;

/// A running cluster. [`Cluster::stop`] ends it in order; dropping it ends it at
/// once. Its data stays.
pub struct Cluster {
    inner: Arc<Inner>,
    tasks: Tasks,
    observer: Observer,
}

/// Fields are dropped in the order of writing: who depends on others goes first.
pub(super) struct Inner {
    prometheus: Option<Prometheus>,
    haproxy: Haproxy,
    nodes: Vec<Gateway>,
    redis: Redis,
    /// One may be added, none goes.
    shards: boxcar::Vec<Shard>,
    demo: report::Demo,
    layout: Layout,
    options: Options,
}

impl Cluster {
    /// Starts everything and returns once a drawing could go through. What is
    /// found in the data folder is used again.
    pub async fn start(options: &Options, observer: Observer) -> Result<Self, Error> {
        options.check().map_err(Error::Other)?;
        let inner = Arc::new(Inner::start(options, &observer).await?);
        inner.write_report()?;
        let cluster = Self { inner, tasks: Tasks::new(), observer };
        cluster.inner.services().for_each(|service| cluster.supervise(service));
        Ok(cluster)
    }

    fn supervise(&self, service: &Arc<Service>) {
        let supervisor = Supervisor {
            service: service.clone(),
            cluster: Arc::downgrade(&self.inner),
            observer: self.observer.clone(),
            restart: self.inner.options.restart,
            stop: self.tasks.stop_signal(),
        };
        self.tasks.spawn("dev-supervisor", supervisor.run());
    }

    /// Starts the servers of one more shard, empty, puts it into the nodes'
    /// configuration, and has them read that again. The shard's name. One at a time.
    pub async fn add_shard(&self) -> Result<String, Error> {
        let inner = &self.inner;
        let index = inner.shards.count();
        Options { shards: index + 1, ..inner.options.clone() }.check().map_err(Error::Other)?;
        let shard = Shard::start(&inner.layout, index, &inner.options).await?;
        let name = shard.name().to_owned();
        shard.servers().iter().for_each(|server| self.supervise(server.service()));
        inner.shards.push(shard);
        inner.layout.remember_shards(index + 1)?;
        for node in &inner.nodes {
            node.write(&inner.layout, &inner.options, &inner.shards(), &inner.redis)?;
            node.service().signal(Signal::SIGHUP);
        }
        inner.write_report()?;
        Ok(name)
    }

    /// Takes it down in order, so that the next start is a quick one.
    pub async fn stop(&self) {
        self.tasks.stop();
        let inner = &self.inner;
        for service in inner.services() {
            service.resume();
        }
        join_all(inner.nodes.iter().map(|node| node.service().stop())).await;
        join_all(inner.others().map(|service| service.stop())).await;
        join_all(inner.shards().into_iter().map(Shard::stop)).await;
        if let Err(left) = self.tasks.ended(Duration::from_secs(5)).await {
            tracing::warn!(?left, "supervisors are still running");
        }
    }

    /// Replaces the primary of shard number `shard` by a replica of it; the new
    /// primary's name.
    pub async fn fail_over(&self, shard: usize) -> Result<String, Error> {
        let name = self.inner.shards[shard].fail_over(&self.inner.layout).await?;
        self.inner.write_report()?;
        Ok(name)
    }

    /// Promotes a replica of shard number `shard`, whatever its primary does; for
    /// [`Cluster::gather`].
    pub async fn promote(&self, shard: usize) -> Result<u64, Error> {
        let fork = self.inner.shards[shard].promote(&self.inner.layout).await?;
        self.inner.write_report()?;
        Ok(fork)
    }

    /// Has the shard's other servers follow the promoted one, once nobody else is
    /// a primary.
    pub async fn gather(&self, shard: usize, fork: u64) -> Result<(), Error> {
        self.inner.shards[shard].gather(fork).await
    }

    pub fn report(&self) -> report::Report {
        self.inner.report()
    }

    /// The balancer's.
    pub fn url(&self) -> String {
        self.inner.haproxy.url()
    }

    pub fn nodes(&self) -> &[Gateway] {
        &self.inner.nodes
    }

    pub fn shards(&self) -> Vec<&Shard> {
        self.inner.shards()
    }

    pub fn redis(&self) -> &Redis {
        &self.inner.redis
    }

    pub fn haproxy(&self) -> &Haproxy {
        &self.inner.haproxy
    }

    /// Every process, in the order of the table of addresses.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.inner.services().cloned().collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.tasks.stop();
        for service in self.inner.services() {
            service.kill_blocking();
        }
    }
}

impl Inner {
    async fn start(options: &Options, observer: &Observer) -> Result<Self, Error> {
        let step = |text: String| observer(Notice::Step(text));
        let layout = Layout::open(&options.data, options.shards, options.reset)?;
        let options = &Options { shards: layout.shards(), ..options.clone() };
        // Taken first: a taken port is told at once, not after the databases.
        let public = layout.balancer_port(options.port)?;
        make_key(&layout)?;

        let (s, r) = (options.shards, options.replicas);
        step(format!("starting {s} PostgreSQL shard(s) with {r} replica(s) each, and Redis"));
        let redis_port = layout.port("redis")?;
        let redis_folder = layout.folder("redis")?;
        let shards = try_join_all((0..options.shards).map(|i| Shard::start(&layout, i, options)));
        let (shards, redis) = try_join(shards, Redis::start_on(&redis_folder, redis_port)).await?;

        step(format!("migrating, and starting {} node(s)", options.nodes));
        let planned = (0..options.nodes)
            .map(|i| Planned::new(&layout, i, options, &shards.iter().collect::<Vec<_>>(), &redis))
            .collect::<Result<Vec<_>, _>>()?;
        migrate(&planned[0].file).await?;
        let nodes = planned.into_iter().map(Planned::launch).collect::<Result<Vec<_>, _>>()?;
        try_join_all(nodes.iter().map(|node| node.service().ready())).await?;

        step("starting HAProxy".to_owned());
        let haproxy = Haproxy::start(&layout, public, &nodes).await?;
        let demo = demo::seed(&haproxy.url()).await?;
        let prometheus = match options.prometheus {
            true => Some(Prometheus::start(&layout, &nodes, &haproxy).await?),
            false => None,
        };
        let (shards, options) = (shards.into_iter().collect(), options.clone());
        Ok(Self { prometheus, haproxy, nodes, redis, shards, demo, layout, options })
    }

    fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        let servers = self.shards().into_iter().flat_map(Shard::servers).map(Postgres::service);
        self.nodes.iter().map(Gateway::service).chain(self.others()).chain(servers)
    }

    fn shards(&self) -> Vec<&Shard> {
        self.shards.iter().map(|(_, shard)| shard).collect()
    }

    /// All but nodes and databases.
    fn others(&self) -> impl Iterator<Item = &Arc<Service>> {
        let prometheus = self.prometheus.iter().map(Prometheus::service);
        [self.haproxy.service(), self.redis.service()].into_iter().chain(prometheus)
    }

    pub fn write_report(&self) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(&self.report()).expect("strings and numbers");
        replace(&self.layout.file("dev.json"), &text)
    }

    fn report(&self) -> report::Report {
        report::Report {
            lb: self.haproxy.url(),
            nodes: self.nodes.iter().map(report_node).collect(),
            shards: self.shards().into_iter().map(report_shard).collect(),
            directory: report::Directory { admin_dsn: self.shards[0].primary().admin_dsn() },
            redis: report::Redis { url: self.redis.url(), pid: self.redis.service().pid() },
            haproxy: report::Haproxy {
                pid: self.haproxy.service().pid(),
                stats_url: self.haproxy.stats_url(),
            },
            prometheus: self.prometheus.as_ref().map(|p| report::Prometheus { url: p.url() }),
            demo: self.demo.clone(),
            jwt: report::Jwt {
                issuer: ISSUER.to_owned(),
                audience: AUDIENCE.to_owned(),
                kid: KEY_ID.to_owned(),
                alg: "HS256".to_owned(),
                key_file: self.layout.file("jwt.key"),
            },
        }
    }
}

/// 256 random bits as text, kept over restarts so that tokens stay good.
fn make_key(layout: &Layout) -> Result<(), Error> {
    let path = layout.file("jwt.key");
    if path.exists() {
        return Ok(());
    }
    let key = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    write_secret(&path, key.as_bytes())
}

fn report_node(node: &Gateway) -> report::Node {
    report::Node {
        name: node.name().to_owned(),
        url: node.url(),
        admin_url: node.admin_url(),
        pid: node.service().pid(),
    }
}

fn report_shard(shard: &Shard) -> report::Shard {
    let primary = shard.primary().name();
    let endpoint = |server: &Postgres| report::Endpoint {
        name: server.name().to_owned(),
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        role: if server.name() == primary { report::Role::Primary } else { report::Role::Replica },
        pid: server.service().pid(),
        admin_dsn: server.admin_dsn(),
        data_dir: server.data_dir(),
    };
    report::Shard { name: shard.name().to_owned(), endpoints: shard.servers().iter().map(endpoint).collect() }
}
