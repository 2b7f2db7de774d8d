//! A lane: one transaction at a time, with all that waits.
//!
//! While a transaction is in flight the lane's queue fills; the next one takes
//! it all, up to the batch limit, a submit of each payer in turn. So a submit waits
//! for one transaction when the shard is idle, and shares one when it is busy; there
//! is no timer.
//!
//! Guarantees: submits of a payer to a room are decided and answered in the order in
//! which they came; each is answered once; accepted only after COMMIT, rejected or
//! refused only if it had and will have no effect.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::time::{sleep, timeout, timeout_at};

use super::batch::{Batch, Ticket};
use super::committed::Committed;
use super::desk::{Desk, Seat};
use super::retry::{self, MAX_RETRIES, Next};
use super::transaction::{self, Cause, CommitProof, Locked, Read, Writes, Written};
use super::{Shared, isolate, unknown};
use crate::clock::UnixMillis;
use crate::db::Lease;
use crate::ids::RoomId;
use crate::log::{Decision, Event, Outcome, RoomState, decide};
use crate::metrics::{self, ShardMetrics, Transaction};
use crate::planted::{self, Bug};
use crate::protocol::Refusal;
use crate::routing::{Endpoint, Shard};
use crate::tasks::Stop;

/// How long the first round trip may take before the connection is given up.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long COMMIT may take before the lane stops waiting and looks for itself.
const COMMIT_LIMIT: Duration = Duration::from_secs(2);
/// How long a rollback may take before the connection is given up.
const END_LIMIT: Duration = Duration::from_secs(1);
/// As the pause after so many failures: rooms whose slot is nowhere for a
/// moment can't be waited for in the database.
const ASIDE_PAUSE: u32 = 2;
/// How often a lane without a primary looks for submits that gave up.
const LOOK_ROUND: Duration = Duration::from_millis(100);

pub(super) struct Lane {
    pub shared: Arc<Shared>,
    pub desk: Arc<Desk>,
    pub seat: Seat,
    pub shard: Shard,
    pub metrics: ShardMetrics,
    /// Submits in one transaction; halved when the server runs out of memory.
    pub limit: usize,
}

/// A batch with the history of its attempts.
pub(super) struct Unit {
    pub batch: Batch,
    locked: Locked,
    /// Attempts that ended in a way that passes by itself: limited.
    retries: u32,
    /// All failed attempts: they make the pauses longer.
    failures: u32,
    /// Of the last failure.
    cause: Option<Cause>,
}

/// What became of an attempt.
enum Attempt {
    /// Everything that could be done now is answered or handed over.
    Done,
    Failed(Batch, Cause),
}

impl Unit {
    fn new(batch: Batch, locked: Locked) -> Self {
        Self { batch, locked, retries: 0, failures: 0, cause: None }
    }
}

