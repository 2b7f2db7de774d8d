use proptest::prelude::*;

use super::*;

const CHANNEL: &str = "roomgate:room:7";

fn seals(secret: &str, node: u64, unsigned: Unsigned) -> Seals {
    Seals::new(Sealer::of_secret(secret.as_bytes()), NodeId(node), unsigned)
}

#[test]
fn a_message_opens_once_and_in_its_own_channel() {
    let (speaker, listener) = (seals("k", 1, Unsigned::Refuse), seals("k", 2, Unsigned::Refuse));
    let mut known = Replays::default();
    let message = speaker.close(CHANNEL, b"hello");
    assert_eq!(listener.open("roomgate:room:8", message.clone(), &mut known), Err(Forged::WrongSeal));
    assert_eq!(listener.open(CHANNEL, message.clone(), &mut known).unwrap(), b"hello"[..]);
    assert_eq!(listener.open(CHANNEL, message.clone(), &mut known), Err(Forged::Replayed));
    let other = seals("another", 2, Unsigned::Refuse);
    assert_eq!(other.open(CHANNEL, message, &mut Replays::default()), Err(Forged::WrongSeal));
}

#[test]
fn every_changed_byte_of_a_message_is_found() {
    let (speaker, listener) = (seals("k", 1, Unsigned::Refuse), seals("k", 2, Unsigned::Refuse));
    let message = speaker.close(CHANNEL, b"hello");
    for index in 0..message.len() {
        let mut changed = message.to_vec();
        changed[index] ^= 1;
        let opened = listener.open(CHANNEL, changed.into(), &mut Replays::default());
        let expected = if index == 0 { Forged::Unsigned } else { Forged::WrongSeal };
        assert_eq!(opened, Err(expected), "byte {index}");
        let cut = listener.open(CHANNEL, message.slice(..index), &mut Replays::default());
        assert!(cut.is_err(), "cut at {index}");
    }
}

#[test]
fn an_old_message_is_refused_by_redis_time() {
    let (speaker, listener) = (seals("k", 1, Unsigned::Refuse), seals("k", 2, Unsigned::Refuse));
    let now = UnixMillis::now().0;
    for (age_ms, expected) in [(0, true), (14_000, true), (16_000, false), (-16_000, false)] {
        speaker.clock.learn(now + 1_000_000 - age_ms);
        listener.clock.learn(now + 1_000_000);
        let opened = listener.open(CHANNEL, speaker.close(CHANNEL, b"x"), &mut Replays::default());
        assert_eq!(opened.is_ok(), expected, "{age_ms} ms old: {opened:?}");
    }
}

#[test]
fn unsigned_payloads_pass_only_where_the_setting_accepts_them() {
    let old = Bytes::from_static(&[1, 4, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5]);
    let stored = Entry::read("0000000000000009 {\"session\":\"s\"}").unwrap();
    for (unsigned, passes) in [(Unsigned::Accept, true), (Unsigned::Refuse, false)] {
        let seals = seals("k", 2, unsigned);
        let opened = seals.open(CHANNEL, old.clone(), &mut Replays::default());
        assert_eq!(opened.ok(), passes.then(|| old.clone()));
        assert_eq!(seals.check_entry("key", "s", &stored).is_ok(), passes);
    }
}

#[test]
fn an_entry_holds_for_its_room_its_session_and_its_node() {
    let (writer, reader) = (seals("k", 1, Unsigned::Refuse), seals("k", 2, Unsigned::Refuse));
    let text = writer.close_entry("members:1", "ann", "{\"name\": \"Ann B\"}");
    let entry = Entry::read(&text).unwrap();
    assert_eq!((entry.node, entry.member), (NodeId(1), "{\"name\": \"Ann B\"}"));
    assert_eq!(reader.check_entry("members:1", "ann", &entry), Ok(()));
    assert_eq!(reader.check_entry("members:2", "ann", &entry), Err(Forged::WrongSeal));
    assert_eq!(reader.check_entry("members:1", "bob", &entry), Err(Forged::WrongSeal));
    let other_node = text.replacen("0000000000000001", "0000000000000003", 1);
    let moved = Entry::read(&other_node).unwrap();
    assert_eq!(reader.check_entry("members:1", "ann", &moved), Err(Forged::WrongSeal));
    reader.clock.learn(UnixMillis::now().0 + (KEPT_S + 5) * 1000);
    assert_eq!(reader.check_entry("members:1", "ann", &entry), Err(Forged::Stale));
}

proptest! {
    #[test]
    fn a_number_is_new_exactly_once(steps in prop::collection::vec((0u64..3000, any::<bool>()), 1..300)) {
        let (mut window, mut seen, mut highest) = (Window::default(), std::collections::HashSet::new(), 0);
        for (number, is_next) in steps {
            let number = if is_next { highest + 1 } else { number + 1 };
            let expected = number + WINDOW > highest && !seen.contains(&number);
            prop_assert_eq!(window.is_new(number), expected, "{} after {}", number, highest);
            seen.insert(number);
            highest = highest.max(number);
        }
    }

    #[test]
    fn no_bytes_and_no_text_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), text in ".{0,80}") {
        let seals = seals("k", 1, Unsigned::Refuse);
        let mut message = vec![VERSION];
        message.extend(bytes);
        prop_assert!(seals.open(CHANNEL, message.into(), &mut Replays::default()).is_err());
        let stored = format!("0000000000000001 s1.{text}");
        prop_assert!(Entry::read(&stored).is_none_or(|entry| seals.check_entry("k", "s", &entry).is_err()));
    }
}
