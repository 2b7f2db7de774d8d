use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::cursor::InvalidCursor;
use super::*;
use crate::protocol::Access;

fn name(shard: usize) -> ShardName {
    ShardName::new(&format!("shard-{shard}")).unwrap()
}

/// One page over shards that hold these rooms, without those that fail.
fn page(shards: &[Vec<i64>], failing: &[bool], cursor: &ListCursor, limit: usize) -> RoomPage {
    page_with_share(shards, failing, cursor, limit, usize::MAX)
}

/// The same where a shard answers with at most `share` rooms.
fn page_with_share(
    shards: &[Vec<i64>],
    failing: &[bool],
    cursor: &ListCursor,
    limit: usize,
    share: usize,
) -> RoomPage {
    let (mut parts, mut failed) = (Vec::new(), Vec::new());
    for (shard, rooms) in shards.iter().enumerate() {
        if failing.get(shard) == Some(&true) {
            failed.push(name(shard));
            continue;
        }
        let after = cursor.of(&name(shard));
        let rooms: Vec<_> = rooms.iter().filter(|room| **room > after).take(limit + 1).collect();
        let is_cut = rooms.len() > share;
        let rooms = rooms.into_iter().take(share);
        let part = Part {
            rooms: rooms.map(|room| RoomFacts::example(*room, Access::Public)).collect(),
            is_cut,
            served_by: ServedBy::Primary,
            fallback: None,
        };
        parts.push((name(shard), part));
    }
    merge(parts, failed, cursor, limit)
}

proptest! {
    #[test]
    fn every_room_is_on_one_page_whichever_shards_fail_on_the_way(
        rooms in prop::collection::btree_map(1_i64..200, 0_usize..3, 0..60),
        failures in prop::collection::vec(prop::collection::vec(any::<bool>(), 3), 0..12),
        limit in 1_usize..8,
        share in 1_usize..10,
    ) {
        let mut shards = vec![Vec::new(); 3];
        rooms.iter().for_each(|(room, shard)| shards[*shard].push(*room));
        let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
        let (mut cursor, mut failures) = (ListCursor::default(), failures.into_iter());
        for _ in 0..200 {
            let failing = failures.next().unwrap_or_default();
            let page = page_with_share(&shards, &failing, &cursor, limit, share);
            prop_assert!(page.rooms.len() <= limit);
            prop_assert!(page.rooms.is_sorted_by_key(|facts| facts.room));
            prop_assert_eq!(page.incomplete.len(), failing.iter().filter(|fails| **fails).count());
            for facts in &page.rooms {
                *seen.entry(facts.room.as_i64()).or_default() += 1;
            }
            let Some(next) = page.next else { break };
            cursor = next.to_string().parse().unwrap();
            prop_assert_eq!(&cursor, &next);
        }
        let expected: BTreeMap<i64, usize> = rooms.keys().map(|room| (*room, 1)).collect();
        prop_assert_eq!(seen, expected);
    }
}

#[test]
fn a_page_after_a_failure_goes_on_where_the_shard_was_left() {
    let shards = [vec![1, 4], vec![2, 3]];
    let first = page(&shards, &[false, true], &ListCursor::default(), 1);
    assert_eq!(first.next.as_ref().unwrap().to_string(), "1~shard-1.0");
    let second = page(&shards, &[], first.next.as_ref().unwrap(), 10);
    let rooms: Vec<i64> = second.rooms.iter().map(|facts| facts.room.as_i64()).collect();
    assert_eq!((rooms, second.next), (vec![2, 3, 4], None));
}

#[test]
fn what_is_no_cursor_is_refused() {
    for text in ["", "x", "-1", "1~", "1~a", "1~a.", "1~a.x", "1~a.-1", "1~ .1", "9007199254740992", "1.2"] {
        assert_eq!(text.parse::<ListCursor>(), Err(InvalidCursor), "{text}");
    }
}
