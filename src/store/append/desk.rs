//! Where submits wait: one desk per lane number, with a bounded queue for every
//! shard's lane and another for rooms that were set aside.
//!
//! Guarantees: while submits of a room wait or are in flight, all of them are
//! in *one* queue or the hands of its lane, so those of one payer can't overtake
//! each other, also when the room goes to another queue (its slot moved, it is
//! locked). Payers are served in turn, and a payer can fill half of a queue.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::batch::{Batch, Ticket};
use super::turns::Turns;
use crate::ids::{RoomId, UserId};
use crate::log::Submit;
use crate::placement::ShardIndex;

/// The bodies of one transaction, unless one submit alone has more. A user with
/// large submits would make the transactions long that others wait for.
const BATCH_BYTES: usize = 1 << 20;

/// One queue of a desk, served by one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub shard: ShardIndex,
    /// For rooms that someone else keeps locked.
    pub aside: bool,
}

impl Seat {
    fn index(self) -> usize {
        usize::from(self.shard.0) * 2 + usize::from(self.aside)
    }
}

pub(super) struct Desk {
    state: Mutex<State>,
    bells: boxcar::Vec<Notify>,
    /// Of each queue. A submit that finds it full is refused, and so is one of a
    /// payer that has more submits in it than the queue has free places.
    capacity: usize,
}

struct State {
    queues: Vec<Turns<UserId, (Submit, Ticket)>>,
    /// Rooms with submits that are not answered yet.
    busy: HashMap<RoomId, Place>,
}

struct Place {
    seat: Seat,
    unanswered: usize,
}

/// Why a submit was not taken.
pub(super) enum NotTaken {
    Full,
    NoOwner,
}

impl Desk {
    pub fn new(capacity: usize) -> Self {
        let state = State { queues: Vec::new(), busy: HashMap::new() };
        Self { state: Mutex::new(state), bells: boxcar::Vec::new(), capacity }
    }

    /// Seats for one more shard, the next one.
    pub fn seat(&self) {
        let mut state = self.lock();
        for _ in 0..2 {
            state.queues.push(Turns::default());
            self.bells.push(Notify::new());
        }
    }

    /// Queues a submit behind those of its room, or where `owner` says.
    pub fn put(
        &self,
        submit: Submit,
        ticket: Ticket,
        owner: impl FnOnce() -> Option<ShardIndex>,
    ) -> Result<(), NotTaken> {
        let room = submit.room;
        let mut state = self.lock();
        let seat = match state.busy.get(&room) {
            Some(place) => place.seat,
            None => match owner() {
                Some(shard) => Seat { shard, aside: false },
                None => {
                    ticket.forget();
                    return Err(NotTaken::NoOwner);
                }
            },
        };
        let queue = &mut state.queues[seat.index()];
        let free = self.capacity.saturating_sub(queue.len());
        if free == 0 || queue.len_of(&ticket.payer) > free {
            ticket.forget();
            return Err(NotTaken::Full);
        }
        queue.push_back(ticket.payer.clone(), (submit, ticket));
        state.busy.entry(room).or_insert(Place { seat, unanswered: 0 }).unanswered += 1;
        drop(state);
        self.bells[seat.index()].notify_one();
        Ok(())
    }

    /// All that waits, up to `limit` and [`BATCH_BYTES`]; waits for the first.
    /// Cancel-safe.
    pub async fn take(&self, seat: Seat, limit: usize) -> Batch {
        loop {
            let batch = self.take_now(seat, limit);
            if !batch.is_empty() {
                return batch;
            }
            self.bells[seat.index()].notified().await;
        }
    }

    pub fn take_now(&self, seat: Seat, limit: usize) -> Batch {
        let mut batch = Batch::default();
        let mut state = self.lock();
        let queue = &mut state.queues[seat.index()];
        let count = limit.min(queue.len());
        batch.submits.reserve(count);
        batch.tickets.reserve(count);
        let mut bytes = 0;
        while batch.len() < count
            && let Some((next, _)) = queue.peek()
        {
            bytes += next.body.len();
            if bytes > BATCH_BYTES && !batch.is_empty() {
                break;
            }
            let Some((submit, ticket)) = queue.pop() else { break };
            batch.push(submit, ticket);
        }
        batch
    }

