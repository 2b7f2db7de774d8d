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
    sync: bool,
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
        Ok(Self { name, servers, primary: AtomicUsize::new(leader), sync: options.sync })
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

    /// Kills the primary, promotes the replica that has most of its log, and makes
    /// a replica of the old one. The new primary's name.
    ///
    /// In that order: two primaries at a time would both be written to.
    pub async fn fail_over(&self, layout: &Layout) -> Result<String, Error> {
        if !self.replicas().any(|replica| replica.service().is_running()) {
            return Err(Error::Other(format!("shard {} has no replica to promote", self.name)));
        }
        self.primary().service().kill_for_good().await;
        let fork = self.promote(layout).await?;
        self.gather(fork).await?;
        Ok(self.primary().name().to_owned())
    }

    /// Promotes the replica that has most of the log, whatever the primary does.
    /// Up to where the others may have the log to follow it.
    pub async fn promote(&self, layout: &Layout) -> Result<u64, Error> {
        let place = self.furthest_replica().await?;
        let new = &self.servers[place];
        let others = self.servers.iter().filter(|server| server.name() != new.name());
        let standbys: Vec<&str> = others.map(Postgres::name).collect();
        new.set_synchronous(if self.sync { &standbys } else { &[] }).await?;
        let fork = new.promote().await?;
        self.primary.store(place, Ordering::SeqCst);
        layout.remember_primary(&self.name, new.name())?;
        Ok(fork)
    }

    /// Makes replicas of the primary of all others, which hear nobody else now.
    /// Who can just follow it goes first: in `sync` a commit waits for one.
    pub async fn gather(&self, fork: u64) -> Result<(), Error> {
        let new = self.primary();
        let (mut follow, mut rebuild) = (Vec::new(), Vec::new());
        for server in self.replicas() {
            let follows = server.service().is_running()
                && server.in_recovery().await?
                && server.flushed().await? <= fork;
            if follows { follow.push(server) } else { rebuild.push(server) }
        }
        for server in &follow {
            server.follow(new).await?;
        }
        for server in rebuild {
            server.rebuild(new).await?;
        }
        for server in follow {
            new.wait_for_stream(server.name()).await?;
        }
        Ok(())
    }

    async fn furthest_replica(&self) -> Result<usize, Error> {
        let leader = self.primary.load(Ordering::SeqCst);
        let mut best = None;
        for (place, server) in self.servers.iter().enumerate() {
            if place != leader && server.service().is_running() {
                best = best.max(Some((server.flushed().await?, place)));
            }
        }
        best.map(|(_, place)| place)
            .ok_or_else(|| Error::Other(format!("the replicas of shard {} are gone", self.name)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::{Scratch, connect};

    #[tokio::test]
    async fn what_was_committed_in_sync_survives_a_failover_and_a_restart() {
        let scratch = Scratch::new("shard").unwrap();
        let mut options = Options::new(scratch.path(), "unused");
        (options.replicas, options.sync) = (2, true);
        let layout = Layout::open(scratch.path(), 1, false).unwrap();
        let shard = Shard::start(&layout, 0, &options).await.unwrap();
        let owner = connect(&shard.primary().dsn("roomgate_owner")).await.unwrap();
        owner.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();

        let promoted = shard.fail_over(&layout).await.unwrap();
        assert_ne!(promoted, "a-1");
        assert_eq!(shard.replicas().count(), 2);
        let owner = connect(&shard.primary().dsn("roomgate_owner")).await.unwrap();
        owner.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();

        shard.stop().await;
        drop((owner, shard));
        let shard = Shard::start(&layout, 0, &options).await.unwrap();
        assert_eq!(shard.primary().name(), promoted);
        let admin = shard.primary().admin().await.unwrap();
        let rows = admin.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
        assert_eq!(rows.get::<_, i64>(0), 2);
    }
}
