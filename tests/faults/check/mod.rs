//! The checker: does the history keep the promise? Each rule is a sentence of it.

mod late;
mod log;
mod reads;
mod streams;
mod submits;

use std::collections::BTreeMap;

use crate::Failure;
use crate::cluster::World;
use crate::history::{History, Micros, Played};

pub use late::Delays;
pub use log::Logs;

/// What broke, by rule.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How many there were, and the first few in words.
    pub broken: BTreeMap<&'static str, (usize, Vec<String>)>,
    /// How often each rule was looked at.
    pub looked: BTreeMap<&'static str, u64>,
    /// Acks of what is not in the log: shard, and when they came.
    pub acks_lost: Vec<(usize, Micros)>,
}

const TOLD: usize = 3;

impl Verdict {
    pub fn check(&mut self, rule: &'static str, holds: bool, otherwise: impl FnOnce() -> String) {
        *self.looked.entry(rule).or_default() += 1;
        if !holds {
            let (count, told) = self.broken.entry(rule).or_default();
            *count += 1;
            if told.len() < TOLD {
                told.push(otherwise());
            }
        }
    }

    pub fn fail(&mut self, rule: &'static str, what: String) {
        self.check(rule, false, || what);
    }

    pub fn is_clean(&self) -> bool {
        self.broken.is_empty()
    }

    /// How often one of these rules was broken.
    pub fn count(&self, rules: &[&str]) -> usize {
        rules.iter().filter_map(|rule| self.broken.get(rule)).map(|(count, _)| count).sum()
    }
}

/// What was acked or seen, and then lost by a failover that may lose.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    pub shard: usize,
    /// What was told between these may be gone.
    pub from: Micros,
    pub to: Micros,
}

/// A standby that isn't cut off is never further behind than this.
const TAIL: Micros = 5_000_000;
/// So long a node may go on from what is gone before it finds out, and so late a
/// client may read what it was sent. Then all resync.
const UNNOTICED: Micros = 5_000_000;

/// Everything that there is to check, and how late events were.
pub async fn check(world: &World, history: &History) -> Result<(Verdict, Logs, Delays), Failure> {
    let mut verdict = Verdict::default();
    let logs = log::load(world, &mut verdict).await?;
    let losses: Vec<Loss> = history.played.iter().filter_map(loss).collect();
    submits::check(history, &logs, &losses, &mut verdict);
    streams::check(history, &logs, &losses, &mut verdict);
    reads::check(history, &logs, &losses, &mut verdict);
    let delays = late::check(history, &logs, &mut verdict);
    Ok((verdict, logs, delays))
}

fn loss(played: &Played) -> Option<Loss> {
    let shard = played.shard()?;
    let (from, to) = (played.began.saturating_sub(TAIL), played.healed + UNNOTICED);
    played.may_lose.then_some(Loss { shard, from, to })
}

/// Whether a failover may have lost what was told at `at` about a room of `shard`.
fn may_be_lost(losses: &[Loss], shard: usize, at: Micros) -> bool {
    losses.iter().any(|loss| loss.shard == shard && (loss.from..=loss.to).contains(&at))
}
