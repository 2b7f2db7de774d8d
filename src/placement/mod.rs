//! Which shard a room lives on. Pure.
//!
//! A room's slot is durable: `slot_of` never changes. The ring only proposes
//! where slots go; the [`SlotMap`] is what a node last heard of the shards'
//! `slot_owner` tables, and may be wrong without harm, because every write is
//! checked against that table in its own transaction.

mod plan;
mod ring;
mod slot_map;

use xxhash_rust::xxh3::xxh3_64;

pub use plan::{Move, Placed, plan};
pub use ring::{Weighted, propose};
pub use slot_map::{Owner, ShardIndex, SlotMap, SlotTable};

use crate::ids::{RoomId, Slot};

/// How many slots there are, for ever.
pub const SLOTS: u16 = 16_384;

/// The slot of a room: xxh3_64 over the id as 8 big-endian bytes, mod 16 384.
pub fn slot_of(room: RoomId) -> Slot {
    let hash = xxh3_64(&room.get().to_be_bytes());
    Slot((hash % u64::from(SLOTS)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed once with the reference implementation (`python-xxhash`) and
    /// pinned: rooms on disk are placed by them.
    #[test]
    fn golden_slots_never_change() {
        for (id, slot) in GOLDEN {
            assert_eq!(slot_of(RoomId::new(id).unwrap()), Slot(slot), "room {id}");
        }
    }

    const GOLDEN: [(u64, u16); 8] = [
        (1, 3059),
        (2, 4380),
        (3, 7197),
        (42, 4268),
        (1_000_000_007, 16_365),
        (4_503_599_627_370_496, 5808),
        (1_234_567_890_123_456, 12_849),
        (9_007_199_254_740_991, 2346),
    ];
}
