//! Where slots should go: a weighted consistent-hash ring.
//!
//! Explicit bytes are hashed, with a hash whose stability is promised, so that
//! every node and every release proposes the same.

use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};
use xxhash_rust::xxh3::Xxh3;

use super::SLOTS;
use crate::ids::ShardName;

/// Points on the ring of a shard of weight 100.
const POINTS: usize = 1000;

/// A shard and how many slots it should get, relative to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighted {
    pub shard: ShardName,
    /// 100 is one full share; 0 gets no slots.
    pub weight: u32,
}

/// The shard proposed for each slot, as an index into `shards`; `None` if no
/// shard has a weight. Adding a shard moves slots to it and between no others.
pub fn propose(shards: &[Weighted]) -> Option<Vec<usize>> {
    let nodes = shards.iter().enumerate().map(|(index, shard)| {
        let points = shard.weight as usize * POINTS / 100;
        Node::new(Bytes(shard.shard.as_str().as_bytes().into())).value(index).quantity(points)
    });
    let ring = StaticHashRing::new(Stable, nodes.filter(|node| node.quantity > 0));
    (0..SLOTS)
        .map(|slot| {
            let key = Bytes(slot.to_be_bytes().into());
            ring.calc_candidates(&key).next().map(|node| node.value)
        })
        .collect()
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Bytes(Box<[u8]>);

impl Hash for Bytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

struct Stable;

impl RingHash for Stable {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut hasher = Xxh3::new();
        item.hash(&mut hasher);
        hasher.finish()
    }

    fn hash_vnode<K: Hash>(&self, key: &K, point: usize) -> u64 {
        let mut hasher = Xxh3::new();
        key.hash(&mut hasher);
        hasher.update(&(point as u64).to_be_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(count: usize) -> Vec<Weighted> {
        (0..count)
            .map(|i| Weighted { shard: ShardName::new(&format!("s{i}")).unwrap(), weight: 100 })
            .collect()
    }

    fn counts(owners: &[usize], shards: usize) -> Vec<usize> {
        let mut counts = vec![0; shards];
        owners.iter().for_each(|owner| counts[*owner] += 1);
        counts
    }

    #[test]
    fn slots_spread_evenly_by_weight() {
        for count in [1, 2, 3, 16] {
            let owners = propose(&shards(count)).unwrap();
            let most = *counts(&owners, count).iter().max().unwrap() as f64;
            let mean = f64::from(SLOTS) / count as f64;
            assert!(most / mean < 1.15, "{count} shards: max/mean {}", most / mean);
        }
        let mut uneven = shards(2);
        uneven[1].weight = 300;
        let share = counts(&propose(&uneven).unwrap(), 2)[1] as f64 / f64::from(SLOTS);
        assert!((0.70..0.80).contains(&share), "share {share}");
    }

    /// What docs/capacity.md says of the ring; `--nocapture` prints its table.
    #[test]
    fn from_1_to_1000_shards_a_new_one_takes_its_share_and_nobody_elses_slots_move() {
        println!("shards | slots each | fewest | most | moved to one more | its share");
        for count in [1, 2, 3, 5, 10, 30, 100, 300, 1_000] {
            let before = propose(&shards(count)).unwrap();
            let after = propose(&shards(count + 1)).unwrap();
            let moved: Vec<_> = before.iter().zip(&after).filter(|(old, new)| old != new).collect();
            assert!(moved.iter().all(|(_, new)| **new == count), "{count} shards: others moved");
            let each = counts(&before, count);
            let (fewest, most) = (*each.iter().min().unwrap(), *each.iter().max().unwrap());
            let mean = f64::from(SLOTS) / count as f64;
            let share = f64::from(SLOTS) / (count + 1) as f64;
            println!("{count} | {mean:.1} | {fewest} | {most} | {} | {share:.1}", moved.len());
            // Slots fall like rain: five deviations of a Poisson variable, and 15 %
            // for the lengths of the arcs.
            let spread = 5.0 * share.sqrt() + 0.15 * share;
            assert!((moved.len() as f64 - share).abs() < spread, "{count} shards: {} moved", moved.len());
            assert!(fewest > 0 && (most as f64) < mean + 5.0 * mean.sqrt() + 0.15 * mean, "{most} of {mean}");
        }
    }

    #[test]
    fn nothing_is_proposed_without_weight() {
        assert_eq!(propose(&[]), None);
        assert_eq!(propose(&[Weighted { shard: ShardName::new("a").unwrap(), weight: 0 }]), None);
    }
}
