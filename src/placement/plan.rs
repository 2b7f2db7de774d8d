//! Which slots should move where. Pure.
//!
//! Guarantees: what is balanced stays as it is; a shard without weight ends up
//! with nothing; every move goes from a shard that has too much to one that has
//! too little, so a shard that joins a balanced cluster is given its share and
//! nothing else moves.

use super::{ShardIndex, Weighted};
use crate::ids::Slot;

/// A slot as it is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    pub slot: Slot,
    pub owner: ShardIndex,
    /// Bytes.
    pub size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub slot: Slot,
    pub from: ShardIndex,
    pub to: ShardIndex,
    pub size: u64,
}

/// A shard may be off its share by so much before anything is moved for it.
const TOLERANCE: f64 = 0.05;
/// Where slots hold less than this on average, their number is what counts: a few
/// drawings in a new cluster say nothing of what will be where.
const LITTLE: f64 = 1024.0 * 1024.0;

/// The moves from `placed` to an even load of `shards` by their weights, in an
/// order in which each one alone makes the load more even.
pub fn plan(shards: &[Weighted], placed: &[Placed]) -> Vec<Move> {
    if shards.iter().all(|shard| shard.weight == 0) {
        return Vec::new();
    }
    let mut loads = Loads::new(shards, placed);
    let mut moves = Vec::new();
    while let Some((from, to)) = loads.most_uneven() {
        let Some(place) = loads.best(from, to) else {
            loads.is_done[from] = true;
            continue;
        };
        let Placed { slot, size, .. } = loads.give(from, to, place);
        moves.push(Move { slot, from: index(from), to: index(to), size });
    }
    moves
}

struct Loads {
    /// By shard: what it has, what it should have, and its slots, by size.
    have: Vec<f64>,
    share: Vec<f64>,
    slots: Vec<Vec<Placed>>,
    /// Shards none of whose slots would do better elsewhere, as one that has
    /// nothing but a slot too large.
    is_done: Vec<bool>,
    /// What every slot weighs beside its size, so that empty ones are spread too.
    floor: f64,
}

impl Loads {
    fn new(shards: &[Weighted], placed: &[Placed]) -> Self {
        let sizes: u64 = placed.iter().map(|placed| placed.size).sum();
        // An average slot weighs half for being a slot and half for what is in it.
        let floor = (sizes as f64 / placed.len().max(1) as f64).max(LITTLE);
        let weights: u32 = shards.iter().map(|shard| shard.weight).sum();
        let total = sizes as f64 + floor * placed.len() as f64;
        let share = |shard: &Weighted| total * f64::from(shard.weight) / f64::from(weights.max(1));
        let mut loads = Self {
            have: vec![0.0; shards.len()],
            share: shards.iter().map(share).collect(),
            slots: vec![Vec::new(); shards.len()],
            is_done: vec![false; shards.len()],
            floor,
        };
        for placed in placed {
            let owner = usize::from(placed.owner.0);
            if let Some(slots) = loads.slots.get_mut(owner) {
                slots.push(*placed);
                loads.have[owner] += placed.size as f64 + floor;
            }
        }
        loads.slots.iter_mut().for_each(|slots| slots.sort_by_key(by_size));
        loads
    }

    fn weight(&self, placed: &Placed) -> f64 {
        placed.size as f64 + self.floor
    }

    fn surplus(&self, shard: usize) -> f64 {
        self.have[shard] - self.share[shard]
    }

    /// Of the shard's share; all of it, of one that is to have nothing.
    fn off_by(&self, shard: usize) -> f64 {
        match self.share[shard] {
            0.0 if self.slots[shard].is_empty() => 0.0,
            0.0 => f64::INFINITY,
            share => self.surplus(shard) / share,
        }
    }

