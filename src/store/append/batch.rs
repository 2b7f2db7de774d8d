//! Submits on their way through a lane, in order.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;
use crate::ids::{RoomId, UserId};
use crate::log::{OpKey, Outcome, Rejection, Submit};
use crate::metrics::gateway;
use crate::protocol::Refusal;
use crate::routing::Endpoint;
use crate::traces::Trace;

use super::Answer;
use super::committed::Committed;

/// COMMIT was sent and its fate could not be found out in time: the submit has
/// either its one effect or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("whether the submit was committed is unknown")]
pub struct Unknown;

/// Whether this submit may have had its effect already. While it may, it can't
/// be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    /// No attempt of ours has put it into the log.
    NoEffect,
    /// COMMIT was sent for it, with this time, and didn't answer.
    Unresolved { at: UnixMillis },
    /// Its op was seen in the log: the client sends it again.
    InLog,
}

/// A rejection that nobody was told.
pub(super) struct Rejected {
    pub rejection: Rejection,
    /// What the attempt would write into the same room, and when: if that is in
    /// the log, so is the attempt.
    pub witness: OpKey,
    pub at: UnixMillis,
}

/// Everything about a submit that isn't for the rules: who waits, and how long.
pub(super) struct Ticket {
    /// The user whose turn the submit takes: the bearer of the token, on behalf
    /// of whichever user a server submits.
    pub payer: UserId,
    answer: Option<Answer>,
    trace: Trace,
    pub certainty: Certainty,
    /// By an attempt whose COMMIT didn't answer.
    pub rejected: Option<Box<Rejected>>,
    received: Instant,
    /// When the caller no longer waits.
    pub deadline: Instant,
    /// When it is refused if it has not been sent by then.
    patience: Instant,
}

impl Ticket {
    /// `patience`: how long it may wait for the shard.
    pub fn new(payer: UserId, answer: Answer, trace: Trace, deadline: Instant, patience: Duration) -> Self {
        let received = Instant::now();
        Self {
            payer,
            answer: Some(answer),
            trace,
            certainty: Certainty::NoEffect,
            rejected: None,
            received,
            deadline,
            patience: deadline.min(received + patience),
        }
    }

    /// Takes the answer back, for a submit that was never taken in.
    pub fn forget(mut self) {
        self.answer = None;
    }

    pub fn answer(mut self, result: Result<Outcome, Unknown>) {
        if let Some(answer) = self.answer.take() {
            let outcome = match &result {
                Ok(Outcome::Accepted(ack)) if ack.duplicate => gateway::Submit::Duplicate,
                Ok(Outcome::Accepted(_)) => gateway::Submit::Accepted,
                Ok(Outcome::Rejected(_)) => gateway::Submit::Rejected,
                Err(Unknown) => gateway::Submit::Unknown,
            };
            gateway::submit_done(outcome, self.received.elapsed());
            self.trace.ends(outcome.label());
            answer(result);
        }
    }

    /// Refused, if it can be: what may have had its effect is unknown.
    pub fn refuse(mut self, refusal: Refusal) {
        if !self.is_refusable() {
            return self.answer(Err(Unknown));
        }
        if let Some(answer) = self.answer.take() {
            gateway::submit_done(gateway::Submit::Refused, self.received.elapsed());
            self.trace.ends(gateway::Submit::Refused.label());
            answer(Ok(Outcome::Rejected(Rejection { refusal, current: None })));
        }
    }

    pub fn is_refusable(&self) -> bool {
        self.certainty == Certainty::NoEffect
    }

    /// When to stop trying.
    pub fn gives_up_at(&self) -> Instant {
        if self.is_refusable() { self.patience } else { self.deadline }
    }
}

/// Whoever waits is answered even if a lane breaks down: then, nobody knows.
impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            gateway::submit_done(gateway::Submit::Unknown, self.received.elapsed());
            answer(Err(Unknown));
        }
    }
}

/// Submits with their tickets, in the order in which they came.
#[derive(Default)]
pub(super) struct Batch {
    pub submits: Vec<Submit>,
    pub tickets: Vec<Ticket>,
}

impl Batch {
    pub fn len(&self) -> usize {
        self.submits.len()
    }

    pub fn is_empty(&self) -> bool {
        self.submits.is_empty()
    }

    pub fn push(&mut self, submit: Submit, ticket: Ticket) {
        self.submits.push(submit);
        self.tickets.push(ticket);
    }

    pub fn into_items(self) -> impl DoubleEndedIterator<Item = (Submit, Ticket)> {
        self.submits.into_iter().zip(self.tickets)
    }

