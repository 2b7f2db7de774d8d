//! Promoting a standby by hand, when a shard's primary is gone and nobody else
//! does it.
//!
//! Guarantees: nothing is promoted beside a server that is, or may still be, a
//! primary; what is promoted has every event that was acked in `sync`, unless
//! loss was accepted; and the directory's claim follows at once, so that the old
//! primary is fenced off if it comes back. The gateway's role looks, and claims;
//! only the migrations' role may promote.

mod ask;
mod decide;

pub use decide::{Answer, Asked, Decision, Refusal, Silence, Wish, decide};

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use thiserror::Error;
use tokio::time::{sleep, timeout};

use crate::config::{self, Config};
use crate::db::{Budget, Class, Connection, Connector, DbError, Sql};
use crate::ids::ShardName;
use crate::routing::staleness::Timeline;
use crate::routing::{Claim, Setup, Shard};
use crate::store::topology::{self, TopologyError};
use crate::tasks::Tasks;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

static MAY_PROMOTE: Sql = Sql {
    name: "may_promote",
    text: "SELECT has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE'), current_user::text",
};
static PROMOTE: Sql = Sql { name: "promote", text: "SELECT pg_promote(false)" };
static IN_RECOVERY: Sql = Sql {
    name: "promoted_yet",
    text: "SELECT pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn()::text, 'nothing')",
};
static ROLE: Sql = Sql {
    name: "promotion_directory",
    text: "SELECT pg_is_in_recovery(), system_identifier FROM pg_control_system()",
};

#[derive(Debug, Error)]
pub enum PromotionError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Database(#[from] DbError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("shard {0} was never claimed: no node has begun to use it, so there is nothing to fence")]
    NeverClaimed(ShardName),
    #[error("who is claimed for the shard can't be read, since no server of the directory answers ({0})")]
    NoDirectory(String),
    #[error(
        "the directory has no primary, so that a promoted server could not be claimed and nodes would not write \
         to it: bring that back first ({0})"
    )]
    ReadOnlyDirectory(String),
    #[error(
        "{user} may not promote {endpoint}. Once there is a primary, for the next time: GRANT EXECUTE ON FUNCTION \
         pg_promote(boolean, integer) TO {user}. For now, on {endpoint}: SELECT pg_promote() as a superuser, or \
         pg_ctl promote; the nodes claim it when they see it"
    )]
    MayNot { endpoint: String, user: String },
    #[error("{endpoint} was told to become the primary, and has not within {waited:?}; see its log")]
    NotPromoted { endpoint: String, waited: Duration },
    #[error(
        "{endpoint} is the primary now, but its claim was not made within {waited:?}: most likely it waits for a \
         synchronous standby. Have the others follow it; the claim is finished then, by the nodes if need be"
    )]
    NotClaimed { endpoint: String, waited: Duration },
}

/// All that was said at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    pub claim: Claim,
    /// In the order of the configuration.
    pub asked: Vec<Asked>,
}

/// A shard without a primary.
pub struct Promotion {
    config: Config,
    shard: config::Shard,
    tasks: Tasks,
}

impl Promotion {
    /// `None`: there is no such shard.
    pub fn of(config: &Config, shard: &str) -> Option<Self> {
        let shard = config.shards.iter().find(|known| known.name.as_str() == shard)?.clone();
        Some(Self { config: config.clone(), shard, tasks: Tasks::new() })
    }

    pub fn shard(&self) -> &config::Shard {
        &self.shard
    }

