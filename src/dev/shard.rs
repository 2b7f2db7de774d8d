//! One shard: a primary and its streaming replicas.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{join_all, try_join_all};

use super::layout::Layout;
use super::{Error, Options, Postgres};

#[derive(Debug)]
pub struct Shard {
    name: String,
    servers: Vec<Postgres>,
    primary: AtomicUsize,
}

impl Shard {
    /// Starts shard number `index` on the data that is there, making what isn't.
    pub async fn start(layout: &Layout, index: usize, options: &Options) -> Result<Self, Error> {
        let name = shard_name(index);
        let names: Vec<String> = (1..=options.replicas + 1).map(|n| format!("{name}-{n}")).collect();
        let leader = layout
            .last_primary(&name)
            .and_then(|last| names.iter().position(|name| *name == last))
            .unwrap_or(0);
        let primary = open_primary(layout, &names[leader]).await?;
        layout.remember_primary(&name, primary.name())?;

        let others = names.iter().enumerate().filter(|(i, _)| *i != leader);
        let replicas = try_join_all(others.map(|(_, name)| open_replica(layout, name, &primary))).await?;
        let standbys: Vec<&str> = replicas.iter().map(Postgres::name).collect();
        primary.set_synchronous(if options.sync { &standbys } else { &[] }).await?;

        let mut servers = replicas;
        servers.insert(leader, primary);
        Ok(Self { name, servers, primary: AtomicUsize::new(leader) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn servers(&self) -> &[Postgres] {
        &self.servers
    }

    pub fn primary(&self) -> &Postgres {
        &self.servers[self.primary.load(Ordering::SeqCst)]
    }

    pub fn replicas(&self) -> impl Iterator<Item = &Postgres> {
        let leader = self.primary.load(Ordering::SeqCst);
        self.servers.iter().enumerate().filter(move |(i, _)| *i != leader).map(|(_, server)| server)
    }

    /// The primary first: its last words reach the replicas.
    pub async fn stop(&self) {
        for server in &self.servers {
            server.service().resume();
        }
        self.primary().stop().await;
        join_all(self.replicas().map(Postgres::stop)).await;
    }
}

/// a, b, c …
fn shard_name(index: usize) -> String {
    char::from(b'a' + u8::try_from(index).expect("at most 26 shards")).to_string()
}

async fn open_primary(layout: &Layout, name: &str) -> Result<Postgres, Error> {
    let folder = layout.database(name);
    let port = layout.port(name)?;
    if Postgres::exists(&folder) {
        return Postgres::open(&folder, name, port, None).await;
    }
    Postgres::create(&folder, name, port).await
}

async fn open_replica(layout: &Layout, name: &str, primary: &Postgres) -> Result<Postgres, Error> {
    let folder = layout.database(name);
    let port = layout.port(name)?;
    if !Postgres::is_replica(&folder) {
        return Postgres::copy(&folder, name, port, primary).await;
    }
    primary.ensure_slot(name).await?;
    let replica = Postgres::open(&folder, name, port, Some(primary)).await?;
    primary.wait_for_stream(name).await?;
    Ok(replica)
}
