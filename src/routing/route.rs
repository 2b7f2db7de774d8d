//! The way of one read: a target, and another if its answer won't do.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep_until, timeout_at};

use super::choose::{Candidate, Choice, Need, Reason, Refused, View, choose, still_does};
use super::endpoint::{Endpoint, InFlight};
use super::roles::Standing;
use super::shard::{Known, Shard, Shared};
use super::staleness::Timeline;
use crate::db::{Class, DbError, Row, Sql, ToSql};
use crate::ids::ShardName;
use crate::position::Position;
use crate::protocol::{Code, Refusal};

/// How new the answer to a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It contains this position. Whoever reads checks it in the answer.
    AtLeast(Position),
    MaxStale(Duration),
    Primary,
}

/// Who answered, as in `Roomgate-Served-By`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServedBy {
    Replica(Arc<str>),
    Primary,
    /// This node's own memory.
    Memory,
}

impl fmt::Display for ServedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(name) => write!(f, "replica/{name}"),
            Self::Primary => f.write_str("primary"),
            Self::Memory => f.write_str("memory"),
        }
    }
}

/// Nobody can answer as it was asked; trying again in a while makes sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard} can't answer this read now ({reason})")]
pub struct Unavailable {
    pub shard: ShardName,
    pub reason: Reason,
}

impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Self {
        Self::new(Code::Unavailable, error.to_string()).retry_after_ms(RETRY_AFTER.as_millis() as u64)
    }
}

const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Readers that may wait for each place on the primary, or for there to be one; the
/// rest are told at once.
const WAITING_PER_PLACE: usize = 32;
/// How often a read goes to the primary, when its first try failed.
const PRIMARY_TRIES: u32 = 2;
/// Shares of `replica_wait` that are waited before each new look.
const WAITS: [u32; 3] = [10, 30, 60];

/// A replica that takes longer is given up, and the next one asked.
const REPLICA_PATIENCE: Duration = Duration::from_secs(2);

/// Where to read. It counts as a read under way until dropped.
pub struct Target {
    read: InFlight,
    pub fallback: Option<Reason>,
    /// It has everything that was committed before this instant, if that is
    /// known.
    pub as_of: Option<Instant>,
    role: Role,
    _place: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Replica,
    Primary,
}

impl Target {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.read.endpoint()
    }

    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }

    /// The rows of one statement. It is not waited for beyond `deadline`, nor, while
    /// there are others to ask, for long: a frozen server keeps its connections and
    /// says nothing.
    pub async fn query(
        &self,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
        deadline: Instant,
    ) -> Result<Vec<Row>, DbError> {
        let rows = async { self.endpoint().pool().get().await?.query(sql, params).await };
        self.in_time(sql, deadline, rows).await
    }

    /// The same, with the rows handed to `each` as they arrive.
    pub async fn query_each(
        &self,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
        deadline: Instant,
        each: impl FnMut(Row) + Send,
    ) -> Result<(), DbError> {
        let rows = async { self.endpoint().pool().get().await?.query_each(sql, params, each).await };
        self.in_time(sql, deadline, rows).await
    }

    async fn in_time<T>(
        &self,
        sql: &'static Sql,
        deadline: Instant,
        answer: impl Future<Output = Result<T, DbError>>,
    ) -> Result<T, DbError> {
        let patience = Instant::now() + REPLICA_PATIENCE;
        let until = if self.is_primary() { deadline } else { deadline.min(patience) };
        timeout_at(until.into(), answer).await.unwrap_or_else(|_| Err(DbError::no_answer(sql.name)))
    }

    pub fn served_by(&self) -> ServedBy {
        match self.role {
            Role::Replica => ServedBy::Replica(self.endpoint().name().into()),
            Role::Primary => ServedBy::Primary,
        }
    }
}

/// One read's search for an answer.
pub struct Route {
    shard: Shard,
    freshness: Freshness,
    deadline: Instant,
    /// By endpoint: why its answer would not do.
    refused: Vec<Option<Refused>>,
    waits: usize,
    /// Until when it waits for a place on a busy replica.
    patience: Option<Instant>,
    primary_tries: u32,
    last_resort: bool,
}

impl Route {
    pub(super) fn new(shard: Shard, freshness: Freshness, deadline: Instant) -> Self {
        let refused = vec![None; shard.endpoints().len()];
        Self {
            shard,
            freshness,
            deadline,
            refused,
            waits: 0,
            patience: None,
            primary_tries: 0,
            last_resort: false,
        }
    }

    /// The best target that has not been refused yet. Waits a moment for a
    /// replica that is almost fresh enough, and for a place on the primary.
    pub async fn target(&mut self) -> Result<Target, Unavailable> {
        loop {
            let (choice, indices) = self.choose(self.need());
            match choice {
                Choice::Replica(chosen) => {
                    if let Some(target) = self.replica(indices[chosen], self.need()).await {
                        return Ok(target);
                    }
                }
                Choice::Wait(closest) => self.wait(indices[closest]).await,
                Choice::Primary(reason) => {
                    if let Some(target) = self.primary(reason).await? {
                        return Ok(target);
                    }
                }
                Choice::Nobody(reason) => {
                    if let Some(target) = self.without_primary(reason).await? {
                        return Ok(target);
                    }
                }
            }
        }
    }

