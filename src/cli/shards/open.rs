//! What the verbs of moves begin with: the shards, the directory, and who moves.

use std::time::Duration;

use crate::cli::Failure;
use crate::config::Config;
use crate::ids::Slot;
use crate::moves::{Bounds, Mover, Survey};
use crate::placement::SLOTS;
use crate::tasks::Tasks;

/// Of a mover that only looks.
pub(super) const LOOKING: Bounds =
    Bounds { parallel: 1, bytes_per_second: None, max_lag: u64::MAX, patience: Duration::from_secs(30) };

pub(super) async fn open(config: &Config, bounds: Bounds, tasks: &Tasks) -> Result<Mover, Failure> {
    Mover::open(config, bounds, tasks).await.map_err(Failure::new)
}

pub(super) async fn survey(mover: &Mover, kept: Duration) -> Result<Survey, Failure> {
    Survey::take(&mover.shards, kept).await.map_err(Failure::new)
}

/// `0-99,4711`
pub(super) fn slots(text: &str) -> Result<Vec<Slot>, String> {
    let number = |text: &str| {
        let number = text.trim().parse::<u16>().ok().filter(|slot| *slot < SLOTS);
        number.ok_or_else(|| format!("{text:?} is no slot: they go from 0 to {}", SLOTS - 1))
    };
    let mut slots = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        slots.extend((number(first)?..=number(last)?).map(Slot));
    }
    slots.sort();
    slots.dedup();
    Ok(slots)
}

/// As [`slots`] reads them.
pub(super) fn ranges(slots: &[Slot]) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for Slot(slot) in slots {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *slot => *last = *slot,
            _ => ranges.push((*slot, *slot)),
        }
    }
    let text = |(first, last): (u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_as_they_are_written() {
        for text in ["0", "0-99,4711", "7,9,11-16383"] {
            assert_eq!(ranges(&slots(text).unwrap()), text);
        }
        assert_eq!(ranges(&slots("9,7,8,8").unwrap()), "7-9");
        for wrong in ["", "16384", "a", "1-", "-1", "1,,2"] {
            assert!(slots(wrong).is_err(), "{wrong}");
        }
    }
}
