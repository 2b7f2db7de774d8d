//! SIGHUP: a running node reads its configuration again and takes over what can
//! change live.
//!
//! Guarantees: a configuration with an error in it changes nothing; what changed,
//! and what of it waits for a restart, is told in one line, by the names of keys.
//! Endpoints are not live: each is pools, a monitor and a place in the budget of
//! connections that was checked at the start, so they change with a restart, node
//! by node.

use tokio::signal::unix::Signal;

use crate::auth::{Rules, Verifier};
use crate::config::Config;
use crate::limits::Limits;
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
}

/// The task that waits for the signal.
pub struct Reload {
    /// In force: as at the start, but for what was taken over since.
    config: Config,
    sources: Sources,
    followers: Followers,
}

impl Reload {
    pub fn new(config: &Config, sources: Sources, followers: Followers) -> Self {
        Self { config: config.clone(), sources, followers }
    }

    /// Reloads at every signal.
    pub async fn run(mut self, mut asked: Signal, mut stop: Stop) {
        loop {
            tokio::select! {
                received = asked.recv() => match received {
                    Some(()) => self.reload(),
                    None => return,
                },
                () = stop.wait() => return,
            }
        }
    }

    fn reload(&mut self) {
        if let Err(problem) = self.try_reload() {
            tracing::error!(%problem, "the configuration is refused; the one in force stays");
        }
    }

    /// Nothing is changed before everything has been checked.
    fn try_reload(&mut self) -> Result<(), String> {
        let new = (self.sources.read)()?;
        let rules = Rules::load(&new.auth).map_err(|error| error.to_string())?;
        rules.check_can_sign().map_err(|error| error.to_string())?;

        let mut changed = self.config.changed_to(&new);
        let Followers { limits, verifier, appender } = &self.followers;
        limits.reload(&new.limits);
        appender.limit_shapes(new.limits.message_bytes);
        if verifier.replace(rules) && !changed.iter().any(|key| key.starts_with("auth.keys")) {
            // The same files with something else in them.
            changed.insert("auth.keys".to_owned());
        }
        self.config.take_live(&new);

        let (live, waiting): (Vec<_>, Vec<_>) = changed.iter().partition(|key| Config::is_live(key));
        let told_before = tracing::enabled!(tracing::Level::INFO);
        if told_before {
            tell(&live, &waiting);
        }
        (self.sources.filter_log)(&new.log.filter);
        if !told_before {
            tell(&live, &waiting);
        }
        Ok(())
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