    /// The answer was not new enough, or its log disagrees: not this one again.
    pub fn refuse(&mut self, target: Target, reason: Reason) {
        target.endpoint().breaker.succeeded();
        self.note(&target, reason, reason != Reason::Behind);
    }

    /// The answer was used.
    pub fn used(&self, target: &Target) {
        target.endpoint().breaker.succeeded();
        let metrics = &self.shard.shared.metrics;
        metrics.read_served(if target.is_primary() { "primary" } else { "replica" });
        if let Some(reason) = target.fallback {
            metrics.fell_back(reason.as_str());
        }
    }

    /// The statement failed. `true`: try the next target; it would go nowhere
    /// else if the statement itself is at fault.
    pub fn failed(&mut self, target: Target, error: &DbError) -> bool {
        let endpoint = target.endpoint();
        match error.class() {
            // On a replica: a recovery conflict. The primary has none.
            Class::Serialization | Class::Deadlock => self.note(&target, Reason::Behind, true),
            Class::Connection | Class::ReadOnly => {
                endpoint.breaker.failed(Instant::now(), false);
                self.shard.suspect(endpoint);
                self.note(&target, Reason::Down, true);
            }
            Class::Storage => {
                endpoint.breaker.failed(Instant::now(), true);
                self.note(&target, Reason::Down, true);
            }
            Class::Cancelled
            | Class::LockTimeout
            | Class::TooManyConnections
            | Class::PoolTimeout
            | Class::OutOfMemory => {
                endpoint.breaker.failed(Instant::now(), false);
                self.note(&target, Reason::Saturated, true);
            }
            // Its connection was replaced; a connection that is new has new statements.
            Class::Stale => self.note(&target, Reason::Saturated, true),
            // A server with a wrong setting, which others may not have.
            Class::Misconfigured if error.sqlstate().is_none() => {
                endpoint.breaker.failed(Instant::now(), false);
                self.note(&target, Reason::Down, true);
            }
            Class::Misconfigured => return false,
            Class::NotReplicated | Class::UniqueViolation | Class::BadInput | Class::Other => return false,
        }
        self.primary_tries < PRIMARY_TRIES && Instant::now() < self.deadline
    }

    fn note(&mut self, target: &Target, reason: Reason, for_good: bool) {
        if let Some(refused) = self.refused.get_mut(target.endpoint().index) {
            *refused = Some(Refused { reason, for_good });
        }
    }

    fn need(&self) -> Need {
        match self.freshness {
            Freshness::Primary => Need::Primary,
            Freshness::MaxStale(bound) => Need::AtMost(bound),
            Freshness::AtLeast(_) => Need::AtMost(self.shard.shared.reads.max_stale),
        }
    }

    /// The choice, and which endpoint each candidate of it is.
    fn choose(&self, need: Need) -> (Choice, Vec<usize>) {
        let known = self.shard.known();
        let now = Instant::now();
        let primary = self.shard.primary_now().filter(|_| self.primary_tries < PRIMARY_TRIES);
        let is_primary = |i: &usize| {
            let standing = known.facts.get(*i).map(|facts| facts.standing);
            matches!(standing, Some(Standing::Primary | Standing::Unclaimed))
        };
        let replicas = 0..self.shard.endpoints().len();
        let indices: Vec<usize> = replicas.filter(|i| !is_primary(i)).collect();
        let candidates: Vec<Candidate> = indices.iter().map(|&i| self.candidate(i, &known, now)).collect();
        let reads = &self.shard.shared.reads;
        let reach = if self.waits < WAITS.len() {
            reads.monitor_interval + reads.replica_wait
        } else {
            Duration::ZERO
        };
        let has_primary = primary.is_some_and(|primary| primary.breaker.allows(now));
        let view = View { replicas: &candidates, has_primary, reach };
        (choose(view, need, [rand::random(), rand::random()]), indices)
    }

    fn candidate(&self, index: usize, known: &Known, now: Instant) -> Candidate {
        let facts = known.facts.get(index).cloned().unwrap_or_default();
        let endpoint = &self.shard.endpoints()[index];
        let unknown = known.timeline == Timeline::default();
        Candidate {
            usable: facts.standing == Standing::Replica && endpoint.breaker.allows(now),
            same_timeline: unknown || facts.timeline == Some(known.timeline),
            staleness: facts.staleness(now),
            settled: facts.settled,
            in_flight: endpoint.in_flight(),
            capacity: endpoint.capacity,
            weight: endpoint.config().weight,
            same_zone: endpoint.same_zone,
            refused: self.refused.get(index).copied().flatten(),
        }
    }

