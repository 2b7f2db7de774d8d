//! Which events may be shown to a room's sessions, and in what order. Pure.
//!
//! Events arrive from this node's commits, from Redis and from the log, early,
//! late, twice or never. What leaves is the log: from `delivered` on, every seq
//! once, in order, of a known epoch.

use std::collections::{BTreeMap, VecDeque};

use crate::planted::{self, Bug};
use crate::position::{Epoch, Position, Seq};
use crate::store::history::LogEvent;

/// What the room must do next to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// Events are missing below one that is held: ask the log if they don't
    /// come by themselves soon.
    Hole,
    /// An event of an unknown epoch came: ask the log at once whether what was
    /// delivered is still in it.
    Check,
}

/// The order of one room on one node.
#[derive(Debug)]
pub struct Delivery {
    delivered: Position,
    /// The epoch that new events may carry without asking the log.
    epoch: Epoch,
    held: BTreeMap<Seq, LogEvent>,
    held_max: usize,
    held_bytes: usize,
    recent: VecDeque<LogEvent>,
    recent_max: usize,
    recent_bytes: usize,
}

/// Events in memory, held or recent, end at these bytes as well as at their number:
/// the log has them all.
const MEMORY_BYTES: usize = 1 << 20;

impl Delivery {
    /// `head` and `epoch` (the slot's) come from one snapshot of the database.
    pub fn new(head: Position, epoch: Epoch, held_max: usize, recent_max: usize) -> Self {
        let (held, recent) = (BTreeMap::new(), VecDeque::new());
        let (held_bytes, recent_bytes) = (0, 0);
        Self { delivered: head, epoch, held, held_max, held_bytes, recent, recent_max, recent_bytes }
    }

    /// The last event that was delivered.
    pub fn delivered(&self) -> Position {
        self.delivered
    }

    /// Its event, if it was delivered since the room was opened.
    pub fn last(&self) -> Option<&LogEvent> {
        self.recent.back().filter(|event| event.position == self.delivered)
    }

    pub fn has_hole(&self) -> bool {
        !self.held.is_empty()
    }

    /// The highest seq that is known to exist.
    pub fn known_head(&self) -> Seq {
        self.held.last_key_value().map_or(self.delivered.seq, |(seq, _)| *seq)
    }

    /// The last event that is known of, delivered or held.
    pub fn known(&self) -> Position {
        self.held.last_key_value().map_or(self.delivered, |(_, event)| event.position)
    }

    /// Takes events off the bus or of this node's commits; returns those that
    /// are to be delivered now, in order.
    pub fn offer(&mut self, events: impl IntoIterator<Item = LogEvent>) -> (Vec<LogEvent>, Need) {
        let mut ready = Vec::new();
        let mut check = false;
        for event in events {
            let position = event.position;
            if position.seq <= self.delivered.seq {
                if planted::has(Bug::DuplicatesDelivered) {
                    ready.push(event);
                }
                // A duplicate, or the other history's event of the same seq. The
                // head check tells which.
                continue;
            }
            if position.epoch != self.epoch {
                check = true;
            } else if position.seq == self.delivered.seq.next() || planted::has(Bug::HolesDelivered) {
                self.accept(event, &mut ready);
                self.release_held(&mut ready);
            } else {
                self.hold(event);
            }
        }
        let need = match (check, self.has_hole()) {
            (true, _) => Need::Check,
            (false, true) => Need::Hole,
            (false, false) => Need::Nothing,
        };
        (ready, need)
    }

    /// Takes what the log says follows `delivered`, after the log confirmed that
    /// `delivered` is in it. Its epochs are true by definition.
    pub fn offer_from_log(&mut self, events: impl IntoIterator<Item = LogEvent>) -> Vec<LogEvent> {
        let mut ready = Vec::new();
        for event in events {
            if event.position.seq == self.delivered.seq.next() {
                self.epoch = self.epoch.max(event.position.epoch);
                self.accept(event, &mut ready);
            }
        }
        self.release_held(&mut ready);
        ready
    }

