//! What every shard says it owns, how much that is, and what follows from it.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use thiserror::Error;

use super::statements as sql;
use crate::db::{Connection, DbError, Row};
use crate::ids::{ShardName, Slot};
use crate::placement::{Move, Placed, SLOTS, ShardIndex, Weighted, plan};
use crate::routing::{NoPrimary, Shard, Shards};

#[derive(Debug, Error)]
pub enum SurveyError {
    #[error(transparent)]
    NoPrimary(#[from] NoPrimary),
    #[error("{0}: {1}")]
    Database(ShardName, DbError),
}

/// What a slot is on one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Active,
    Importing,
    /// To the shard that is named.
    Moved(String),
}

impl State {
    /// As it stands in `slot_owner`.
    pub(super) fn read(state: &str, moved_to: Option<String>) -> Self {
        match (state, moved_to) {
            ("active", _) => Self::Active,
            ("moved", Some(to)) => Self::Moved(to),
            _ => Self::Importing,
        }
    }
}

/// One row of one shard.
#[derive(Debug, Clone)]
pub struct Found {
    pub slot: Slot,
    pub state: State,
    pub epoch: i64,
    pub rooms: i64,
    /// Judged by heads, not measured.
    pub bytes: u64,
    /// It went longer ago than what is left of it is kept.
    pub is_old: bool,
}

/// All rows of all shards, in their order. Not of one instant.
pub struct Survey {
    pub shards: Vec<(Weighted, Vec<Found>)>,
}

const PATIENCE: Duration = Duration::from_secs(10);

impl Survey {
    /// `kept`: how long what is left of a slot that went is kept.
    pub async fn take(shards: &Shards, kept: Duration) -> Result<Self, SurveyError> {
        let surveys = shards.iter().map(|(_, shard)| of_shard(shard, kept));
        Ok(Self { shards: try_join_all(surveys).await? })
    }

    pub fn weights(&self) -> Vec<Weighted> {
        self.shards.iter().map(|(weighted, _)| weighted.clone()).collect()
    }

    fn found(&self) -> impl Iterator<Item = (ShardIndex, &Found)> {
        let each = self.shards.iter().enumerate();
        each.flat_map(|(index, (_, found))| found.iter().map(move |found| (ShardIndex(index as u16), found)))
    }

    /// Who owns what.
    pub fn placed(&self) -> Vec<Placed> {
        let active = self.found().filter(|(_, found)| found.state == State::Active);
        active.map(|(owner, found)| Placed { slot: found.slot, owner, size: found.bytes }).collect()
    }

    /// Slots that several shards have active: which should never be.
    pub fn two_owners(&self) -> Vec<Slot> {
        let mut owners = vec![0; usize::from(SLOTS)];
        self.placed().iter().for_each(|placed| owners[usize::from(placed.slot.0)] += 1);
        let several = owners.iter().enumerate().filter(|(_, count)| **count > 1);
        several.map(|(slot, _)| Slot(slot as u16)).collect()
    }

    /// Moves beyond their point of no return that nobody has finished.
    pub fn unfinished(&self) -> Vec<Move> {
        let owned: Vec<Slot> = self.placed().iter().map(|placed| placed.slot).collect();
        let gone = self.found().filter_map(|(from, found)| {
            let State::Moved(to) = &found.state else { return None };
            let to = self.shards.iter().position(|(weighted, _)| weighted.shard.as_str() == to)?;
            Some(Move { slot: found.slot, from, to: ShardIndex(to as u16), size: found.bytes })
        });
        let importing = |step: &Move| {
            let (_, found) = &self.shards[usize::from(step.to.0)];
            found.iter().any(|found| found.slot == step.slot && found.state == State::Importing)
        };
        gone.filter(|step| !owned.contains(&step.slot) && importing(step)).collect()
    }

    /// Copies that were begun for slots that are where they were.
    pub fn begun(&self) -> Vec<Move> {
        let placed = self.placed();
        let importing = self.found().filter(|(_, found)| found.state == State::Importing);
        let begun = importing.filter_map(|(to, found)| {
            let owner = placed.iter().find(|placed| placed.slot == found.slot)?;
            Some(Move { slot: found.slot, from: owner.owner, to, size: owner.size })
        });
        begun.collect()
    }

    /// Towards an even load. A shard that was not asked about has none.
    pub fn plan(&self) -> Vec<Move> {
        plan(&self.weights(), &self.placed())
    }
}

/// What `slot` is where `connection` leads; nothing if nobody ever spoke of it there.
pub(super) async fn state(connection: &Connection, slot: Slot) -> Result<Option<State>, DbError> {
    let row = connection.query_opt(&sql::STATE, &[&i32::from(slot.0)]).await?;
    Ok(row.map(|row| State::read(row.get(0), row.get(1))))
}

async fn of_shard(shard: &Shard, kept: Duration) -> Result<(Weighted, Vec<Found>), SurveyError> {
    let primary = shard.primary(Instant::now() + PATIENCE).await?;
    let kept = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
    let ask = async {
        let connection = primary.pool().get().await?;
        let sizes = connection.query_one(&sql::SIZES, &[]).await?;
        Ok((connection.query(&sql::SLOTS, &[&kept]).await?, [sizes.get(0), sizes.get(1)]))
    };
    let (rows, sizes) = ask.await.map_err(|error| SurveyError::Database(shard.name().clone(), error))?;
    let weighted = Weighted { shard: shard.name().clone(), weight: shard.weight() };
    let widths: [f64; 2] = std::array::from_fn(|of| width(&rows, of, sizes[of]));
    let size = |row: &Row| (0..2).map(|of| row.get::<_, i64>(5 + of) as f64 * widths[of]).sum::<f64>();
    Ok((weighted, rows.iter().filter_map(|row| found(row, size(row) as u64)).collect()))
}

/// Bytes of an event (0) or a shape (1): what their table takes, by what all slots
/// say that they have of them. Statistics may be missing, and counting takes long.
fn width(rows: &[Row], of: usize, size: i64) -> f64 {
    let all: i64 = rows.iter().map(|row| row.get::<_, i64>(5 + of)).sum();
    size as f64 / all.max(1) as f64
}

fn found(row: &Row, bytes: u64) -> Option<Found> {
    Some(Found {
        slot: Slot(u16::try_from(row.get::<_, i32>(0)).ok().filter(|slot| *slot < SLOTS)?),
        state: State::read(row.get(1), row.get(3)),
        epoch: row.get(2),
        rooms: row.get(4),
        bytes,
        is_old: row.get(7),
    })
}