    /// Takes out what `chosen` says, keeping the order of both parts.
    pub fn split_off(&mut self, mut chosen: impl FnMut(&Submit, &Ticket) -> bool) -> Self {
        if !self.submits.iter().zip(&self.tickets).any(|(submit, ticket)| chosen(submit, ticket)) {
            return Self::default();
        }
        let (mut kept, mut taken) = (Self::default(), Self::default());
        for (submit, ticket) in std::mem::take(self).into_items() {
            let part = if chosen(&submit, &ticket) { &mut taken } else { &mut kept };
            part.push(submit, ticket);
        }
        *self = kept;
        taken
    }

    /// Takes out the submits to `rooms`.
    pub fn split_rooms(&mut self, rooms: &HashSet<RoomId>) -> Self {
        if rooms.is_empty() {
            return Self::default();
        }
        self.split_off(|submit, _| rooms.contains(&submit.room))
    }

    /// The later half, which must run after what remains here. The order within
    /// a room holds because halves run one after the other.
    pub fn split_half(&mut self) -> Self {
        let half = self.len().div_ceil(2);
        Self { submits: self.submits.split_off(half), tickets: self.tickets.split_off(half) }
    }

    /// An attempt to write all of it begins.
    pub fn commit_begins(&mut self, endpoint: &Endpoint) {
        let submits = self.len();
        for ticket in &mut self.tickets {
            ticket.trace.commit_begins(endpoint.shard().as_str(), endpoint.name(), submits);
        }
    }

    /// `committed`, `nothing_to_write`, or why not.
    pub fn commit_ends(&mut self, outcome: &'static str) {
        self.tickets.iter_mut().for_each(|ticket| ticket.trace.commit_ends(outcome));
    }

    /// Traces go on where what they committed is delivered.
    pub fn carry_traces(&self, outcomes: &[Outcome], committed: &mut [Committed]) {
        for ((submit, ticket), outcome) in self.submits.iter().zip(&self.tickets).zip(outcomes) {
            if let Outcome::Accepted(ack) = outcome
                && !ack.duplicate
                && ticket.trace.is_sampled()
                && let Some(committed) = committed.iter_mut().find(|each| each.room() == submit.room)
            {
                ticket.trace.carry(ack.position.seq, committed.traces_mut());
            }
        }
    }

    pub fn rooms(&self) -> HashSet<RoomId> {
        self.submits.iter().map(|submit| submit.room).collect()
    }

    /// When the first of them gives up.
    pub fn first_gives_up_at(&self) -> Option<Instant> {
        self.tickets.iter().map(Ticket::gives_up_at).min()
    }

    /// When nobody waits any more.
    pub fn last_deadline(&self) -> Option<Instant> {
        self.tickets.iter().map(|ticket| ticket.deadline).max()
    }

    /// COMMIT was sent with `at` and didn't answer. What was in the log before
    /// stays so.
    pub fn mark_unresolved(&mut self, at: UnixMillis, outcomes: &[Outcome]) {
        for ticket in self.tickets.iter_mut().filter(|ticket| ticket.is_refusable()) {
            ticket.certainty = Certainty::Unresolved { at };
        }
        let mut witnesses: HashMap<RoomId, OpKey> = HashMap::new();
        for (submit, outcome) in self.submits.iter().zip(outcomes) {
            if matches!(outcome, Outcome::Accepted(ack) if ack.at == at) {
                witnesses.entry(submit.room).or_insert_with(|| submit.op_key());
            }
        }
        for ((submit, ticket), outcome) in self.submits.iter().zip(&mut self.tickets).zip(outcomes) {
            if let (Outcome::Rejected(rejection), Some(witness)) = (outcome, witnesses.get(&submit.room)) {
                let (rejection, witness) = (rejection.clone(), witness.clone());
                ticket.rejected = Some(Box::new(Rejected { rejection, witness, at }));
            }
        }
    }

    /// By what it can be told whether lost attempts are in the log.
    pub fn witnesses(&self) -> Vec<OpKey> {
        let all: HashSet<&OpKey> =
            self.tickets.iter().filter_map(|ticket| Some(&ticket.rejected.as_ref()?.witness)).collect();
        all.into_iter().cloned().collect()
    }
}

impl FromIterator<(Submit, Ticket)> for Batch {
    fn from_iter<I: IntoIterator<Item = (Submit, Ticket)>>(items: I) -> Self {
        let (submits, tickets) = items.into_iter().unzip();
        Self { submits, tickets }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({})", self.len())
    }
}