    /// Asks everyone until two answers in turn say the same: while a standby
    /// still receives or replays, it isn't known how far it is. A stream may also
    /// take a while to notice that its primary is gone. `say`: what is waited for.
    pub async fn survey(
        &self,
        wish: &Wish,
        wait: Duration,
        say: impl Fn(&str),
    ) -> Result<(Survey, Result<Decision, Refusal>), PromotionError> {
        let deadline = Instant::now() + wait;
        let mut before: Option<Survey> = None;
        loop {
            let survey = self.look().await?;
            let decision = decide(&survey.asked, &survey.claim, wish);
            let passes = matches!(decision, Err(Refusal::Streaming { .. } | Refusal::Unclear { .. }));
            let settled = before.as_ref() == Some(&survey) && !passes;
            if settled || Instant::now() >= deadline || matches!(decision, Err(Refusal::Alive { .. })) {
                return Ok((survey, decision));
            }
            if let Err(refusal @ (Refusal::Streaming { .. } | Refusal::Unclear { .. })) = &decision {
                say(&format!("waiting: {refusal}"));
            } else if before.is_some() {
                say("waiting: the standbys are still receiving or replaying");
            }
            before = Some(survey);
            sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Result<Survey, PromotionError> {
        let (claim, asked) = futures_util::future::join(
            self.claimed(),
            join_all(self.shard.endpoints.iter().map(|endpoint| ask::ask(endpoint, &self.tasks))),
        )
        .await;
        Ok(Survey { claim: claim?, asked })
    }

    /// The newest claim that any server of the directory knows. It must be one
    /// that can be written soon: by a primary, or by the shard's own.
    async fn claimed(&self) -> Result<Claim, PromotionError> {
        let endpoints = &self.config.directory.endpoints;
        let answers = join_all(endpoints.iter().map(|endpoint| self.claim_at(endpoint))).await;
        let (mut newest, mut errors): (Option<Claim>, Vec<String>) = (None, Vec::new());
        let (mut answered, mut writable) = (false, false);
        for (endpoint, answer) in endpoints.iter().zip(answers) {
            match answer {
                Ok((claim, is_writable)) => {
                    (answered, writable) = (true, writable || is_writable);
                    let timeline = newest.as_ref().map(|claim| claim.timeline);
                    newest = claim.filter(|claim| Some(claim.timeline) > timeline).or(newest);
                }
                Err(error) => errors.push(format!("{}: {error}", endpoint.name)),
            }
        }
        let claim = newest.ok_or_else(|| self.shard.name.clone());
        match claim {
            _ if !answered => Err(PromotionError::NoDirectory(errors.join("; "))),
            _ if !writable => Err(PromotionError::ReadOnlyDirectory(errors.join("; "))),
            claim => claim.map_err(PromotionError::NeverClaimed),
        }
    }

    /// What this server of the directory knows, and whether a claim can be
    /// written there now or after the promotion.
    async fn claim_at(&self, endpoint: &config::Endpoint) -> Result<(Option<Claim>, bool), DbError> {
        let connection = Connector::new(endpoint, ask::settings(), &self.tasks).connect().await?;
        let role = ask::query(&connection, &ROLE).await?;
        let (in_recovery, system_id): (bool, i64) = (role.get(0), role.get(1));
        let names: Vec<&str> = self.shard.endpoints.iter().map(|known| known.name.as_str()).collect();
        let claim = topology::decided(&connection, &self.shard.name, &names).await?;
        let is_ours = claim.as_ref().is_some_and(|claim| claim.system_id.0 == system_id);
        Ok((claim, !in_recovery || is_ours))
    }

    /// Whether the migrations' role could promote it.
    pub async fn check_right(&self, endpoint: &str) -> Result<(), PromotionError> {
        self.promoter(endpoint).await.map(drop)
    }

    /// Makes a primary of it; its new timeline. `say`: what is waited for.
    pub async fn promote(
        &self,
        endpoint: &str,
        wait: Duration,
        say: impl Fn(&str),
    ) -> Result<Timeline, PromotionError> {
        let mut promoter = self.promoter(endpoint).await?;
        let until = Instant::now() + wait;
        ask::query(&promoter, &PROMOTE).await?;
        // From here on it will be a primary, so an error is a reason to look again.
        loop {
            match self.timeline(endpoint, &promoter).await {
                Ok(Ok(timeline)) => return Ok(timeline),
                Ok(Err(replayed)) => say(&format!("{endpoint} has replayed {replayed}")),
                Err(error) => say(&format!("{endpoint}: {error}")),
            }
            if Instant::now() >= until {
                return Err(PromotionError::NotPromoted { endpoint: endpoint.to_owned(), waited: wait });
            }
            sleep(LOOK_EVERY).await;
            if promoter.is_broken()
                && let Ok(again) = self.promoter(endpoint).await
            {
                promoter = again;
            }
        }
    }

    /// Of a primary; or how far one has replayed that isn't yet.
    async fn timeline(
        &self,
        endpoint: &str,
        promoter: &Connection,
    ) -> Result<Result<Timeline, String>, PromotionError> {
        let row = ask::query(promoter, &IN_RECOVERY).await?;
        if row.get(0) {
            return Ok(Err(row.get(1)));
        }
        let answer = ask::ask(self.endpoint(endpoint)?, &self.tasks).await.answer;
        let gone = |silence: Silence| DbError::new(Class::Connection, PROMOTE.name, silence.why);
        Ok(Ok(answer.map_err(gone)?.timeline))
    }

    /// Writes the claim into the directory and onto the server, as a node does.
    pub async fn claim(&self, endpoint: &str, wait: Duration) -> Result<(), PromotionError> {
        let late = |_| PromotionError::NotClaimed { endpoint: endpoint.to_owned(), waited: wait };
        let claimed = timeout(wait, self.claim_within(endpoint, Instant::now() + wait)).await;
        self.tasks.stop();
        claimed.map_err(late)?
    }

    async fn claim_within(&self, endpoint: &str, deadline: Instant) -> Result<(), PromotionError> {
        let pool = config::Pool { min_idle: 0, max_connections: 2, ..self.config.pool.clone() };
        let budget = Budget::of(&self.config);
        let setup = |search_path| Setup {
            node: &self.config.node,
            pool: &pool,
            budget: &budget,
            reads: &self.config.reads,
            lock_timeout: self.config.writes.lock_timeout,
            search_path,
            statements: &[],
        };
        let directory = Shard::start(&self.config.directory.as_shard(), setup("directory"), &self.tasks);
        let shard = Shard::start(&self.shard, setup("public"), &self.tasks);
        let promoted = shard.endpoints().iter().find(|known| known.name() == endpoint).cloned();
        let promoted = promoted.ok_or_else(|| Refusal::NotAStandby(endpoint.to_owned()))?;
        Ok(topology::claim_promoted(&directory, &shard, &promoted, deadline).await?)
    }

    async fn promoter(&self, endpoint: &str) -> Result<Connection, PromotionError> {
        let promoter = self.endpoint(endpoint)?.as_migrator(&self.config.migrations);
        let connection = Connector::new(&promoter, ask::settings(), &self.tasks).connect().await?;
        let row = ask::query(&connection, &MAY_PROMOTE).await?;
        if row.get::<_, bool>(0) {
            return Ok(connection);
        }
        Err(PromotionError::MayNot { endpoint: endpoint.to_owned(), user: row.get(1) })
    }

    fn endpoint(&self, name: &str) -> Result<&config::Endpoint, Refusal> {
        let found = self.shard.endpoints.iter().find(|known| known.name == name);
        found.ok_or_else(|| Refusal::NotAStandby(name.to_owned()))
    }
}