    /// Those in the queue that gave up by `now`.
    pub fn take_expired(&self, seat: Seat, now: Instant) -> Batch {
        let mut state = self.lock();
        state.queues[seat.index()].extract(|(_, ticket)| ticket.gives_up_at() <= now).into_iter().collect()
    }

    /// Puts back what a lane took, before all that waits of its payers.
    pub fn put_back(&self, seat: Seat, batch: Batch) {
        let mut state = self.lock();
        for item in batch.into_items().rev() {
            state.queues[seat.index()].push_front(item.1.payer.clone(), item);
        }
        drop(state);
        self.bells[seat.index()].notify_one();
    }

    /// Hands whole rooms over: what the lane at `from` holds of them, then what
    /// waits there; later submits follow. What doesn't fit comes back, the
    /// latest ones of its rooms.
    pub fn hand_over(&self, from: Seat, rooms: &HashSet<RoomId>, held: Batch, to: Seat) -> Batch {
        let mut state = self.lock();
        let mut handed: Vec<_> = held.into_items().collect();
        handed.extend(state.queues[from.index()].extract(|(submit, _)| rooms.contains(&submit.room)));
        for room in rooms {
            if let Some(place) = state.busy.get_mut(room) {
                place.seat = to;
            }
        }
        let mut refused = Batch::default();
        for (submit, ticket) in handed {
            let queue = &mut state.queues[to.index()];
            if queue.len() < self.capacity {
                queue.push_back(ticket.payer.clone(), (submit, ticket));
            } else {
                refused.push(submit, ticket);
            }
        }
        drop(state);
        self.bells[to.index()].notify_one();
        refused
    }

    /// `rooms` are those of submits that are about to be answered.
    pub fn answered(&self, rooms: impl Iterator<Item = RoomId>) {
        let mut state = self.lock();
        for room in rooms {
            if let Some(place) = state.busy.get_mut(&room) {
                place.unanswered -= 1;
                if place.unanswered == 0 {
                    state.busy.remove(&room);
                }
            }
        }
    }

