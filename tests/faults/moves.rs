//! Slots that move under load: to a shard that joins, and back when it is to go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::Failure;
use crate::cluster::{Room, World, slot_of};
use crate::fault::Fault;
use crate::history::{Answer, Micros, Played, What};
use crate::plan::{Plan, Step};
use crate::report::{ms, quantile};
use crate::run::{self, Outcome};

/// True if everything held and nobody saw more than a pause.
pub async fn run(seed: u64, shapes: Option<PathBuf>) -> Result<bool, Failure> {
    println!("seed {seed}");
    let outcome = run::run(&Plan::moves(seed, shapes)).await?;
    println!("{}", outcome.text());
    let noticed = noticed(&outcome);
    println!("{:<44} {:>9} {:>8} {:>8} {:>8}", "", "acks/s", "p50 ms", "p99 ms", "max ms");
    outcome.history.played.iter().for_each(|played| print_row(&outcome, played));
    println!("noticed by clients: {}", if noticed.is_empty() { "nothing" } else { "see below" });
    noticed.iter().take(5).for_each(|what| println!("  {what}"));
    Ok(outcome.is_good() && noticed.is_empty())
}

/// Errors, rejections, resyncs, and connections that the other side ended.
fn noticed(outcome: &Outcome) -> Vec<String> {
    let mut noticed = Vec::new();
    for diary in &outcome.history.diaries {
        noticed.extend(diary.errors.iter().map(|error| format!("{}: {error}", diary.user)));
        let rejected = diary.attempts.iter().filter_map(|attempt| match &attempt.answer {
            Some((_, Answer::Reject { code })) => Some(format!("{}: rejected, {code}", diary.user)),
            _ => None,
        });
        noticed.extend(rejected);
        let seen = diary.rooms.values().flatten();
        noticed.extend(seen.filter_map(|seen| match &seen.what {
            What::Resync { reason } => Some(format!("{}: resync, {reason}", diary.user)),
            _ => None,
        }));
        // All are, at the end of the run.
        let until = outcome.history.played.last().map_or(0, |played| played.until);
        let is_lost = |at: Option<Micros>| at.is_some_and(|at| at < until);
        let lost = diary.connections.iter().filter(|connection| !connection.left && is_lost(connection.lost));
        noticed.extend(lost.map(|lost| format!("{}: closed, {:?}", diary.user, lost.close_code)));
    }
    noticed
}

/// What was answered in its time, and how long that took.
fn print_row(outcome: &Outcome, played: &Played) {
    let attempts = outcome.history.diaries.iter().flat_map(|diary| &diary.attempts);
    let mut took: Vec<Micros> = attempts
        .filter_map(|attempt| match attempt.answer {
            Some((at, Answer::Ack { .. })) if (played.began..played.healed).contains(&at) => {
                Some(at - attempt.sent)
            }
            _ => None,
        })
        .collect();
    took.sort_unstable();
    println!(
        "{:<44} {:>9.1} {:>8} {:>8} {:>8}",
        played.name,
        took.len() as f64 * 1e6 / (played.healed - played.began) as f64,
        ms(quantile(&took, 50)),
        ms(quantile(&took, 99)),
        ms(quantile(&took, 100))
    );
}

impl Plan {
    /// Two shards, then three, then two again, with all of their slots.
    pub fn moves(seed: u64, shapes: Option<PathBuf>) -> Self {
        let steps = vec![
            Step::new(Fault::Nothing, 20_000, 0),
            Step::new(Fault::MoveSlots { all: true }, 0, 3_000),
            Step::new(Fault::Nothing, 20_000, 0),
        ];
        Self { rooms: 41, clients: 40, pause_ms: 500, stay_ms: 60_000, shapes, ..Self::of(seed, steps) }
    }
}

/// A third shard joins and takes slots: those of the plan, or only those of the
/// rooms. Then it gives them back.
pub async fn there_and_back(world: &World, all: bool) -> Result<(), Failure> {
    let file = world.cluster.report().jwt.key_file.with_file_name("nodes/node-1.toml");
    let name = world.cluster.add_shard().await?;
    told(&file, &["add", &name]).await?;
    if all {
        moved(&file, &[]).await?;
        let emptied = file.with_file_name("emptied.toml");
        let there = format!("name = \"{name}\"\n");
        let text = std::fs::read_to_string(&file)?;
        let without = text.replace(&there, &format!("{there}weight = 0\n"));
        if without == text {
            return Err(format!("{} has no {there:?}", file.display()).into());
        }
        std::fs::write(&emptied, without)?;
        moved(&emptied, &[]).await?;
    } else {
        moved(&file, &["--slots", &slots(world, |_| true), "--to", &name]).await?;
        for (index, shard) in world.cluster.shards().iter().enumerate() {
            let slots = slots(world, |room| room.shard == index);
            if !slots.is_empty() {
                moved(&file, &["--slots", &slots, "--to", shard.name()]).await?;
            }
        }
    }
    let slots = slots(world, |_| true);
    let verified = told(&file, &["verify", "--slots", &slots, "--json"]).await?;
    let verified: Value = serde_json::from_str(&verified)?;
    match verified["problems"].as_array() {
        Some(problems) if problems.is_empty() => Ok(()),
        _ => Err(format!("shards verify: {}", verified["problems"]).into()),
    }
}

/// Of these rooms, as `roomgate shards` takes them.
fn slots(world: &World, which: impl Fn(&Room) -> bool) -> String {
    let rooms = world.rooms.iter().filter(|room| which(room));
    let slots: BTreeSet<String> = rooms.map(|room| slot_of(room.id).to_string()).collect();
    slots.into_iter().collect::<Vec<_>>().join(",")
}

async fn moved(file: &Path, more: &[&str]) -> Result<(), Failure> {
    let report = told(file, &[&["move", "--json"], more].concat()).await?;
    let report: Value = serde_json::from_str(&report)?;
    eprintln!("           {report}");
    Ok(())
}

/// What a verb of `roomgate shards` printed; it must have ended well.
async fn told(file: &Path, verb: &[&str]) -> Result<String, Failure> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomgate"));
    let command = command.arg("shards").args(verb).arg("--config").arg(file).stdin(Stdio::null());
    let output = command.kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("roomgate shards {verb:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
