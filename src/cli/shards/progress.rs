//! How a move goes, on a terminal and at its end.

use std::collections::{BTreeMap, HashMap};
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, ready};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::ids::Slot;
use crate::moves::{MoveError, Moved, Observer, Step};
use crate::placement::Move;

pub(super) struct Progress {
    bar: ProgressBar,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rooms: usize,
    rows: u64,
    /// Of slots without rooms, and of those with some.
    pauses: [Vec<Duration>; 2],
    /// How long writers waited for each step.
    parts: BTreeMap<&'static str, Vec<Duration>>,
    since: HashMap<u16, Instant>,
    problems: Vec<String>,
}

/// The steps that writers wait for, after the fence, and what takes so long.
const PARTS: [(Step, &str); 5] = [
    (Step::TailCopied, "1 tail copied"),
    (Step::DestinationFlushed, "2 destination flushed"),
    (Step::SourceMoved, "3 source moved"),
    (Step::Recorded, "4 source flushed, recorded"),
    (Step::Active, "5 active"),
];

impl Progress {
    pub fn new(moves: &[Move]) -> Self {
        let style = ProgressStyle::with_template("[{bar:32}] {pos}/{len} slots, {eta} left {msg}")
            .expect("the template is a constant");
        let bar = ProgressBar::new(moves.len() as u64).with_style(style);
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { bar, state: Mutex::default() }
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    pub fn report(&self, arrived: usize, failed: usize, of: usize, bytes: u64, took: Duration) -> Value {
        let state = self.lock();
        let parts: Map<String, Value> =
            state.parts.iter().map(|(part, took)| ((*part).to_owned(), quantiles(took.clone()))).collect();
        let [empty, with_rooms] = &state.pauses;
        json!({
            "arrived": arrived, "failed": failed, "of": of, "rooms": state.rooms, "rows": state.rows,
            "bytes": bytes, "seconds": (took.as_secs_f64() * 100.0).round() / 100.0,
            "pause_ms": quantiles([empty.as_slice(), with_rooms].concat()),
            "pause_with_rooms_ms": quantiles(with_rooms.clone()),
            "parts_of_the_pause_ms": parts,
        })
    }

    pub fn summary(&self, report: &Value) -> String {
        format!(
            "{} of {} slots with {} rooms arrived in {} s: {} rows, {} bytes; writers waited, p50 {} ms, p99 {} ms, \
             longest {} ms",
            report["arrived"],
            report["of"],
            report["rooms"],
            report["seconds"],
            report["rows"],
            report["bytes"],
            report["pause_ms"]["p50"],
            report["pause_ms"]["p99"],
            report["pause_ms"]["max"]
        )
    }

    pub fn problems(&self) -> Vec<String> {
        self.lock().problems.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn quantiles(mut all: Vec<Duration>) -> Value {
    all.sort_unstable();
    let at = |share: f64| {
        let place = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
        all.get(place).map(|took| (took.as_secs_f64() * 1e4).round() / 10.0)
    };
    json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
}

impl Observer for Progress {
    fn reached(&self, slot: Slot, step: Step) -> BoxFuture<'_, ()> {
        let mut state = self.lock();
        let before = state.since.insert(slot.0, Instant::now());
        if let (Some((_, part)), Some(before)) = (PARTS.iter().find(|(of, _)| *of == step), before) {
            state.parts.entry(part).or_default().push(before.elapsed());
        }
        drop(state);
        self.bar.set_message(format!("(slot {}: {step:?})", slot.0));
        Box::pin(ready(()))
    }

    fn ended(&self, slot: Slot, result: &Result<Moved, MoveError>) {
        self.bar.inc(1);
        let mut state = self.lock();
        match result {
            Ok(moved) => {
                state.rooms += moved.rooms;
                state.rows += moved.rows;
                state.pauses[usize::from(moved.rooms > 0)].extend(moved.pause);
            }
            Err(error) => state.problems.push(format!("slot {}: {error}", slot.0)),
        }
    }
}