    /// After a lane lost what it held: what waits at its seat is all there is.
    pub fn recount(&self, seat: Seat) {
        let mut state = self.lock();
        let State { queues, busy } = &mut *state;
        busy.retain(|_, place| place.seat != seat);
        for (submit, _) in queues[seat.index()].iter() {
            busy.entry(submit.room).or_insert(Place { seat, unanswered: 0 }).unanswered += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{OpId, UserId};
    use crate::log::Authority;
    use crate::protocol::{Exact, Operation};
    use crate::traces::Trace;
    use std::time::Duration;

    const HERE: Seat = Seat { shard: ShardIndex(0), aside: false };
    const THERE: Seat = Seat { shard: ShardIndex(1), aside: false };

    /// For two shards.
    fn desk(capacity: usize) -> Desk {
        let desk = Desk::new(capacity);
        (0..2).for_each(|_| desk.seat());
        desk
    }

    fn put(desk: &Desk, room: u64, op: &str) -> Result<(), NotTaken> {
        put_of(desk, "u", room, op, serde_json::Value::Null)
    }

    fn put_of(desk: &Desk, user: &str, room: u64, op: &str, data: serde_json::Value) -> Result<(), NotTaken> {
        let (room, op) = (RoomId::new(room).unwrap(), OpId::new(op).unwrap());
        let operation = Operation::Message { data: Exact::encode(data) };
        let user = UserId::new(user).unwrap();
        let submit = Submit::new(room, user.clone(), Authority::Member, op, operation);
        let deadline = Instant::now() + Duration::from_secs(60);
        let ticket = Ticket::new(user, Box::new(|_| {}), Trace::none(), deadline, Duration::from_secs(60));
        desk.put(submit, ticket, || Some(HERE.shard))
    }

    fn ops(batch: &Batch) -> Vec<&str> {
        batch.submits.iter().map(|submit| submit.op.as_str()).collect()
    }

    #[test]
    fn a_room_that_is_handed_over_keeps_its_order_and_takes_later_submits_along() {
        let desk = desk(10);
        for (room, op) in [(1, "a1"), (2, "b1"), (1, "a2"), (2, "b2")] {
            assert!(put(&desk, room, op).is_ok());
        }
        let mut taken = desk.take_now(HERE, 2);
        let rooms = HashSet::from([RoomId::new(1).unwrap()]);
        let held = taken.split_rooms(&rooms);
        assert!(desk.hand_over(HERE, &rooms, held, THERE).is_empty());
        // Its owner, by the map, is still the first shard.
        assert!(put(&desk, 1, "a3").is_ok());
        assert_eq!(ops(&desk.take_now(THERE, 10)), ["a1", "a2", "a3"]);
        desk.put_back(HERE, taken);
        assert_eq!(ops(&desk.take_now(HERE, 10)), ["b1", "b2"]);
        // Once idle, it goes where the map says.
        desk.answered([1, 1, 1].into_iter().map(|room| RoomId::new(room).unwrap()));
        assert!(put(&desk, 1, "a4").is_ok());
        assert_eq!(ops(&desk.take_now(HERE, 10)), ["a4"]);
    }

    #[test]
    fn a_full_queue_takes_no_more_and_hands_back_what_does_not_fit() {
        let desk = desk(2);
        assert!(put(&desk, 1, "a1").is_ok());
        assert!(put(&desk, 1, "a2").is_ok());
        assert!(matches!(put(&desk, 1, "a3"), Err(NotTaken::Full)));
        let held = desk.take_now(HERE, 2);
        assert!(put(&desk, 1, "a4").is_ok());
        let refused = desk.hand_over(HERE, &held.rooms(), held, THERE);
        assert_eq!(ops(&refused), ["a4"], "the latest");
    }

    #[test]
    fn a_user_fills_half_of_a_queue_and_delays_others_by_one_turn() {
        let desk = desk(1000);
        let null = || serde_json::Value::Null;
        let taken = (0..1000).filter(|n| put_of(&desk, "eve", n % 50 + 1, &format!("e{n}"), null()).is_ok());
        assert_eq!(taken.count(), 501);
        for op in ["a1", "a2"] {
            assert!(put_of(&desk, "ann", 1, op, null()).is_ok());
        }
        assert_eq!(ops(&desk.take_now(HERE, 5)), ["e0", "a1", "e1", "a2", "e2"]);
    }

    #[test]
    fn a_batch_ends_at_its_bytes_and_has_one_submit_at_least() {
        let desk = desk(100);
        let large = || serde_json::Value::String("x".repeat(BATCH_BYTES / 4));
        for n in 0..8 {
            assert!(put_of(&desk, "eve", 1, &format!("e{n}"), large()).is_ok());
        }
        assert!(put_of(&desk, "ann", 1, "a", serde_json::Value::Null).is_ok());
        assert_eq!(ops(&desk.take_now(HERE, 100)), ["e0", "a", "e1", "e2"]);
        let huge = serde_json::Value::String("x".repeat(2 * BATCH_BYTES));
        assert!(put_of(&desk, "bob", 1, "huge", huge).is_ok());
        let next = [desk.take_now(HERE, 100), desk.take_now(HERE, 100)];
        assert_eq!(next.iter().map(ops).collect::<Vec<_>>(), [vec!["e3"], vec!["huge"]]);
    }

    #[test]
    fn after_a_lost_batch_only_what_waits_keeps_a_room_in_its_place() {
        let desk = desk(10);
        assert!(put(&desk, 1, "a1").is_ok());
        drop(desk.take_now(HERE, 10));
        desk.recount(HERE);
        assert!(desk.lock().busy.is_empty());
    }
}
