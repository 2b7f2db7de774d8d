//! SIGHUP: a running node reads its configuration again and takes over what can
//! change live.
//!
//! Guarantees: a configuration with an error in it changes nothing; what changed,
//! and what of it waits for a restart, is told in one line, by the names of keys.
//! A shard may join, now or once it is ready. Endpoints of those that are there
//! are not live: each is pools, a monitor and a place in the budget of connections
//! that was checked at the start, so they change with a restart, node by node.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::sleep;

use crate::auth::{Rules, Verifier};
use crate::config::Config;
use crate::databases::Databases;
use crate::ids::ShardName;
use crate::limits::Limits;
use crate::store;
use crate::store::append::Appender;
use crate::tasks::Stop;

/// How the configuration is read again, and the log told of its filter.
pub struct Sources {
    /// Checked, or what is wrong with it, a line each.
    pub read: Box<dyn Fn() -> Result<Config, String> + Send>,
    /// Of a configuration that was read by `read`.
    pub filter_log: Box<dyn Fn(&str) + Send>,
}

/// What goes by the configuration of the moment.
#[derive(Clone)]
pub struct Followers {
    pub limits: Limits,
    pub verifier: Verifier,
    pub appender: Appender,
    pub databases: Databases,
}

/// Between two tries to take a shard in that is not ready yet.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The task that waits for the signal.
pub struct Reload {
    /// In force: as at the start, but for what was taken over since.
    config: Config,
    /// As it was read last, if there are shards in it that could not join yet; and
    /// what was told of each.
    wanted: Option<Config>,
    told: BTreeMap<ShardName, String>,
    sources: Sources,
    followers: Followers,
}

impl Reload {
    pub fn new(config: &Config, sources: Sources, followers: Followers) -> Self {
        Self { config: config.clone(), wanted: None, told: BTreeMap::new(), sources, followers }
    }

    /// Reloads at every signal.
    pub async fn run(mut self, mut asked: Signal, mut stop: Stop) {
        loop {
            tokio::select! {
                received = asked.recv() => match received {
                    Some(()) => self.reload().await,
                    None => return,
                },
                () = sleep(TRY_AGAIN), if self.wanted.is_some() => self.join_shards().await,
                () = stop.wait() => return,
            }
        }
    }

    async fn reload(&mut self) {
        match self.try_reload() {
            Ok(new) => {
                self.wanted = Some(new);
                self.told.clear();
                self.join_shards().await;
            }
            Err(problem) => {
                tracing::error!(%problem, "the configuration is refused; the one in force stays");
            }
        }
    }

    /// Those that are not known here yet.
    async fn join_shards(&mut self) {
        let Some(wanted) = self.wanted.take() else { return };
        let mut all_joined = true;
        for shard in &wanted.shards {
            if self.config.shards.iter().any(|known| known.name == shard.name) {
                continue;
            }
            let Followers { databases, appender, .. } = &self.followers;
            match databases.join(shard, &wanted, appender).await {
                Ok(()) => {
                    tracing::info!(shard = %shard.name, "a shard joined; slots may be moved to it");
                    self.config.shards.push(shard.clone());
                }
                Err(error) => {
                    all_joined = false;
                    let problem = error.to_string();
                    if self.told.get(&shard.name) != Some(&problem) {
                        tracing::warn!(shard = %shard.name, problem, "a shard can't join yet; tried again until it can");
                        self.told.insert(shard.name.clone(), problem);
                    }
                }
            }
        }
        if !all_joined {
            self.wanted = Some(wanted);
        }
    }

    /// Nothing is changed before everything has been checked.
    fn try_reload(&mut self) -> Result<Config, String> {
        let new = (self.sources.read)()?;
        let rules = Rules::load(&new.auth).map_err(|error| error.to_string())?;
        rules.check_can_sign().map_err(|error| error.to_string())?;

        let mut changed = self.config.changed_to(&new);
        let Followers { limits, verifier, appender, .. } = &self.followers;
        limits.reload(&new.limits);
        appender.bound_rooms(store::bounds(&new.limits));
        if verifier.replace(rules) && !changed.iter().any(|key| key.starts_with("auth.keys")) {
            // The same files with something else in them.
            changed.insert("auth.keys".to_owned());
        }
        self.config.take_live(&new);

        let joins = self.config.shards_to_join(&new);
        let is_live = |key: &&String| Config::is_live(key) || joins.contains(key.as_str());
        let (live, waiting): (Vec<_>, Vec<_>) = changed.iter().partition(is_live);
        let told_before = tracing::enabled!(tracing::Level::INFO);
        if told_before {
            tell(&live, &waiting);
        }
        (self.sources.filter_log)(&new.log.filter);
        if !told_before {
            tell(&live, &waiting);
        }
        Ok(new)
    }
}

fn tell(live: &[&String], waiting: &[&String]) {
    let list = |keys: &[&String]| keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(" ");
    let (changed, restart_needed) = (list(live), list(waiting));
    if waiting.is_empty() {
        tracing::info!(changed, "the configuration was read again");
    } else {
        tracing::warn!(
            changed,
            restart_needed,
            "the configuration was read again; some of it needs a restart"
        );
    }
}
