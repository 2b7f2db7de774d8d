//! Asks every endpoint of a shard, again and again, who it is and how far it
//! has come, and publishes what follows from the answers.
//!
//! On its own connections, never the pools', so that it sees a server whose
//! pool is exhausted. One task a shard; each endpoint is asked independently,
//! so that a frozen one doesn't slow down what is known of the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{sleep, sleep_until, timeout};

use super::endpoint::Endpoint;
use super::roles::{Claim, Sighting, Standing, SystemId, judge};
use super::shard::{Facts, Known, Shared};
use super::staleness::{Lsn, Samples, Timeline};
use crate::clock::{Ahead, UnixMillis};
use crate::db::{
    Class, Connection, ConnectionLimit, Connector, DbError, OverBudget, Row, ServerFacts, SessionSettings,
    Sql,
};
use crate::metrics::{PoolUse, Role};
use crate::tasks::{Stop, Tasks};

/// Nudged or not, an endpoint isn't asked more often than this.
const LEAST_GAP: Duration = Duration::from_millis(20);
/// Two minutes at the default interval: beyond that a replica's staleness is
/// unknown, which excludes it as surely.
const SAMPLES_KEPT: usize = 512;

/// Roles are asked of the functions that only work in that role, so an answer
/// that raced with a promotion is an error and asked anew. The timeline is the
/// true one: that of the WAL being written, and on a replica that of the WAL
/// being received, or else the last one that it noted down while replaying.
static LOOK: Sql = Sql {
    name: "monitor",
    text: "SELECT recovering,
       CASE WHEN recovering THEN coalesce(
                (SELECT received_tli FROM pg_stat_wal_receiver),
                greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                         (SELECT min_recovery_end_timeline FROM pg_control_recovery())))
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS timeline,
       (CASE WHEN recovering THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END)::text AS lsn,
       (SELECT system_identifier FROM pg_control_system()) AS system_id,
       (SELECT status FROM pg_stat_wal_receiver) AS receiver,
       (SELECT count(*) FROM pg_stat_replication
         WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')) AS synchronous,
       (SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND state <> 'idle') AS active,
       current_setting('fsync') = 'on'
         AND current_setting('full_page_writes') = 'on'
         AND current_setting('data_sync_retry') = 'off'
         AND current_setting('ignore_invalid_pages') = 'off'
         AND current_setting('zero_damaged_pages') = 'off'
         AND current_setting('ignore_checksum_failure') = 'off'
         AND current_setting('session_replication_role') = 'origin' AS keeps_its_word,
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock_ms
  FROM (SELECT pg_is_in_recovery() AS recovering OFFSET 0) AS role",
};

/// One endpoint's answer.
#[derive(Debug, Clone)]
struct Answer {
    /// Before the question was sent.
    asked: Instant,
    clock_ahead: Ahead,
    sighting: Sighting,
    receiver: Option<String>,
    synchronous_standbys: i64,
    active_connections: i64,
    limit: ConnectionLimit,
}

/// What is remembered of an endpoint between answers.
struct Observed {
    answer: Option<Answer>,
    /// [`Endpoint::doubts`] when the answer was asked for.
    doubts: u64,
    error: Option<DbError>,
    over_budget: Option<OverBudget>,
    settled: bool,
    standing: Standing,
    /// What its connections were opened to: role and, if writable, timeline.
    used_as: Option<(bool, Option<Timeline>)>,
}

pub(super) struct Monitor {
    shard: Arc<Shared>,
    samples: Samples,
    highest: Timeline,
    observed: Vec<Observed>,
}

impl Monitor {
    pub(super) fn new(shard: Arc<Shared>) -> Self {
        let observed = shard.endpoints.iter().map(|_| Observed {
            answer: None,
            doubts: 0,
            error: None,
            over_budget: None,
            settled: false,
            standing: Standing::Down,
            used_as: None,
        });
        let observed = observed.collect();
        Self { shard, samples: Samples::new(SAMPLES_KEPT), highest: Timeline::default(), observed }
    }