impl Lane {
    /// Ends after a stop, once nothing waits.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            let batch = tokio::select! {
                biased;
                batch = self.desk.take(self.seat, self.limit) => batch,
                () = stop.wait() => return,
            };
            // Whoever listens runs on this lane; a panic there must not end it.
            // What it held is answered as unknown.
            if AssertUnwindSafe(self.serve_taken(batch)).catch_unwind().await.is_err() {
                tracing::error!(shard = %self.shard.name(), "an append lane panicked and goes on");
                self.desk.recount(self.seat);
            }
        }
    }

    async fn serve_taken(&mut self, batch: Batch) {
        if self.seat.aside {
            self.serve_aside(batch).await;
        } else {
            self.serve(VecDeque::from([Unit::new(batch, Locked::Wait)])).await;
        }
    }

    /// Rooms that were found locked. Those that are free by now go first; then
    /// one of the others is waited for, and goes to the end of the queue if
    /// that was in vain. New submits to these rooms line up behind them here.
    async fn serve_aside(&mut self, batch: Batch) {
        self.serve(VecDeque::from([Unit::new(batch, Locked::Skip)])).await;
        let mut batch = self.desk.take_now(self.seat, self.limit);
        let Some(first) = batch.submits.first().map(|submit| submit.room) else { return };
        let first = batch.split_rooms(&HashSet::from([first]));
        self.desk.put_back(self.seat, batch);
        self.serve(VecDeque::from([Unit::new(first, Locked::Wait)])).await;
        sleep(retry::pause(ASIDE_PAUSE)).await;
    }

    /// Runs units one after the other until all of them are settled.
    async fn serve(&mut self, mut units: VecDeque<Unit>) {
        while let Some(mut unit) = units.pop_front() {
            self.expire(&mut unit);
            if unit.batch.is_empty() {
                continue;
            }
            let Some((endpoint, connection)) = self.connection(&mut unit).await else { continue };
            let batch = std::mem::take(&mut unit.batch);
            match self.attempt(&endpoint, connection, batch, unit.locked, &mut units).await {
                Attempt::Done => self.grow(),
                Attempt::Failed(mut batch, cause) => {
                    batch.commit_ends(cause.class());
                    unit.batch = batch;
                    self.after_failure(unit, cause, &endpoint, &mut units).await;
                }
            }
        }
    }

    /// One transaction.
    async fn attempt(
        &mut self,
        endpoint: &Arc<Endpoint>,
        connection: Lease,
        mut batch: Batch,
        locked: Locked,
        units: &mut VecDeque<Unit>,
    ) -> Attempt {
        metrics::gateway::batch_appended(batch.len());
        batch.commit_begins(endpoint);
        let limit = bounded(READ_LIMIT, &batch);
        let (witnesses, is_sync) = (batch.witnesses(), self.shared.is_sync());
        let reading = Box::pin(transaction::read(&connection, &batch.submits, &witnesses, locked, is_sync));
        let read = tokio::select! {
            biased;
            read = reading => read,
            cause = self.lost(endpoint, limit) => Err(cause),
        };
        let read = match read {
            Ok(read) => read,
            Err(cause) => {
                self.metrics.transaction_done(Transaction::RolledBack);
                if cause.leaves_connection_usable() {
                    end(&connection).await;
                }
                return Attempt::Failed(batch, cause);
            }
        };
        let elsewhere = batch.split_rooms(&read.elsewhere);
        let locked = batch.split_rooms(&read.locked);
        let attempt = self.settle(endpoint, connection, batch, read).await;
        self.set_aside(locked, units);
        self.reroute(elsewhere, units).await;
        attempt
    }

    /// Decides on a batch whose rooms are all locked here, and commits.
    async fn settle(
        &self,
        endpoint: &Arc<Endpoint>,
        connection: Lease,
        mut batch: Batch,
        read: Read,
    ) -> Attempt {
        let at = UnixMillis::now();
        let (proof, mut before) = (read.proof, read.before);
        let rooms = if self.shared.is_sync() { before.rooms.clone() } else { HashMap::new() };
        before.rejected = unknown::standing(&batch, &before);
        let mut decision = decide(before, &batch.submits, at, **self.shared.bounds.load());
        let found = unknown::resolve(&mut batch, &mut decision);
        let outcomes = std::mem::take(&mut decision.outcomes);
        if self.shared.is_sync() {
            touch_duplicates(&batch, &outcomes, &rooms, &mut decision);
        }
        if decision.rooms.is_empty() {
            batch.commit_ends("nothing_to_write");
            self.answer(batch, outcomes, found, Vec::new(), &proof);
            end(&connection).await;
            self.metrics.transaction_done(Transaction::Empty);
            return Attempt::Done;
        }
        let Decision { events, shapes, rooms, .. } = decision;
        if planted::has(Bug::AckBeforeCommit) {
            self.answer(batch, outcomes, found, events.clone(), &proof);
            drop(transaction::write(connection, Writes { events, shapes, rooms }).await);
            return Attempt::Done;
        }
        if planted::has(Bug::AnnounceBeforeCommit) {
            Committed::group(events.clone(), &proof)
                .into_iter()
                .for_each(|c| self.shared.announce.announce(c));
        }
        let limit = bounded(COMMIT_LIMIT, &batch);
        let mut writing = Box::pin(transaction::write(connection, Writes { events, shapes, rooms }));
        let written = tokio::select! {
            biased;
            written = &mut writing => written,
            cause = self.lost(endpoint, limit) => {
                // It keeps its connection, and so its place in the pool's
                // budget, for as long as the server keeps the transaction.
                self.shared.tasks.spawn("append-stuck-commit", async move { drop(writing.await) });
                self.metrics.transaction_done(Transaction::Unknown);
                batch.mark_unresolved(at, &outcomes);
                return Attempt::Failed(batch, cause);
            }
        };
        match written {
            Written::Committed(events, proof) => {
                planted::crash_before_announcing();
                self.metrics.transaction_done(Transaction::Committed);
                batch.commit_ends("committed");
                self.answer(batch, outcomes, found, events, &proof);
                Attempt::Done
            }
            Written::Failed(error) => {
                self.metrics.transaction_done(Transaction::RolledBack);
                Attempt::Failed(batch, error.into())
            }
            Written::Unresolved(_) if planted::has(Bug::UnknownIsFailure) => {
                self.refuse(batch, &retry::refusal(None));
                Attempt::Done
            }
            Written::Unresolved(error) => {
                self.metrics.transaction_done(Transaction::Unknown);
                batch.mark_unresolved(at, &outcomes);
                Attempt::Failed(batch, error.into())
            }
        }
    }

    /// Announces, then answers, in order.
    fn answer(
        &self,
        batch: Batch,
        mut outcomes: Vec<Outcome>,
        mut events: Vec<Event>,
        written: Vec<Event>,
        proof: &CommitProof,
    ) {
        events.extend(written);
        let mut committed = Committed::group(events, proof);
        batch.carry_traces(&outcomes, &mut committed);
        committed.into_iter().for_each(|each| self.shared.announce.announce(each));
        self.desk.answered(batch.submits.iter().map(|submit| submit.room));
        if planted::has(Bug::AnswersReversed) {
            outcomes.reverse();
        }
        for (ticket, outcome) in batch.tickets.into_iter().zip(outcomes) {
            ticket.answer(Ok(outcome));
        }
    }

    pub(super) fn refuse(&self, batch: Batch, refusal: &Refusal) {
        self.desk.answered(batch.submits.iter().map(|submit| submit.room));
        for ticket in batch.tickets {
            ticket.refuse(refusal.clone());
        }
    }

    /// Refuses what has waited long enough, here and in the queue.
    fn expire(&self, unit: &mut Unit) {
        let now = Instant::now();
        let expired = unit.batch.split_off(|_, ticket| ticket.gives_up_at() <= now);
        let waiting = self.desk.take_expired(self.seat, now);
        if !expired.is_empty() || !waiting.is_empty() {
            let refusal = retry::refusal(unit.cause.as_ref());
            self.refuse(expired, &refusal);
            self.refuse(waiting, &refusal);
        }
    }

    /// A connection to the primary, as soon as there is one; `None` when nobody
    /// waits for it any more.
    async fn connection(&self, unit: &mut Unit) -> Option<(Arc<Endpoint>, Lease)> {
        loop {
            self.expire(unit);
            let until = unit.batch.first_gives_up_at()?.min(Instant::now() + LOOK_ROUND);
            let Ok(endpoint) = self.shard.primary(until).await else {
                unit.cause.get_or_insert(Cause::NoPrimary);
                continue;
            };
            match timeout_at(until.into(), endpoint.pool().get()).await {
                Ok(Ok(connection)) => return Some((endpoint, connection)),
                Ok(Err(error)) => {
                    tracing::debug!(shard = %self.shard.name(), %error, "no connection for an append");
                    if error.class().breaks_connection() {
                        self.shard.suspect(&endpoint);
                    }
                    unit.cause = Some(error.into());
                    sleep(retry::pause(unit.failures)).await;
                    unit.failures += 1;
                }
                Err(_) => {
                    unit.cause.get_or_insert(Cause::TimedOut);
                }
            }
        }
    }

    /// Resolves when it makes no sense to wait for `endpoint` any longer.
    async fn lost(&self, endpoint: &Arc<Endpoint>, limit: Instant) -> Cause {
        let mut primary = self.shard.watch_primary();
        let superseded = primary.wait_for(|now| now.as_ref().is_some_and(|now| !Arc::ptr_eq(now, endpoint)));
        match timeout_at(limit.into(), superseded).await {
            Ok(_) => Cause::Superseded,
            Err(_) => Cause::TimedOut,
        }
    }

    async fn after_failure(
        &mut self,
        mut unit: Unit,
        cause: Cause,
        endpoint: &Arc<Endpoint>,
        units: &mut VecDeque<Unit>,
    ) {
        let next = retry::next(&cause, unit.locked, unit.retries);
        self.note(&unit, &cause, next);
        if unit.batch.is_empty() {
            return;
        }
        let halve = unit.batch.len() > 1;
        match next {
            Next::Halve if !halve => {
                let refusal = isolate::culprit(&unit.batch.submits[0], &cause);
                tracing::error!(shard = %self.shard.name(), room = %unit.batch.submits[0].room, %cause,
                    "a submit can't be stored");
                return self.refuse(unit.batch, &refusal);
            }
            Next::Halve | Next::HalveOrRetry if halve => {
                if next == Next::HalveOrRetry {
                    self.limit = (self.limit / 2).max(1);
                }
                retried(&cause);
                let later = unit.batch.split_half();
                units.push_front(Unit::new(later, unit.locked));
                units.push_front(Unit::new(unit.batch, unit.locked));
                return;
            }
            Next::SkipLocked if self.seat.aside => {
                retried(&cause);
                unit.cause = Some(cause);
                return self.to_the_end(unit, units);
            }
            Next::SkipLocked => unit.locked = Locked::Skip,
            Next::Reconnect if cause.blames_server() => self.shard.suspect(endpoint),
            Next::Reconnect => self.shard.poll(),
            Next::Wait => {}
            Next::Retry | Next::Halve | Next::HalveOrRetry => unit.retries += 1,
        }
        if unit.retries > MAX_RETRIES && unit.batch.tickets.iter().all(Ticket::is_refusable) {
            return self.refuse(unit.batch, &retry::refusal(Some(&cause)));
        }
        retried(&cause);
        unit.cause = Some(cause);
        if next != Next::SkipLocked {
            sleep(retry::pause(unit.failures)).await;
            unit.failures += 1;
        }
        units.push_front(unit);
    }

    /// One line a failure.
    fn note(&self, unit: &Unit, cause: &Cause, next: Next) {
        tracing::warn!(
            shard = %self.shard.name(), aside = self.seat.aside, submits = unit.batch.len(),
            retries = unit.retries, ?next, %cause, "an append failed"
        );
    }

    /// After a success: what made the batches smaller may have passed.
    fn grow(&mut self) {
        self.limit = (self.limit * 2).min(self.shared.config.batch_max);
    }
}

fn retried(cause: &Cause) {
    metrics::database::transaction_retried(cause.class());
}

/// In `sync`, an op that is in the log here may not be on any standby yet. A
/// write to its room waits until it is.
fn touch_duplicates(
    batch: &Batch,
    outcomes: &[Outcome],
    rooms: &HashMap<RoomId, RoomState>,
    decision: &mut Decision,
) {
    let mut written: HashSet<RoomId> = decision.rooms.iter().map(|(room, _)| *room).collect();
    for (submit, outcome) in batch.submits.iter().zip(outcomes) {
        if matches!(outcome, Outcome::Accepted(_))
            && written.insert(submit.room)
            && let Some(state) = rooms.get(&submit.room)
        {
            decision.rooms.push((submit.room, state.clone()));
        }
    }
}

/// Ends a transaction in which nothing was written. If that fails the
/// connection is broken, and its pool drops it.
async fn end(connection: &Lease) {
    match timeout(END_LIMIT, connection.rollback()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a rollback failed"),
        Err(_) => tracing::debug!("a rollback took too long"),
    }
}

fn bounded(limit: Duration, batch: &Batch) -> Instant {
    let limit = Instant::now() + limit;
    batch.last_deadline().map_or(limit, |deadline| limit.min(deadline))
}