    /// A place there, unless it takes too long or the replica falls behind.
    async fn replica(&mut self, index: usize, need: Need) -> Option<Target> {
        let endpoint = self.shard.endpoints()[index].clone();
        let read = InFlight::start(endpoint.clone());
        let place = if let Ok(place) = endpoint.places.clone().try_acquire_owned() {
            place
        } else {
            let patience = Instant::now() + self.shard.shared.reads.replica_wait;
            let end = *self.patience.get_or_insert(patience.min(self.deadline));
            let Ok(place) = timeout_at(end.into(), endpoint.places.clone().acquire_owned()).await else {
                self.refused[index] = Some(Refused { reason: Reason::Saturated, for_good: true });
                return None;
            };
            if !still_does(&self.candidate(index, &self.shard.known(), Instant::now()), need) {
                return None;
            }
            place.ok()?
        };
        if !endpoint.breaker.enter(Instant::now()) {
            self.refused[index] = Some(Refused { reason: Reason::Down, for_good: true });
            return None;
        }
        let as_of = self.shard.known().facts.get(index).and_then(|facts| facts.fresh_at);
        Some(Target { read, fallback: None, as_of, role: Role::Replica, _place: Some(place) })
    }

    /// A moment's wait; what may have changed is then looked at again.
    async fn wait(&mut self, closest: usize) {
        let share = WAITS.get(self.waits).copied().unwrap_or_default();
        self.waits += 1;
        let end = (Instant::now() + self.shard.shared.reads.replica_wait * share / 100).min(self.deadline);
        let refused = self.refused.get(closest).copied().flatten();
        if refused.is_none() {
            // Too stale as far as is known, so ask how far it is now.
            let mut known = self.shard.watch_known();
            self.shard.poll();
            if timeout_at(end.into(), known.changed()).await.is_err() {}
        } else {
            sleep_until(end.into()).await;
        }
        self.refused[closest] = None;
    }

    /// A place on the primary, of which there are few: reads that the replicas
    /// should have answered must not sink it. None: it has just been lost.
    async fn primary(&mut self, reason: Option<Reason>) -> Result<Option<Target>, Unavailable> {
        let unavailable = |reason| Unavailable { shard: self.shard.name().clone(), reason };
        let shared = &self.shard.shared;
        let _waiting = Waiting::start(shared).ok_or_else(|| unavailable(Reason::Saturated))?;
        let place = timeout_at(self.deadline.into(), shared.primary_reads.clone().acquire_owned()).await;
        let place = place.ok().and_then(Result::ok).ok_or_else(|| unavailable(Reason::Saturated))?;
        let Some(primary) = self.shard.primary_now() else { return Ok(None) };
        if !primary.breaker.enter(Instant::now()) {
            return Err(unavailable(Reason::Down));
        }
        self.primary_tries += 1;
        let read = InFlight::start(primary);
        let as_of = Some(Instant::now());
        Ok(Some(Target { read, fallback: reason, as_of, role: Role::Primary, _place: Some(place) }))
    }

    /// Waits for a primary until the deadline, as writers do: it may be promoted just
    /// now, or only late with its answer to the monitor. What is known is looked at
    /// again in between, and a read that proves itself may go to any replica then,
    /// however stale it is; where too many wait already, it only looks.
    async fn without_primary(&mut self, reason: Reason) -> Result<Option<Target>, Unavailable> {
        let shard = self.shard.clone();
        let may_wait = self.primary_tries < PRIMARY_TRIES && shard.primary_now().is_none();
        let waiting = if may_wait { Waiting::start(&shard.shared) } else { None };
        let waits = waiting.is_some();
        let last_look = !waits && std::mem::replace(&mut self.last_resort, true);
        if last_look || Instant::now() >= self.deadline {
            return Err(Unavailable { shard: self.shard.name().clone(), reason });
        }
        let end = (Instant::now() + self.shard.shared.reads.monitor_timeout).min(self.deadline);
        if waits && self.shard.primary(end).await.is_ok() {
            return Ok(None);
        }
        // Who was busy or away then needn't be now.
        self.patience = None;
        for refused in &mut self.refused {
            refused.take_if(|refused| matches!(refused.reason, Reason::Saturated | Reason::Down));
        }
        if let Freshness::AtLeast(_) = self.freshness
            && let (Choice::Replica(chosen), indices) = self.choose(Need::Any)
        {
            return Ok(self.replica(indices[chosen], Need::Any).await);
        }
        Ok(None)
    }
}

/// Counts the readers that wait for the primary, up to a limit.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn start(shared: &'a Shared) -> Option<Self> {
        let (count, places) = (&shared.primary_readers, shared.reads.primary_cap.max(1));
        let waiting = Self(count);
        // Counted first, so that a refused one is taken back when dropped.
        (count.fetch_add(1, Ordering::Relaxed) < places * WAITING_PER_PLACE).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