    pub(super) async fn run(mut self, tasks: Tasks, mut stop: Stop) {
        let mut claim = self.shard.claim.subscribe();
        let mut probes: FuturesUnordered<_> = self
            .shard
            .endpoints
            .iter()
            .map(|endpoint| Probe::new(endpoint.clone(), &self.shard, &tasks).ask(true))
            .collect();
        loop {
            // All arms are cancel-safe.
            tokio::select! {
                () = stop.wait() => return,
                Some((probe, doubts, result)) = probes.next() => {
                    self.note(probe.endpoint.index, doubts, result);
                    probes.push(probe.ask(false));
                }
                Ok(()) = claim.changed() => {}
            }
            self.publish();
        }
    }

    fn note(&mut self, index: usize, doubts: u64, result: Result<Answer, DbError>) {
        let (Some(endpoint), Some(observed)) =
            (self.shard.endpoints.get(index), self.observed.get_mut(index))
        else {
            return;
        };
        observed.doubts = doubts;
        match result {
            Ok(answer) => {
                let over_budget = endpoint.demand.check(answer.limit).err();
                if let Some(over) = over_budget.as_ref().filter(|_| over_budget != observed.over_budget) {
                    let (shard, name) = (self.shard.name.as_str(), endpoint.name());
                    tracing::error!(shard, endpoint = name, "too few connections: {over}");
                }
                observed.over_budget = over_budget;
                observed.error = None;
                observed.answer = Some(answer);
            }
            Err(error) => {
                observed.error = Some(error);
                observed.answer = None;
            }
        }
    }

    /// Judges anew and tells everyone.
    fn publish(&mut self) {
        let claim = self.shard.claim.borrow().clone();
        let sightings = self.sightings();
        let names: Vec<&str> = self.shard.endpoints.iter().map(|e| e.name()).collect();
        let standings = judge(&names, &sightings, self.highest, claim.as_ref());
        self.raise_highest(&sightings, claim.as_ref());
        self.take_sample(&standings);
        for (index, standing) in standings.iter().enumerate() {
            self.apply(index, *standing);
        }
        let now = Instant::now();
        let facts: Vec<Facts> = (0..self.observed.len()).map(|index| self.facts(index, now)).collect();
        self.measure(&facts, now);
        let known = Known { facts, timeline: self.samples.timeline() };
        self.shard.metrics.contested(known.contested(claim.as_ref()).is_some());
        self.shard.publish(known);
    }

    fn sightings(&self) -> Vec<Option<Sighting>> {
        let current = |(endpoint, observed): (&Arc<Endpoint>, &Observed)| {
            let answer = observed.answer.as_ref().filter(|_| observed.doubts == endpoint.doubts());
            answer.map(|answer| answer.sighting)
        };
        self.shard.endpoints.iter().zip(&self.observed).map(current).collect()
    }

    fn raise_highest(&mut self, sightings: &[Option<Sighting>], claim: Option<&Claim>) {
        let ours = |seen: &&Sighting| claim.is_none_or(|claim| claim.system_id == seen.system_id);
        let seen = sightings.iter().flatten().filter(ours).map(|seen| seen.timeline);
        self.highest = seen.fold(self.highest, Timeline::max);
    }

    fn take_sample(&mut self, standings: &[Standing]) {
        let primary = standings.iter().position(|standing| *standing == Standing::Primary);
        if let Some(answer) = primary.and_then(|i| self.observed.get(i)).and_then(|o| o.answer.as_ref()) {
            self.samples.record(answer.sighting.timeline, answer.asked, answer.sighting.lsn);
        }
    }

    /// Notes a change of standing; a change of role drops older connections.
    fn apply(&mut self, index: usize, standing: Standing) {
        let (Some(endpoint), Some(observed)) =
            (self.shard.endpoints.get(index), self.observed.get_mut(index))
        else {
            return;
        };
        let timeline = observed.answer.as_ref().map(|answer| answer.sighting.timeline);
        let used_as = match standing {
            Standing::Down => observed.used_as,
            Standing::Replica => Some((false, None)),
            Standing::Primary | Standing::Unclaimed => Some((true, timeline)),
            Standing::Fenced(_) => None,
        };
        if used_as != observed.used_as {
            observed.used_as = used_as;
            endpoint.pool().retire();
        }
        if standing == observed.standing {
            return;
        }
        let (shard, name) = (self.shard.name.as_str(), endpoint.name());
        match standing {
            Standing::Fenced(fence) => {
                tracing::error!(shard, endpoint = name, why = fence.as_str(), "endpoint fenced off");
            }
            Standing::Down => {
                let doubted = || "doubted by a writer".to_owned();
                let error = observed.error.as_ref().map_or_else(doubted, DbError::to_string);
                tracing::warn!(shard, endpoint = name, error, "endpoint down");
            }
            _ => tracing::info!(shard, endpoint = name, ?standing, ?timeline, "endpoint seen"),
        }
        observed.standing = standing;
    }

