//! A queue that serves its payers in turn. Pure.
//!
//! Guarantees: the items of one payer come out in the order in which they went in; a
//! payer waits for one item at most of each other payer before its own next one. So a payer
//! with thousands of submits delays the submits of the others by one turn each.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Items of payers `K`, in turn.
pub(super) struct Turns<K, T> {
    /// Payers with items that wait, the next one first.
    order: VecDeque<K>,
    waiting: HashMap<K, VecDeque<T>>,
    len: usize,
}

impl<K, T> Default for Turns<K, T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), waiting: HashMap::new(), len: 0 }
    }
}

impl<K: Clone + Eq + Hash, T> Turns<K, T> {
    pub fn len(&self) -> usize {
        self.len
    }

    /// The items of one payer.
    pub fn len_of(&self, payer: &K) -> usize {
        self.waiting.get(payer).map_or(0, VecDeque::len)
    }

    pub fn push_back(&mut self, payer: K, item: T) {
        self.len += 1;
        if let Some(queue) = self.waiting.get_mut(&payer) {
            return queue.push_back(item);
        }
        self.waiting.insert(payer.clone(), VecDeque::from([item]));
        self.order.push_back(payer);
    }

    /// Puts an item back, before the others of its payer. A payer without items
    /// has the next turn.
    pub fn push_front(&mut self, payer: K, item: T) {
        self.len += 1;
        if let Some(queue) = self.waiting.get_mut(&payer) {
            return queue.push_front(item);
        }
        self.waiting.insert(payer.clone(), VecDeque::from([item]));
        self.order.push_front(payer);
    }

    /// The item that [`Turns::pop`] returns next.
    pub fn peek(&self) -> Option<&T> {
        self.waiting.get(self.order.front()?)?.front()
    }

    pub fn pop(&mut self) -> Option<T> {
        let payer = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&payer)?;
        let item = queue.pop_front()?;
        self.len -= 1;
        if queue.is_empty() {
            self.waiting.remove(&payer);
        } else {
            self.order.push_back(payer);
        }
        Some(item)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().flatten()
    }

    /// Takes out the chosen items; the items of a payer keep their order. The other
    /// items keep their turns.
    pub fn extract(&mut self, mut chosen: impl FnMut(&T) -> bool) -> Vec<T> {
        let Self { order, waiting, len } = self;
        let mut taken = Vec::new();
        order.retain(|payer| {
            let Some(queue) = waiting.get_mut(payer) else { return false };
            if queue.iter().any(&mut chosen) {
                for item in std::mem::take(queue) {
                    if chosen(&item) { taken.push(item) } else { queue.push_back(item) }
                }
            }
            let is_empty = queue.is_empty();
            if is_empty {
                waiting.remove(payer);
            }
            !is_empty
        });
        *len -= taken.len();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    type Item = (u8, usize);

    fn filled(items: &[Item]) -> Turns<u8, Item> {
        let mut turns = Turns::default();
        items.iter().for_each(|item| turns.push_back(item.0, *item));
        turns
    }

    fn drained(turns: &mut Turns<u8, Item>) -> Vec<Item> {
        std::iter::from_fn(|| turns.pop()).collect()
    }

    /// An item of each payer in `payers`, numbered.
    fn items(payers: Vec<u8>) -> Vec<Item> {
        payers.into_iter().enumerate().map(|(n, payer)| (payer, n)).collect()
    }

    #[test]
    fn a_payer_alone_is_served_in_order() {
        let all = items(vec![1; 100]);
        assert_eq!(drained(&mut filled(&all)), all);
    }

    #[test]
    fn a_payer_beside_a_flood_waits_for_one_item_of_it() {
        let mut turns = filled(&items(vec![1; 1000]));
        turns.push_back(2, (2, 0));
        turns.push_back(2, (2, 1));
        let served: Vec<u8> = (0..4).filter_map(|_| turns.pop()).map(|item| item.0).collect();
        assert_eq!(served, [1, 2, 1, 2]);
    }

    /// A step in the life of a queue.
    #[derive(Debug, Clone)]
    enum Step {
        Put(u8),
        Take(usize),
        /// Takes items and puts them back.
        Return(usize),
        /// Takes out the items of one remainder and puts them in again, as a room
        /// that is handed over.
        Move(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_u8..5).prop_map(Step::Put),
            1 => (0_usize..6).prop_map(Step::Take),
            1 => (0_usize..6).prop_map(Step::Return),
            1 => (0_usize..3).prop_map(Step::Move),
        ]
    }

    /// The room of an item: of each payer some items are in each of three rooms.
    fn room(item: &Item) -> usize {
        item.1 % 3
    }

    proptest! {
        #[test]
        fn items_of_a_payer_in_a_room_keep_their_order(steps in vec(step(), 0..200)) {
            let (mut turns, mut put, mut served) = (Turns::default(), 0, Vec::new());
            for step in steps {
                match step {
                    Step::Put(payer) => {
                        turns.push_back(payer, (payer, put));
                        put += 1;
                    }
                    Step::Take(count) => served.extend((0..count).map_while(|_| turns.pop())),
                    Step::Return(count) => {
                        let taken: Vec<Item> = (0..count).map_while(|_| turns.pop()).collect();
                        taken.into_iter().rev().for_each(|item| turns.push_front(item.0, item));
                    }
                    Step::Move(of) => {
                        for item in turns.extract(|item| room(item) == of) {
                            turns.push_back(item.0, item);
                        }
                    }
                }
                prop_assert_eq!(turns.len(), turns.iter().count());
                prop_assert_eq!(turns.len(), (0..5).map(|payer| turns.len_of(&payer)).sum::<usize>());
            }
            served.extend(drained(&mut turns));
            prop_assert_eq!(served.len(), put, "each item once");
            for payer in 0..5 {
                for of in 0..3 {
                    let all: Vec<usize> =
                        served.iter().filter(|i| i.0 == payer && room(i) == of).map(|i| i.1).collect();
                    prop_assert!(all.is_sorted(), "{payer} in {of}: {all:?}");
                }
            }
        }

        #[test]
        fn between_two_turns_each_other_payer_has_one(payers in vec(0_u8..5, 0..200)) {
            let all = items(payers);
            let served = drained(&mut filled(&all));
            for (at, item) in served.iter().enumerate() {
                let until_next = served[at + 1..].iter().take_while(|other| other.0 != item.0);
                let mut counts = [0; 5];
                until_next.for_each(|other| counts[usize::from(other.0)] += 1);
                let has_next = served[at + 1..].iter().any(|other| other.0 == item.0);
                prop_assert!(!has_next || counts.iter().all(|count| *count <= 1), "{served:?}");
            }
        }
    }
}
