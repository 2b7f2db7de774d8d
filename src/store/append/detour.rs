//! Rooms that leave their lane: locked by somebody else, or moved to another
//! shard. A room goes as a whole, with everything that waits for it, so its
//! submits keep their order; its later ones follow it until it is idle.

use std::collections::{HashMap, HashSet, VecDeque};

use super::batch::Batch;
use super::desk::Seat;
use super::lane::{Lane, Unit};
use super::overloaded;
use crate::ids::RoomId;
use crate::placement::ShardIndex;

impl Lane {
    /// Rooms that are locked by somebody else wait in a queue of their own.
    pub(super) fn set_aside(&self, locked: Batch, units: &mut VecDeque<Unit>) {
        if locked.is_empty() {
            return;
        }
        let rooms = locked.rooms();
        let held = gather(locked, &rooms, units);
        if self.seat.aside {
            self.desk.put_back(self.seat, held);
        } else {
            self.hand_over(&rooms, held, Seat { aside: true, ..self.seat });
        }
    }

    pub(super) fn to_the_end(&self, unit: Unit, units: &mut VecDeque<Unit>) {
        let rooms = unit.batch.rooms();
        let held = gather(unit.batch, &rooms, units);
        self.hand_over(&rooms, held, self.seat);
    }

    /// Rooms whose slot isn't here go where the shards say that it is; while
    /// none says so, they wait aside. Clients see a pause.
    pub(super) async fn reroute(&self, mut elsewhere: Batch, units: &mut VecDeque<Unit>) {
        if elsewhere.is_empty() {
            return;
        }
        elsewhere.rooms().into_iter().for_each(|room| self.shared.slots.missed(room, self.seat.shard));
        self.shared.slots.refresh().await;
        let mut owners: HashMap<ShardIndex, HashSet<RoomId>> = HashMap::new();
        for room in elsewhere.rooms() {
            if let Some(shard) = self.shared.slots.owner(room).filter(|shard| *shard != self.seat.shard) {
                owners.entry(shard).or_default().insert(room);
            }
        }
        for (shard, rooms) in owners {
            let held = gather(elsewhere.split_rooms(&rooms), &rooms, units);
            tracing::info!(from = %self.shard.name(), to = shard.0, rooms = rooms.len(), "slots have moved");
            self.hand_over(&rooms, held, Seat { shard, aside: false });
        }
        self.set_aside(elsewhere, units);
    }

    fn hand_over(&self, rooms: &HashSet<RoomId>, held: Batch, to: Seat) {
        let refused = self.desk.hand_over(self.seat, rooms, held, to);
        if !refused.is_empty() {
            self.refuse(refused, &overloaded());
        }
    }
}

/// All of these rooms' submits that a lane has in its hands, in order.
fn gather(mut held: Batch, rooms: &HashSet<RoomId>, units: &mut VecDeque<Unit>) -> Batch {
    for unit in units {
        for (submit, ticket) in unit.batch.split_rooms(rooms).into_items() {
            held.push(submit, ticket);
        }
    }
    held
}
