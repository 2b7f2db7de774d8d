//! What a reading's facts say about it: whether this shard may answer, and
//! whether the positions that were asked for are in its log. Pure.

use crate::planted::{self, Bug};
use crate::position::{Epoch, Position, Seq};
use crate::protocol::server::ResyncReason;

/// The part of a reading that is the same whatever was read; one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The slot's epoch; `None`: the slot isn't owned by this shard.
    pub slot_epoch: Option<Epoch>,
    /// `None`: there is no such room.
    pub head: Option<Position>,
    pub access_rev: u64,
    /// Memory that the state at the head needs: 256 bytes a shape besides its text.
    pub state_bytes: usize,
    /// The first event that retention has left.
    pub first: Option<Seq>,
    /// What the log has at the positions that the reader named.
    pub asked: [Option<At>; 2],
    /// The epoch of the event at a seq that the reader only wanted to know.
    pub peeked: Option<Epoch>,
}

/// The log's event at a position's seq; `None`: it has none there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub position: Position,
    pub epoch: Option<Epoch>,
}

/// Why a reading is no answer. Final if the primary says so; a replica may just
/// be late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    NotOwned,
    RoomUnknown,
    Position(ResyncReason),
}

impl Facts {
    /// The head and the slot's epoch, if every asked position is in the log.
    pub fn judge(&self) -> Result<(Position, Epoch), Unfit> {
        let slot_epoch = self.slot_epoch.ok_or(Unfit::NotOwned)?;
        let head = self.head.ok_or(Unfit::RoomUnknown)?;
        for at in self.asked.iter().flatten() {
            check(at, head).map_err(Unfit::Position)?;
        }
        Ok((head, slot_epoch))
    }

    /// Whether every event after `after` is still kept.
    pub fn keeps_all_after(&self, after: Seq) -> bool {
        let head = self.head.map_or(Seq::ZERO, |head| head.seq);
        after >= head || self.first.is_some_and(|first| first <= after.next())
    }
}

/// A position is valid if and only if the log's event carries its epoch, or its
/// seq is 0.
fn check(at: &At, head: Position) -> Result<(), ResyncReason> {
    let Position { epoch, seq } = at.position;
    if seq == Seq::ZERO {
        return Ok(());
    }
    if seq > head.seq {
        let unchecked = planted::has(Bug::FreshnessUnchecked);
        return if unchecked { Ok(()) } else { Err(ResyncReason::AheadOfLog) };
    }
    let found = if seq == head.seq { Some(head.epoch) } else { at.epoch };
    match found {
        Some(found) if found == epoch || planted::has(Bug::LostPositionAccepted) => Ok(()),
        Some(_) => Err(ResyncReason::PositionLost),
        None => Err(ResyncReason::BelowRetention),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(epoch: u64, seq: u64) -> Position {
        Position::new(Epoch(epoch), Seq(seq))
    }

    /// What the statement would say about a log that keeps events from `first`.
    fn facts(log: &[u64], first: usize, asked: Position) -> Facts {
        let kept = |seq: Seq| {
            let index = usize::try_from(seq.0).ok()?.checked_sub(1)?;
            log.get(index).filter(|_| seq.0 >= first as u64).map(|epoch| Epoch(*epoch))
        };
        Facts {
            slot_epoch: Some(Epoch(9)),
            head: Some(position(log.last().copied().unwrap_or(0), log.len() as u64)),
            access_rev: 1,
            state_bytes: 0,
            first: (first <= log.len()).then_some(Seq(first as u64)),
            asked: [Some(At { position: asked, epoch: kept(asked.seq) }), None],
            peeked: None,
        }
    }

    #[test]
    fn a_position_is_valid_only_if_the_event_carries_its_epoch() {
        let log = [1, 1, 5, 5];
        let judge = |epoch, seq| facts(&log, 1, position(epoch, seq)).judge().map(|_| ());
        let refused = |reason| Err(Unfit::Position(reason));
        assert_eq!(judge(1, 2), Ok(()), "an older epoch is fine where the event has it");
        assert_eq!(judge(5, 4), Ok(()));
        assert_eq!(judge(77, 0), Ok(()), "the beginning has no epoch");
        assert_eq!(judge(1, 3), refused(ResyncReason::PositionLost));
        assert_eq!(judge(1, 4), refused(ResyncReason::PositionLost));
        assert_eq!(judge(5, 5), refused(ResyncReason::AheadOfLog));
        assert_eq!(judge(5, u64::MAX), refused(ResyncReason::AheadOfLog));
    }

    #[test]
    fn what_retention_took_is_told_apart() {
        let trimmed = facts(&[1, 1, 5, 5], 3, position(1, 1));
        assert_eq!(trimmed.judge(), Err(Unfit::Position(ResyncReason::BelowRetention)));
        assert!(!trimmed.keeps_all_after(Seq(1)) && trimmed.keeps_all_after(Seq(2)));
        let emptied = facts(&[1, 1], 3, position(1, 2));
        assert_eq!(emptied.judge(), Ok((position(1, 2), Epoch(9))), "the head remembers its epoch");
        assert!(emptied.keeps_all_after(Seq(2)) && !emptied.keeps_all_after(Seq(1)));
    }

    proptest! {
        #[test]
        fn exactly_the_positions_of_the_kept_log_are_accepted(
            log in prop::collection::vec(1u64..4, 0..20),
            first in 1usize..10,
            epoch in 0u64..5,
            seq in 0u64..25,
        ) {
            let valid = seq == 0
                || (log.get(seq as usize - 1) == Some(&epoch) && (seq as usize >= first || seq as usize == log.len()));
            prop_assert_eq!(facts(&log, first, position(epoch, seq)).judge().is_ok(), valid);
        }
    }
}
