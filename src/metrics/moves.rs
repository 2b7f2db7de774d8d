//! Slots that move, as a node sees it: whoever moves them is another process.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Histogram};

use super::registry::{Family, SECONDS, series};

const MOVES: Family = Family::counter(
    "roomgate_slot_moves_total",
    &["outcome"],
    "Slots that this node found at another shard than before (followed), and looks for their owner that found none (waited).",
);
const PAUSE: Family = Family::histogram(
    "roomgate_slot_move_pause_seconds",
    &[],
    SECONDS,
    "From a write that did not find a slot where it was until this node knew its new owner.",
);

pub(super) const FAMILIES: &[&Family] = &[&MOVES, &PAUSE];

struct Moves {
    followed: Counter,
    waited: Counter,
    pause: Histogram,
}

static MOVED: LazyLock<Moves> = LazyLock::new(|| Moves {
    followed: series(&MOVES, &["followed"]),
    waited: series(&MOVES, &["waited"]),
    pause: series(&PAUSE, &[]),
});

pub(super) fn init() {
    LazyLock::force(&MOVED);
}

/// A slot is at another shard; `pause` if writes have waited for that here.
pub fn followed(pause: Option<Duration>) {
    MOVED.followed.increment(1);
    if let Some(pause) = pause {
        MOVED.pause.record(pause.as_secs_f64());
    }
}

/// A write waits for a slot that nobody owns.
pub fn waited() {
    MOVED.waited.increment(1);
}
