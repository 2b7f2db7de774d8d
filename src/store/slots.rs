//! The slots of the shards: the lock that every writer takes, and the reading
//! of `slot_owner` that the node's slot map is made of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::{sleep_until, timeout};

use crate::db::{DbError, Sql};
use crate::ids::{RoomId, Slot};
use crate::metrics;
use crate::placement::{Owner, SLOTS, ShardIndex, SlotMap, SlotTable, slot_of};
use crate::position::Epoch;
use crate::routing::{Shard, Shards};

/// The first key of the advisory lock `(SLOT_LOCKS, slot)`. Writers of a room's
/// rows hold it shared until their transaction ends; whoever moves the slot
/// away takes it exclusively. Never to change while two versions run side by
/// side. ("slot" in ASCII.)
pub const SLOT_LOCKS: i32 = 0x736c_6f74;

/// How long one shard may take to say what it owns.
const READ_LIMIT: Duration = Duration::from_millis(500);
/// Between two looks for slots that nobody owned.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Before each new look for a room: a slot that moves has no owner for a moment.
const LOOK_PAUSES_MS: [u64; 5] = [0, 30, 60, 200, 500];
/// Readings younger than this serve whoever asks for a new one.
const FRESH: Duration = Duration::from_millis(20);

static ACTIVE_SLOTS: Sql =
    Sql { name: "active_slots", text: "SELECT slot, epoch FROM slot_owner WHERE state = 'active'" };

/// The node's slot map, and where it comes from. Cheap to clone.
#[derive(Clone)]
pub struct Slots {
    map: SlotMap,
    shards: Shards,
    last_read: Arc<Mutex<Option<Instant>>>,
    /// Where writers found slots gone, and since when they look for them.
    missed: Arc<std::sync::Mutex<HashMap<Slot, (ShardIndex, Instant)>>>,
}

impl Slots {
    /// Keeps `map` up to date; it is empty until the first [`Slots::refresh`].
    pub fn new(map: SlotMap, shards: Shards) -> Self {
        Self { map, shards, last_read: Arc::default(), missed: Arc::default() }
    }

    pub fn owner(&self, room: RoomId) -> Option<ShardIndex> {
        self.map.owner(room).map(|owner| owner.shard)
    }

    /// Whether any shard has said what it owns.
    pub fn are_known(&self) -> bool {
        self.map.table().unowned() < usize::from(SLOTS)
    }

    /// For who found a room nowhere: asks the shards again, after a pause that grows
    /// with every time. False: their answers might come after the deadline.
    pub async fn look_again(&self, times: usize, deadline: Instant) -> bool {
        let pause = LOOK_PAUSES_MS[times.min(LOOK_PAUSES_MS.len() - 1)];
        let at = Instant::now() + Duration::from_millis(pause);
        if at + READ_LIMIT >= deadline {
            return false;
        }
        sleep_until(at.into()).await;
        self.refresh().await;
        true
    }

    /// Looks again, not too often, for slots that nobody owned when they were asked for
    /// first, in the middle of a move.
    pub async fn look_for_unowned(&self) {
        let is_due = async || self.last_read.lock().await.is_none_or(|read| read.elapsed() > LOOK_AGAIN);
        if self.map.table().unowned() > 0 && is_due().await {
            self.refresh().await;
        }
    }

    /// A write found that `shard` doesn't own the room's slot.
    pub fn missed(&self, room: RoomId, shard: ShardIndex) {
        self.looked_for().entry(slot_of(room)).or_insert_with(|| (shard, Instant::now()));
    }

    /// What has moved between two readings, and what writers found.
    fn tell(&self, before: &SlotTable, now: &SlotTable) {
        let mut missed = self.looked_for();
        for slot in (0..SLOTS).map(Slot) {
            let owner = now.owner(slot).map(|owner| owner.shard);
            let looked_for = missed.get(&slot).copied();
            let was = looked_for.map(|(was, _)| was).or(before.owner(slot).map(|owner| owner.shard));
            match (was, owner) {
                (Some(was), Some(owner)) if was != owner => {
                    missed.remove(&slot);
                    metrics::moves::followed(looked_for.map(|(_, since)| since.elapsed()));
                }
                (Some(_), Some(_)) => drop(missed.remove(&slot)),
                _ if looked_for.is_some() => metrics::moves::waited(),
                _ => {}
            }
        }
    }

    fn looked_for(&self) -> std::sync::MutexGuard<'_, HashMap<Slot, (ShardIndex, Instant)>> {
        self.missed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Asks the primaries of all shards what they own. A shard that can't be
    /// asked keeps what was last known of it. Callers at the same time share
    /// one reading.
    pub async fn refresh(&self) {
        let asked = Instant::now();
        let mut last_read = self.last_read.lock().await;
        if last_read.is_some_and(|read| read + FRESH > asked) {
            return;
        }
        let begun = Instant::now();
        let known = self.map.table();
        let reads = self.shards.iter().map(|(index, shard)| async move { (index, active(shard).await) });
        let (mut table, mut silent) = (SlotTable::default(), Vec::new());
        for (shard, slots) in futures_util::future::join_all(reads).await {
            match slots {
                Some(slots) => {
                    slots.into_iter().for_each(|(slot, epoch)| table.claim(slot, Owner { shard, epoch }));
                }
                None => silent.push(shard),
            }
        }
        // What is only kept is no answer to who looks for an owner.
        self.tell(&known, &table);
        silent.into_iter().for_each(|shard| keep(&known, shard, &mut table));
        // In the middle of a move nobody owns a slot: who writes to it is told so
        // where it was, and waits.
        table.keep_unowned(&known);
        self.map.replace(table);
        *last_read = Some(begun);
    }
}

/// `None` if it can't be asked now.
async fn active(shard: &Shard) -> Option<Vec<(Slot, Epoch)>> {
    let primary = shard.primary_now()?;
    let read = async {
        let connection = primary.pool().get().await?;
        let rows = connection.query(&ACTIVE_SLOTS, &[]).await?;
        let slot = |row: &crate::db::Row| {
            let slot = u16::try_from(row.get::<_, i32>(0)).ok()?;
            Some((Slot(slot), Epoch::from_i64(row.get(1))))
        };
        Ok::<_, DbError>(rows.iter().filter_map(slot).collect())
    };
    match timeout(READ_LIMIT, read).await {
        Ok(Ok(slots)) => Some(slots),
        Ok(Err(error)) => {
            tracing::warn!(shard = %shard.name(), %error, "can't read the shard's slots");
            None
        }
        Err(_) => {
            tracing::warn!(shard = %shard.name(), "reading the shard's slots takes too long");
            None
        }
    }
}

fn keep(known: &SlotTable, shard: ShardIndex, table: &mut SlotTable) {
    for slot in (0..SLOTS).map(Slot) {
        if let Some(owner) = known.owner(slot).filter(|owner| owner.shard == shard) {
            table.claim(slot, owner);
        }
    }
}