    /// The shard that has most too much, and the one that has most too little, if
    /// one of them is off by more than is worth a move.
    fn most_uneven(&self) -> Option<(usize, usize)> {
        let by_surplus = |a: &usize, b: &usize| self.off_by(*a).total_cmp(&self.off_by(*b));
        let may_give = |shard: &usize| !self.is_done[*shard] && self.surplus(*shard) > 0.0;
        let from = (0..self.have.len()).filter(may_give).max_by(by_surplus)?;
        let to = (0..self.have.len()).filter(|shard| self.share[*shard] > 0.0).min_by(by_surplus)?;
        let is_worth_it = self.off_by(from) > TOLERANCE || self.off_by(to) < -TOLERANCE;
        (is_worth_it && self.surplus(to) < 0.0).then_some((from, to))
    }

    /// The largest slot that leaves neither end on the wrong side of its share; if
    /// there is none, the smallest that still makes both together less wrong.
    fn best(&self, from: usize, to: usize) -> Option<usize> {
        let (surplus, lacking) = (self.surplus(from), -self.surplus(to));
        let fits = |placed: &Placed| self.weight(placed) <= surplus.min(lacking);
        let is_leaving = self.share[from] == 0.0;
        match self.slots[from].partition_point(fits).checked_sub(1) {
            Some(largest) => Some(largest),
            None => {
                let smallest = self.slots[from].first()?;
                (is_leaving || self.weight(smallest) < surplus + lacking).then_some(0)
            }
        }
    }

    fn give(&mut self, from: usize, to: usize, place: usize) -> Placed {
        let placed = self.slots[from].remove(place);
        let weight = self.weight(&placed);
        self.have[from] -= weight;
        self.have[to] += weight;
        let place = self.slots[to].partition_point(|other| by_size(other) < by_size(&placed));
        self.slots[to].insert(place, placed);
        placed
    }
}

fn by_size(placed: &Placed) -> (u64, u16) {
    (placed.size, placed.slot.0)
}

