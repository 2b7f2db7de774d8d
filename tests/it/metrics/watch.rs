//! What is done on one side, and what is seen to move on the other.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join;
use roomgate::dev::Gateway;

use super::scrape::{Scrape, Series};

const LOOK: Duration = Duration::from_millis(25);
/// From the end of an action; some figures are taken every 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// One node, and what was seen to move on it.
pub struct Watch<'a> {
    pub node: &'a Gateway,
    moved: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Watch<'a> {
    pub fn of(node: &'a Gateway) -> Self {
        Self { node, moved: RefCell::default() }
    }

    /// Does something, and fails unless each of `series` moves while that is done
    /// or soon after: counters and histograms up, gauges to another value, though
    /// they may come back.
    #[track_caller]
    pub fn moves<T>(&self, series: &[&'static str], act: impl Future<Output = T>) -> impl Future<Output = T> {
        let from = std::panic::Location::caller();
        let act = Box::pin(act);
        async move {
            let before = Scrape::of(self.node).await;
            let done: Cell<Option<Instant>> = Cell::new(None);
            let acting = async {
                let result = act.await;
                done.set(Some(Instant::now()));
                result
            };
            let looking = async {
                let mut still = series.to_vec();
                loop {
                    let last = done.get().is_some_and(|done| done.elapsed() > PATIENCE);
                    if let Some(now) = Scrape::try_of(self.node).await {
                        still.retain(|text| !has_moved(&before, &now, text));
                    }
                    if still.is_empty() {
                        return;
                    }
                    assert!(!last, "{from}: these stood still: {still:#?}");
                    tokio::time::sleep(LOOK).await;
                }
            };
            let (result, ()) = join(acting, looking).await;
            self.moved.borrow_mut().extend(series);
            result
        }
    }

    /// That the list of a test is what it saw, no more and no less.
    #[track_caller]
    pub fn all(self, listed: &[&'static str]) {
        let listed: BTreeSet<&str> = listed.iter().copied().collect();
        let moved = self.moved.into_inner();
        let unseen: Vec<_> = listed.difference(&moved).collect();
        let unlisted: Vec<_> = moved.difference(&listed).collect();
        assert!(unseen.is_empty() && unlisted.is_empty(), "not seen {unseen:#?}, not listed {unlisted:#?}");
    }
}

fn has_moved(before: &Scrape, now: &Scrape, text: &str) -> bool {
    let series = Series::read(text);
    let (was, is) = (before.sum(&series), now.sum(&series));
    if now.is_counted(&series.family) { is > was } else { (is - was).abs() > f64::EPSILON }
}
