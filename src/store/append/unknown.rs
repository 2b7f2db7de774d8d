//! When COMMIT was sent and didn't say what became of it.
//!
//! The batch simply runs again, on a fresh connection. Its first round trip
//! locks the room rows, which waits for a half-dead backend that may still
//! commit, and then looks the ops up: what is found there was committed by the
//! lost attempt and is accepted with its original seq; what is absent had no
//! effect, and is run in the same transaction. So nothing is executed twice. As
//! long as the locks can't be had nothing is refused, because nobody knows; at
//! its deadline such a submit is [`Unknown`](super::Unknown).
//!
//! What the lost attempt rejected is not simply decided again: others may have
//! written meanwhile, and what would now be accepted would come behind submits
//! of its session that came later and are in the log. It stays rejected if the
//! lost attempt is in the log, which a submit tells that it accepted in the room.

use std::collections::HashMap;

use super::batch::{Batch, Certainty};
use crate::log::{Ack, Before, Decision, Event, OpKey, Outcome, Rejection, Submit};

/// What was rejected by attempts that turned out to be in the log.
pub(super) fn standing(batch: &Batch, before: &Before) -> HashMap<OpKey, Rejection> {
    let mut standing = HashMap::new();
    for (submit, ticket) in batch.submits.iter().zip(&batch.tickets) {
        let Some(rejected) = &ticket.rejected else { continue };
        if before.ops.get(&rejected.witness).is_some_and(|known| known.at == rejected.at) {
            standing.insert(submit.op_key(), rejected.rejection.clone());
        }
    }
    standing
}

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
            (Certainty::Unresolved { at }, Some(ack)) if ack.at == at => {
                ack.duplicate = false;
                found.push(event(submit, ack));
            }
            // Else another node was given the same op, wrote it and announces it.
            (Certainty::NoEffect | Certainty::Unresolved { .. }, Some(_)) => {
                ticket.certainty = Certainty::InLog
            }
            (Certainty::InLog, Some(_)) => {}
            (_, None) => ticket.certainty = Certainty::NoEffect,
        }
    }
    found.sort_by_key(|event| event.position.seq);
    found
}

/// The event as the lost attempt wrote it.
fn event(submit: &Submit, ack: &Ack) -> Event {
    Event {
        room: submit.room,
        position: ack.position,
        kind: submit.operation.kind(),
        op: submit.op.clone(),
        user: submit.user.clone(),
        at: ack.at,
        digest: submit.digest,
        body: submit.body.clone(),
        version: ack.version,
        cleared: ack.cleared,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::batch::Ticket;
    use super::*;
    use crate::clock::UnixMillis;
    use crate::ids::{OpId, RoomId, UserId};
    use crate::log::{Authority, KnownOp};
    use crate::position::{Epoch, Position, Seq};
    use crate::protocol::{Code, Exact, Operation, Refusal};
    use crate::traces::Trace;

    fn submit(op: &str) -> Submit {
        let (room, op, user) = (RoomId::new(1), OpId::new(op), UserId::new("ann"));
        let operation = Operation::Message { data: Exact::encode(serde_json::Value::Null) };
        Submit::new(room.unwrap(), user.unwrap(), Authority::Member, op.unwrap(), operation)
    }

    fn batch(ops: &[&str]) -> Batch {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut batch = Batch::default();
        for op in ops {
            let submit = submit(op);
            let payer = submit.user.clone();
            let patience = Duration::from_secs(60);
            batch.push(submit, Ticket::new(payer, Box::new(|_| {}), Trace::none(), deadline, patience));
        }
        batch
    }

    fn ack(seq: u64, at: i64, duplicate: bool) -> Outcome {
        let position = Position::new(Epoch(1), Seq(seq));
        Outcome::Accepted(Ack { position, at: UnixMillis(at), version: None, cleared: None, duplicate })
    }

    /// An op whose COMMIT was sent at 5 without an answer, then found in the log
    /// with a time of its own.
    fn found(written_at: i64) -> (Vec<Event>, bool) {
        let mut batch = batch(&["op"]);
        batch.mark_unresolved(UnixMillis(5), &[]);
        let outcomes = vec![ack(7, written_at, true)];
        let mut decision = Decision { outcomes, ..Decision::default() };
        let events = resolve(&mut batch, &mut decision);
        assert!(!batch.tickets[0].is_refusable(), "what is in the log can't be refused");
        let Outcome::Accepted(ack) = &decision.outcomes[0] else { panic!("accepted") };
        (events, ack.duplicate)
    }

    #[test]
    fn a_rejection_stands_if_and_only_if_its_attempt_is_in_the_log() {
        let refusal = Refusal::new(Code::ShapeUnknown, "there is no such shape");
        let rejection = Rejection { refusal, current: None };
        let logged = |op: &str, at: i64| {
            let known = KnownOp {
                position: Position::new(Epoch(1), Seq(9)),
                at: UnixMillis(at),
                digest: submit(op).digest,
                version: None,
                cleared: None,
            };
            let ops = HashMap::from([(submit(op).op_key(), known)]);
            Before { ops, ..Before::default() }
        };
        let mut lost = batch(&["known", "early", "later"]);
        let outcomes = [ack(3, 1, true), Outcome::Rejected(rejection.clone()), ack(9, 5, false)];
        lost.mark_unresolved(UnixMillis(5), &outcomes);
        assert_eq!(lost.witnesses(), [submit("later").op_key()], "one that the attempt itself would write");
        let stands = HashMap::from([(submit("early").op_key(), rejection.clone())]);
        assert_eq!(standing(&lost, &logged("later", 5)), stands);
        assert_eq!(standing(&lost, &Before::default()), HashMap::new(), "it has no effect");
        assert_eq!(standing(&lost, &logged("later", 6)), HashMap::new(), "another attempt wrote it");
        assert_eq!(standing(&lost, &logged("known", 1)), HashMap::new(), "it was there before");
        let half = lost.split_half();
        assert_eq!((half.len(), lost.witnesses().len()), (1, 1), "also when it runs without its witness");

        let mut alone = batch(&["known", "early"]);
        alone.mark_unresolved(UnixMillis(5), &[ack(3, 1, true), Outcome::Rejected(rejection)]);
        assert_eq!(alone.witnesses(), [], "it wrote nothing that could be after it");
    }

    #[test]
    fn what_a_lost_commit_wrote_is_announced_and_is_no_duplicate() {
        let (events, is_duplicate) = found(5);
        assert_eq!(events.iter().map(|event| event.at).collect::<Vec<_>>(), [UnixMillis(5)]);
        assert!(!is_duplicate);
    }

    #[test]
    fn what_another_node_wrote_for_the_same_op_is_a_duplicate_and_its_to_announce() {
        let (events, is_duplicate) = found(6);
        assert_eq!(events, []);
        assert!(is_duplicate);
    }
}
