//! How a move goes, on a terminal and at its end.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

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
    pauses: Vec<Duration>,
    problems: Vec<String>,
}

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
        let mut state = self.lock();
        state.pauses.sort_unstable();
        let at = |share: f64| {
            let place =
                ((state.pauses.len() as f64 * share) as usize).min(state.pauses.len().saturating_sub(1));
            state.pauses.get(place).map(|pause| (pause.as_secs_f64() * 1e4).round() / 10.0)
        };
        json!({
            "arrived": arrived, "failed": failed, "of": of, "rooms": state.rooms, "rows": state.rows,
            "bytes": bytes, "seconds": (took.as_secs_f64() * 100.0).round() / 100.0,
            "pause_ms": {"p50": at(0.5), "p99": at(0.99), "max": at(1.0)},
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

impl Observer for Progress {
    fn reached(&self, slot: Slot, step: Step) -> BoxFuture<'_, ()> {
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
                state.pauses.extend(moved.pause);
            }
            Err(error) => state.problems.push(format!("slot {}: {error}", slot.0)),
        }
    }
}
