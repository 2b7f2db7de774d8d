//! Who of this node should be known as present, and what of it Redis has yet to
//! be told. Pure.
//!
//! Presence is kept as a state, not as a queue of changes: an outage of hours
//! owes one write for each session that is here, however many came and went.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::ids::{RoomId, SessionId};

pub(super) type Key = (RoomId, SessionId);

/// One field of a room's hash, as it should become; `None` is taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub key: Key,
    pub member: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: HashMap<Key, Entry>,
    owed: HashSet<Key>,
}

#[derive(Debug)]
struct Entry {
    member: Option<String>,
    /// Redis may have it.
    stored: bool,
}

impl Ledger {
    pub fn enter(&mut self, key: Key, member: String) {
        let stored = self.entries.get(&key).is_some_and(|entry| entry.stored);
        self.entries.insert(key.clone(), Entry { member: Some(member), stored });
        self.owed.insert(key);
    }

    pub fn leave(&mut self, key: Key) {
        match self.entries.get_mut(&key) {
            Some(entry) if entry.stored => {
                entry.member = None;
                self.owed.insert(key);
            }
            _ => {
                self.entries.remove(&key);
                self.owed.remove(&key);
            }
        }
    }

    /// Some of what is owed; each is to be answered by [`Ledger::written`] or
    /// [`Ledger::failed`].
    pub fn take(&mut self, count: usize) -> Vec<Write> {
        let keys: Vec<Key> = self.owed.iter().take(count).cloned().collect();
        let mut writes = Vec::with_capacity(keys.len());
        for key in keys {
            self.owed.remove(&key);
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.stored = true;
                writes.push(Write { member: entry.member.clone(), key });
            }
        }
        writes
    }

    pub fn written(&mut self, write: &Write) {
        let changed = self.owed.contains(&write.key);
        if write.member.is_none() && !changed {
            self.entries.remove(&write.key);
        }
    }

    pub fn failed(&mut self, write: Write) {
        self.owed.insert(write.key);
    }

    /// The entries that Redis should have, in parts of at most `count` of one room.
    pub fn stored(&self, count: usize) -> Vec<(RoomId, Vec<Write>)> {
        let mut by_room: BTreeMap<RoomId, Vec<Write>> = BTreeMap::new();
        for (key, entry) in &self.entries {
            if entry.stored && entry.member.is_some() && !self.owed.contains(key) {
                let write = Write { key: key.clone(), member: entry.member.clone() };
                by_room.entry(key.0).or_default().push(write);
            }
        }
        let parts = |(room, writes): (RoomId, Vec<Write>)| {
            writes.chunks(count).map(|part| (room, part.to_vec())).collect::<Vec<_>>()
        };
        by_room.into_iter().flat_map(parts).collect()
    }

    /// Redis had lost these.
    pub fn owe(&mut self, lost: &[Write]) {
        let known = lost.iter().filter(|write| self.entries.contains_key(&write.key));
        self.owed.extend(known.map(|write| write.key.clone()));
    }

    /// Redis may have lost everything.
    pub fn owe_all(&mut self) {
        self.owed.extend(self.entries.keys().cloned());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> Key {
        (RoomId::new(1).unwrap(), SessionId::new(&format!("s{n}")).unwrap())
    }

    #[test]
    fn who_came_and_went_while_redis_was_away_costs_nothing() {
        let mut ledger = Ledger::default();
        for n in 0..100 {
            ledger.enter(key(n), "x".to_owned());
            ledger.leave(key(n));
        }
        assert!(ledger.take(1000).is_empty() && ledger.entries.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter(u8),
        Leave(u8),
        /// Writes that many; those with an odd index fail, perhaps after they
        /// were carried out.
        Flush(usize, bool),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..6).prop_map(Step::Enter),
            (0u8..6).prop_map(Step::Leave),
            (0usize..5, any::<bool>()).prop_map(|(count, late)| Step::Flush(count, late)),
            Just(Step::Restart),
        ]
    }

    fn carry_out(redis: &mut BTreeMap<Key, String>, write: &Write) {
        match &write.member {
            Some(member) => redis.insert(write.key.clone(), member.clone()),
            None => redis.remove(&write.key),
        };
    }

    proptest! {
        #[test]
        fn once_redis_answers_it_holds_exactly_who_is_here(steps in prop::collection::vec(step(), 0..60)) {
            let (mut ledger, mut redis, mut here) = (Ledger::default(), BTreeMap::new(), BTreeMap::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Enter(n) => {
                        here.insert(key(n), number.to_string());
                        ledger.enter(key(n), number.to_string());
                    }
                    Step::Leave(n) => {
                        here.remove(&key(n));
                        ledger.leave(key(n));
                    }
                    Step::Flush(count, late) => {
                        for (index, write) in ledger.take(count).into_iter().enumerate() {
                            if index % 2 == 0 || late {
                                carry_out(&mut redis, &write);
                            }
                            if index % 2 == 0 { ledger.written(&write) } else { ledger.failed(write) }
                        }
                    }
                    Step::Restart => {
                        redis.clear();
                        ledger.owe_all();
                    }
                }
            }
            for write in ledger.take(usize::MAX) {
                carry_out(&mut redis, &write);
                ledger.written(&write);
            }
            prop_assert_eq!(redis, here.clone());
            prop_assert_eq!(ledger.entries.len(), here.len(), "nobody who has gone is remembered");
        }
    }
}
