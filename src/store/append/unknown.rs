//! When COMMIT was sent and didn't say what became of it.
//!
//! The batch simply runs again, on a fresh connection. Its first round trip
//! locks the room rows, which waits for a half-dead backend that may still
//! commit, and then looks the ops up: what is found there was committed by the
//! lost attempt and is accepted with its original seq; what is absent had no
//! effect, and is run in the same transaction. So nothing is executed twice. As
//! long as the locks can't be had nothing is refused, because nobody knows; at
//! its deadline such a submit is [`Unknown`](super::Unknown).

use super::batch::{Batch, Certainty};
use crate::clock::UnixMillis;
use crate::log::{Ack, Decision, Event, Outcome, Submit};

/// Compares what was read under the locks with what earlier attempts may have
/// done. Gives the events of lost attempts that turned out to be in the log,
/// which nobody has announced yet, in seq order.
///
/// What is in the log stays irrefusable: should *this* attempt fail, its submit
/// must not be told that it had no effect.
pub(super) fn resolve(batch: &mut Batch, decision: &mut Decision) -> Vec<Event> {
    let mut found = Vec::new();
    let items = batch.submits.iter().zip(&mut batch.tickets).zip(&mut decision.outcomes);
    for ((submit, ticket), outcome) in items {
        let known = match outcome {
            Outcome::Accepted(ack) if ack.duplicate => Some(ack),
            _ => None,
        };
        match (ticket.certainty, known) {
            (Certainty::Unresolved { at }, Some(ack)) => {
                ack.duplicate = false;
                found.push(event(submit, ack, at));
            }
            (Certainty::NoEffect, Some(_)) => ticket.certainty = Certainty::InLog,
            (Certainty::InLog, Some(_)) => {}
            (_, None) => ticket.certainty = Certainty::NoEffect,
        }
    }
    found.sort_by_key(|event| event.position.seq);
    found
}

/// The event as the lost attempt wrote it.
fn event(submit: &Submit, ack: &Ack, at: UnixMillis) -> Event {
    Event {
        room: submit.room,
        position: ack.position,
        kind: submit.operation.kind(),
        op: submit.op.clone(),
        user: submit.user.clone(),
        at,
        digest: submit.digest,
        body: submit.body.clone(),
        version: ack.version,
        cleared: ack.cleared,
    }
}