fn index(shard: usize) -> ShardIndex {
    ShardIndex(u16::try_from(shard).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::ShardName;
    use crate::placement::{SLOTS, propose};

    fn shards(weights: &[u32]) -> Vec<Weighted> {
        let shard = |(i, weight): (usize, &u32)| Weighted {
            shard: ShardName::new(&format!("s{i}")).unwrap(),
            weight: *weight,
        };
        weights.iter().enumerate().map(shard).collect()
    }

    /// As they are handed out at the beginning.
    fn handed_out(shards: &[Weighted], size: impl Fn(u16) -> u64) -> Vec<Placed> {
        let owners = propose(shards).unwrap();
        let placed = |(slot, owner): (usize, usize)| {
            let slot = slot as u16;
            Placed { slot: Slot(slot), owner: index(owner), size: size(slot) }
        };
        owners.into_iter().enumerate().map(placed).collect()
    }

    fn done(placed: &[Placed], moves: &[Move]) -> Vec<Placed> {
        let mut now: HashMap<Slot, Placed> = placed.iter().map(|placed| (placed.slot, *placed)).collect();
        for step in moves {
            let placed = now.get_mut(&step.slot).unwrap();
            assert_eq!((placed.owner, placed.size), (step.from, step.size));
            placed.owner = step.to;
        }
        let mut all: Vec<_> = now.into_values().collect();
        all.sort_by_key(|placed| placed.slot.0);
        all
    }

    /// max/mean of the number of slots, by weight.
    fn worst(shards: &[Weighted], placed: &[Placed]) -> f64 {
        let weights: u32 = shards.iter().map(|shard| shard.weight).sum();
        let count = |shard: usize| placed.iter().filter(|p| usize::from(p.owner.0) == shard).count() as f64;
        let share = |shard: usize| f64::from(SLOTS) * f64::from(shards[shard].weight) / f64::from(weights);
        let weighted = (0..shards.len()).filter(|shard| shards[*shard].weight > 0);
        weighted.map(|shard| count(shard) / share(shard)).fold(0.0, f64::max)
    }

    fn balanced(shards: &[Weighted], size: impl Fn(u16) -> u64) -> Vec<Placed> {
        let placed = handed_out(shards, size);
        done(&placed, &plan(shards, &placed))
    }

    #[test]
    fn from_1_to_1000_shards_a_new_one_is_given_its_share_and_nothing_else_moves() {
        println!("shards | most / share before | moved to one more | its share | most / share after");
        for count in [1, 2, 3, 5, 10, 30, 100, 300, 999] {
            let before = balanced(&shards(&vec![100; count]), |_| 1000);
            let more = shards(&vec![100; count + 1]);
            let moves = plan(&more, &before);
            let after = done(&before, &moves);
            let share = f64::from(SLOTS) / (count + 1) as f64;
            let [was, is] = [(worst(&more[..count], &before)), worst(&more, &after)];
            println!("{count} | {was:.3} | {} | {share:.1} | {is:.3}", moves.len());
            assert!(moves.iter().all(|step| usize::from(step.to.0) == count), "{count}: between old shards");
            assert!(moves.len() as f64 <= 1.1 * share, "{count}: {} moved of {share}", moves.len());
            assert!(was <= 1.1 && is <= 1.1, "{count}: {was} {is}");
        }
    }

    #[test]
    fn a_shard_that_leaves_is_emptied_and_nothing_else_moves() {
        for count in [2, 3, 10, 100] {
            let mut weights = vec![100; count];
            let before = balanced(&shards(&weights), |slot| u64::from(slot % 7));
            weights[1] = 0;
            let moves = plan(&shards(&weights), &before);
            let after = done(&before, &moves);
            assert!(moves.iter().all(|step| step.from == ShardIndex(1)), "{count}");
            assert!(after.iter().all(|placed| placed.owner != ShardIndex(1)), "{count}");
            assert!(worst(&shards(&weights), &after) <= 1.1);
        }
    }

    #[test]
    fn what_is_balanced_stays_and_nobody_without_weight_is_no_plan() {
        let three = shards(&[100, 100, 50]);
        let placed = balanced(&three, |_| 1);
        assert_eq!(plan(&three, &placed), []);
        assert_eq!(plan(&shards(&[0, 0]), &handed_out(&shards(&[1, 1]), |_| 1)), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Of any sizes and weights: each move makes the load more even, so that
        /// a plan may be stopped anywhere, and the end is as even as slots allow.
        #[test]
        fn every_move_helps_and_the_end_is_even(
            weights in prop::collection::vec(prop_oneof![Just(0_u32), 20_u32..300], 2..12),
            seed: u64, skew in 0_u32..4,
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let shards = shards(&weights);
            let noise = |slot: u16| (seed ^ u64::from(slot).wrapping_mul(0x9E37_79B9_7F4A_7C15)).rotate_left(17) % 1000;
            let size = |slot: u16| noise(slot).pow(skew);
            // Any placement, not only the ring's.
            let any = |slot: u16| Placed {
                slot: Slot(slot), owner: index(noise(slot) as usize % shards.len()), size: size(slot),
            };
            let placed: Vec<Placed> = (0..SLOTS).map(any).collect();
            let mut loads = Loads::new(&shards, &placed);
            let heaviest = placed.iter().map(|placed| loads.weight(placed)).fold(0.0, f64::max);
            for step in plan(&shards, &placed) {
                let [from, to] = [step.from, step.to].map(|shard| usize::from(shard.0));
                let uneven = |loads: &Loads| loads.surplus(from).abs() + loads.surplus(to).abs();
                let before = uneven(&loads);
                let place = loads.slots[from].iter().position(|placed| placed.slot == step.slot).unwrap();
                loads.give(from, to, place);
                prop_assert!(weights[from] == 0 || uneven(&loads) < before + 1e-6);
                prop_assert!(weights[to] > 0);
            }
            for (shard, weight) in weights.iter().enumerate() {
                let left = loads.surplus(shard);
                prop_assert!(*weight > 0 || loads.slots[shard].is_empty());
                let allowed = heaviest.max(TOLERANCE * loads.share[shard]) + 1e-6;
                prop_assert!(left <= allowed, "shard {shard} has {left} too much, {allowed} is allowed");
            }
        }
    }
}
