//! What this node believes about who owns which slot.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{SLOTS, slot_of};
use crate::ids::{RoomId, Slot};
use crate::position::Epoch;

/// A shard's place among those that this process knows, the same for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardIndex(pub u16);

/// Who may write a slot, and under which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub shard: ShardIndex,
    pub epoch: Epoch,
}

/// One reading of all shards. Slots nobody owns have no entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotTable {
    owners: Vec<Option<Owner>>,
}

impl Default for SlotTable {
    fn default() -> Self {
        Self { owners: vec![None; usize::from(SLOTS)] }
    }
}

impl SlotTable {
    /// Notes that `shard` says it owns `slot`. If two say so, which a crashed
    /// move or an old reading can cause, the higher epoch is the later owner.
    pub fn claim(&mut self, slot: Slot, owner: Owner) {
        if let Some(entry) = self.owners.get_mut(usize::from(slot.0))
            && entry.is_none_or(|known| known.epoch < owner.epoch)
        {
            *entry = Some(owner);
        }
    }

    pub fn owner(&self, slot: Slot) -> Option<Owner> {
        self.owners.get(usize::from(slot.0)).copied().flatten()
    }

    /// Slots that nobody owns stay with whom they were.
    pub fn keep_unowned(&mut self, before: &Self) {
        for (owner, before) in self.owners.iter_mut().zip(&before.owners) {
            *owner = owner.or(*before);
        }
    }

    /// Slots without an owner.
    pub fn unowned(&self) -> usize {
        self.owners.iter().filter(|owner| owner.is_none()).count()
    }
}

/// The latest [`SlotTable`]; a cheap handle, readable without waiting.
#[derive(Clone, Default)]
pub struct SlotMap {
    table: Arc<ArcSwap<SlotTable>>,
}

impl SlotMap {
    pub fn replace(&self, table: SlotTable) {
        self.table.store(Arc::new(table));
    }

    pub fn owner(&self, room: RoomId) -> Option<Owner> {
        self.table.load().owner(slot_of(room))
    }

    pub fn table(&self) -> Arc<SlotTable> {
        self.table.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_owner_wins_in_any_order_of_reading() {
        let old = Owner { shard: ShardIndex(0), epoch: Epoch(5) };
        let new = Owner { shard: ShardIndex(1), epoch: Epoch(9) };
        for order in [[old, new], [new, old]] {
            let mut table = SlotTable::default();
            order.into_iter().for_each(|owner| table.claim(Slot(7), owner));
            assert_eq!(table.owner(Slot(7)), Some(new));
        }
        assert_eq!(SlotTable::default().unowned(), usize::from(SLOTS));
    }
}