    fn measure(&self, facts: &[Facts], now: Instant) {
        let primary = facts.iter().find(|facts| facts.standing == Standing::Primary);
        let standbys = primary.map_or(0, |primary| primary.synchronous_standbys);
        self.shard.metrics.synchronous_standbys(u32::try_from(standbys).unwrap_or(u32::MAX));
        for (endpoint, facts) in self.shard.endpoints.iter().zip(facts) {
            let metrics = &endpoint.metrics;
            let pool = endpoint.pool().state();
            let role = match facts.standing {
                Standing::Primary => Role::Primary,
                Standing::Replica => Role::Replica,
                Standing::Down | Standing::Unclaimed | Standing::Fenced(_) => Role::Unknown,
            };
            let waiting = u32::try_from(pool.waiting).unwrap_or(u32::MAX);
            let max = endpoint.capacity();
            metrics.pool(role, PoolUse { size: pool.size, available: pool.idle, waiting, max });
            metrics.up(facts.standing != Standing::Down);
            metrics.is_primary(role == Role::Primary);
            metrics.fenced(matches!(facts.standing, Standing::Fenced(_)));
            metrics.timeline(facts.timeline.unwrap_or_default().0);
            metrics.active_connections(u32::try_from(facts.active_connections).unwrap_or_default());
            metrics.connections_allowed(facts.connections_allowed);
            metrics.breaker(endpoint.breaker.level());
            if let Some(ahead) = facts.clock_ahead {
                metrics.clock_offset(ahead.seconds());
            }
            match (role, facts.staleness(now)) {
                (Role::Primary, _) => metrics.replication_lag(Duration::ZERO, 0),
                // Behind everything that is remembered: as much as that, at least.
                (Role::Replica, staleness) => {
                    let oldest = || self.samples.oldest().map(|oldest| now.saturating_duration_since(oldest));
                    let staleness = staleness.or_else(oldest).unwrap_or_default();
                    metrics.replication_lag(staleness, facts.lag_bytes.unwrap_or_default());
                }
                // Its last figures stand; `up` says what they are worth.
                (Role::Unknown, _) => {}
            }
        }
    }

    fn facts(&mut self, index: usize, now: Instant) -> Facts {
        let Some(observed) = self.observed.get_mut(index) else { return Facts::default() };
        let answer = observed.answer.as_ref();
        let seen = answer.map(|answer| answer.sighting);
        let fresh_at = match observed.standing {
            Standing::Replica => seen.and_then(|seen| self.samples.fresh_at(seen.timeline, seen.lsn)),
            Standing::Primary => answer.map(|answer| answer.asked),
            _ => None,
        };
        let bound = self.shard.reads.max_stale;
        match fresh_at.map(|instant| now.saturating_duration_since(instant)) {
            Some(staleness) if staleness <= bound / 4 * 3 => observed.settled = true,
            Some(staleness) if staleness <= bound => {}
            _ => observed.settled = false,
        }
        Facts {
            standing: observed.standing,
            timeline: seen.map(|seen| seen.timeline),
            system_id: seen.map(|seen| seen.system_id),
            lsn: seen.map(|seen| seen.lsn),
            fresh_at,
            settled: observed.settled,
            lag_bytes: seen.zip(self.samples.newest()).map(|(seen, newest)| newest.bytes_since(seen.lsn)),
            receiver: answer.and_then(|answer| answer.receiver.clone()),
            synchronous_standbys: answer.map_or(0, |answer| answer.synchronous_standbys),
            active_connections: answer.map_or(0, |answer| answer.active_connections),
            connections_allowed: answer.map_or(0, |answer| answer.limit.allowed()),
            clock_ahead: answer.map(|answer| answer.clock_ahead),
            over_budget: observed.over_budget.clone(),
            error: observed.error.clone(),
        }
    }
}