    /// The log has no more beyond `delivered`, so what is held is not in it.
    pub fn drop_held(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    /// The log was found to be another one than what was delivered: starts over.
    pub fn restart(&mut self, head: Position, epoch: Epoch) {
        *self = Self::new(head, epoch, self.held_max, self.recent_max);
    }

    /// The events after `position` that are still in memory, if all of them are
    /// and `position` is known to be in the log.
    pub fn since(&self, position: Position) -> Option<impl Iterator<Item = &LogEvent>> {
        let skip = if position == self.delivered {
            self.recent.len()
        } else if self.recent.front().is_some_and(|first| first.position.seq == position.seq.next()) {
            // The event itself has left memory: only the beginning is known.
            (position.seq == Seq::ZERO).then_some(0)?
        } else {
            let first = self.recent.front()?.position.seq;
            let index = usize::try_from(position.seq.0.checked_sub(first.0)?).ok()?;
            let missed = usize::from(planted::has(Bug::ResumeOffByOne));
            (self.recent.get(index)?.position == position).then_some(index + 1 + missed)?
        };
        Some(self.recent.iter().skip(skip))
    }

    fn accept(&mut self, event: LogEvent, ready: &mut Vec<LogEvent>) {
        self.delivered = event.position;
        self.recent_bytes += event.json.len();
        self.recent.push_back(event.clone());
        while self.recent.len() > 1
            && (self.recent.len() > self.recent_max || self.recent_bytes > MEMORY_BYTES)
        {
            let oldest = self.recent.pop_front();
            self.recent_bytes -= oldest.map_or(0, |event| event.json.len());
        }
        ready.push(event);
    }

    fn hold(&mut self, event: LogEvent) {
        let bytes = event.json.len();
        if self.held.len() < self.held_max && self.held_bytes + bytes <= MEMORY_BYTES {
            let before = self.held.insert(event.position.seq, event);
            self.held_bytes += bytes;
            self.held_bytes -= before.map_or(0, |event| event.json.len());
        }
    }

    fn release_held(&mut self, ready: &mut Vec<LogEvent>) {
        while let Some(entry) = self.held.first_entry() {
            let (seq, epoch) = (*entry.key(), entry.get().position.epoch);
            if seq <= self.delivered.seq {
                self.held_bytes -= entry.remove().json.len();
            } else if seq == self.delivered.seq.next() && epoch == self.epoch {
                let event = entry.remove();
                self.held_bytes -= event.json.len();
                self.accept(event, ready);
            } else {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Json;

    fn event(epoch: u64, seq: u64) -> LogEvent {
        let json = Json::one(format!("{{\"seq\":{seq}}}"));
        LogEvent { position: Position::new(Epoch(epoch), Seq(seq)), json }
    }

    fn delivery(head: u64) -> Delivery {
        Delivery::new(Position::new(Epoch(5), Seq(head)), Epoch(5), 64, 8)
    }

    fn seqs(events: &[LogEvent]) -> Vec<u64> {
        events.iter().map(|event| event.position.seq.0).collect()
    }

    #[test]
    fn an_early_event_waits_for_the_missing_one() {
        let mut room = delivery(3);
        let (ready, need) = room.offer([event(5, 5)]);
        assert_eq!((ready.len(), need), (0, Need::Hole));
        let (ready, need) = room.offer([event(5, 4)]);
        assert_eq!((seqs(&ready), need), (vec![4, 5], Need::Nothing));
    }

    #[test]
    fn an_unfamiliar_epoch_is_never_delivered_off_the_bus() {
        let mut room = delivery(3);
        for epoch in [4, 6] {
            let (ready, need) = room.offer([event(epoch, 4)]);
            assert_eq!((ready.len(), need), (0, Need::Check), "epoch {epoch}");
        }
        assert_eq!(seqs(&room.offer_from_log([event(6, 4)])), [4]);
        let (ready, need) = room.offer([event(6, 5)]);
        assert_eq!((seqs(&ready), need), (vec![5], Need::Nothing));
    }

    #[test]
    fn memory_serves_only_positions_it_knows() {
        let mut room = delivery(0);
        room.offer((1..=10).map(|seq| event(5, seq)));
        let since = |epoch, seq| {
            let position = Position::new(Epoch(epoch), Seq(seq));
            room.since(position).map(|events| events.map(|e| e.position.seq.0).collect::<Vec<_>>())
        };
        assert_eq!(since(5, 10), Some(vec![]));
        assert_eq!(since(5, 8), Some(vec![9, 10]));
        assert_eq!(since(4, 8), None, "another epoch");
        assert_eq!(since(5, 1), None, "left memory");
        assert_eq!(since(5, 2), None, "itself left memory: its epoch can't be compared");
        assert_eq!(since(5, 11), None, "ahead");
    }

    #[test]
    fn events_in_memory_end_at_their_bytes() {
        let large = |seq| LogEvent {
            json: Json::one(format!("{{\"seq\":\"{}\"}}", "x".repeat(MEMORY_BYTES / 3))),
            ..event(5, seq)
        };
        let mut room = delivery(0);
        room.offer((1..=6).map(large));
        assert_eq!((room.recent.len(), room.delivered().seq), (2, Seq(6)));
        room.offer((8..=14).map(large));
        assert_eq!(room.held.len(), 2);
        assert_eq!(seqs(&room.offer([large(7)]).0), [7, 8, 9]);
        assert_eq!((room.held_bytes, room.recent.len()), (0, 2));
        room.offer([LogEvent { json: Json::one("x".repeat(2 * MEMORY_BYTES)), ..event(5, 10) }]);
        assert_eq!(room.last().map(|event| event.position.seq), Some(Seq(10)));
    }

    proptest! {
        /// Whatever the bus does, with the log to fall back on, what leaves is
        /// 1…n in order.
        #[test]
        fn delivery_is_contiguous_and_complete_whatever_the_bus_does(
            total in 1u64..60,
            arrivals in prop::collection::vec((1u64..60, 0u8..4), 0..200),
        ) {
            let mut room = delivery(0);
            let mut seen = Vec::new();
            for (seq, luck) in arrivals {
                let seq = seq.min(total);
                let epoch = if luck == 0 { 4 } else { 5 };
                let (ready, need) = room.offer([event(epoch, seq)]);
                seen.extend(seqs(&ready));
                if need == Need::Check {
                    let next = room.delivered().seq.0 + 1;
                    let page = (next..=total).take(3).map(|seq| event(5, seq));
                    seen.extend(seqs(&room.offer_from_log(page)));
                }
            }
            let next = room.delivered().seq.0 + 1;
            seen.extend(seqs(&room.offer_from_log((next..=total).map(|seq| event(5, seq)))));
            prop_assert_eq!(seen, (1..=total).collect::<Vec<_>>());
            prop_assert!(!room.has_hole());
        }
    }
}