/// Asks one endpoint on one connection, which it opens when needed.
struct Probe {
    endpoint: Arc<Endpoint>,
    /// What its server allows changes only when that is started again.
    connection: Option<(Connection, ConnectionLimit)>,
    connector: Connector,
    interval: Duration,
    limit: Duration,
}

impl Probe {
    fn new(endpoint: Arc<Endpoint>, shard: &Shared, tasks: &Tasks) -> Self {
        let limit = shard.reads.monitor_timeout;
        let settings = SessionSettings {
            application_name: format!("roomgate/{}/monitor", shard.node),
            statement_timeout: limit,
            lock_timeout: limit,
            ..shard.settings.clone()
        };
        let interval = shard.reads.monitor_interval;
        let connector = Connector::new(endpoint.config(), settings, tasks);
        Self { endpoint, connection: None, connector, interval, limit }
    }

    /// Waits for its time, unless `at_once`, or for a nudge, and asks.
    async fn ask(mut self, at_once: bool) -> (Self, u64, Result<Answer, DbError>) {
        if !at_once {
            let earliest = tokio::time::Instant::now() + LEAST_GAP.min(self.interval);
            tokio::select! {
                () = sleep(self.interval) => {}
                () = self.endpoint.nudge.notified() => sleep_until(earliest).await,
            }
        }
        let doubts = self.endpoint.doubts();
        let result = self.look().await;
        (self, doubts, result)
    }

    async fn look(&mut self) -> Result<Answer, DbError> {
        let late = |_| DbError::new(Class::Connection, "monitor", format!("no answer in {:?}", self.limit));
        let (connection, limit) = match self.connection.take() {
            Some((connection, limit)) if !connection.is_broken() => (connection, limit),
            _ => {
                let connection = self.connector.connect().await?;
                let facts = timeout(self.limit, ServerFacts::ask(&connection)).await.map_err(late)??;
                (connection, facts.connections)
            }
        };
        let (asked, wall) = (Instant::now(), UnixMillis::now());
        let row = timeout(self.limit, connection.query_one(&LOOK, &[])).await.map_err(late)??;
        let clock_ahead = Ahead::at_least(wall, asked.elapsed(), UnixMillis(row.get("clock_ms")));
        if !row.get::<_, bool>("keeps_its_word") {
            self.connector.check(&connection).await?;
        }
        let answer = read_answer(asked, clock_ahead, limit, &row)?;
        self.connection = Some((connection, limit));
        Ok(answer)
    }
}

fn read_answer(
    asked: Instant,
    clock_ahead: Ahead,
    limit: ConnectionLimit,
    row: &Row,
) -> Result<Answer, DbError> {
    let bad = |what: &str| DbError::new(Class::Other, "monitor", format!("no {what} in the answer"));
    // A replica that has not replayed anything yet has no position.
    let lsn: Option<String> = row.get("lsn");
    let lsn = lsn.as_deref().unwrap_or("0/0").parse::<Lsn>().map_err(|_| bad("position"))?;
    let timeline: Option<i32> = row.get("timeline");
    let timeline = timeline.and_then(|t| u32::try_from(t).ok()).ok_or_else(|| bad("timeline"))?;
    Ok(Answer {
        asked,
        clock_ahead,
        sighting: Sighting {
            in_recovery: row.get("recovering"),
            timeline: Timeline(timeline),
            system_id: SystemId(row.get("system_id")),
            lsn,
        },
        receiver: row.get("receiver"),
        synchronous_standbys: row.get("synchronous"),
        active_connections: row.get("active"),
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::CHECKED;

    #[test]
    fn each_look_compares_every_checked_setting() {
        for setting in CHECKED {
            let condition = format!("current_setting('{}') = '{}'", setting.name, setting.value);
            assert!(LOOK.text.contains(&condition), "{condition}");
        }
    }
}
