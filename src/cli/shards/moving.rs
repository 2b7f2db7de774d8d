//! `roomgate shards plan` and `move`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::add::strangers_of;
use super::open::{LOOKING, open, ranges, slots, survey};
use super::progress::Progress;
use crate::cli::{ConfigArgs, Failure};
use crate::ids::Slot;
use crate::moves::{Bounds, Mover, Survey};
use crate::placement::{Move, ShardIndex};
use crate::tasks::Tasks;

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON, for `move --plan`
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct MoveArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// These slots, e.g. 0-99,4711, rather than those of a plan
    #[arg(long, value_parser = slots, requires = "to", conflicts_with = "plan")]
    slots: Option<std::vec::Vec<Slot>>,
    /// The shard that they go to
    #[arg(long, value_name = "SHARD", requires = "slots")]
    to: Option<String>,
    /// A plan that `plan --json` wrote, rather than one that is made now
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Slots that move at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    parallel: usize,
    /// Bytes that are copied a second at most, over all; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    bytes_per_second: u64,
    /// Wait while a standby has more than so many bytes to replay
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    max_lag: u64,
    /// Give a slot up after so many seconds without success
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    patience: u64,
    /// Print JSON at the end
    #[arg(long)]
    json: bool,
}

pub(super) async fn show_plan(args: PlanArgs) -> Result<(), Failure> {
    let config = args.config.load()?.config;
    let tasks = Tasks::new();
    let mover = open(&config, LOOKING, &tasks).await?;
    let survey = survey(&mover, Duration::ZERO).await?;
    let pairs = by_pair(&survey, &survey.plan());
    if args.json {
        println!("{:#}", document(&pairs));
        return Ok(());
    }
    if pairs.is_empty() {
        println!("nothing should move");
    }
    for ((from, to), (slots, bytes)) in pairs {
        println!("{from} -> {to}: {} slots, about {bytes} bytes: {}", slots.len(), ranges(&slots));
    }
    Ok(())
}

pub(super) async fn run(args: MoveArgs) -> Result<(), Failure> {
    let config = args.config.load()?.config;
    let tasks = Tasks::new();
    let bounds = Bounds {
        parallel: args.parallel,
        bytes_per_second: Some(args.bytes_per_second).filter(|rate| *rate > 0),
        max_lag: args.max_lag,
        patience: Duration::from_secs(args.patience),
    };
    let mover = open(&config, bounds, &tasks).await?;
    let survey = survey(&mover, Duration::ZERO).await?;
    let two = survey.two_owners();
    if !two.is_empty() {
        return Err(Failure::new(format!("slots with two owners: {}; see the runbook", ranges(&two))));
    }
    let moves = wanted(&args, &mover, &survey)?;
    check_nodes(&mover, &survey, &moves).await?;
    // The databases are still watched for those that are under way.
    let interrupted = Tasks::new();
    let (stop, begun) = (interrupted.stop_signal(), Instant::now());
    tasks.spawn("interrupt", async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("stopping once the slots under way have arrived, or at once by another Ctrl-C; run it again to go on");
            interrupted.stop();
        }
        // Whatever a mover leaves behind, the next one finishes.
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    let progress = Progress::new(&moves);
    let count = moves.len();
    let [arrived, failed] = mover.carry_out(moves, &progress, &stop).await;
    progress.end();
    let report = progress.report(arrived, failed, count, mover.pace.copied(), begun.elapsed());
    if args.json {
        println!("{report:#}");
    } else {
        println!("{}", progress.summary(&report));
    }
    let problems = progress.problems();
    if failed > 0 {
        return Err(Failure::new(problems.join("\n")));
    }
    if arrived < count {
        return Err(Failure::new(format!("stopped: {arrived} of {count} slots have arrived")));
    }
    Ok(())
}

/// What was cut short goes first, whatever is asked for.
fn wanted(args: &MoveArgs, mover: &Mover, survey: &Survey) -> Result<Vec<Move>, Failure> {
    let mut moves = survey.unfinished();
    let placed = survey.placed();
    let of = |slot: Slot| placed.iter().find(|placed| placed.slot == slot);
    let asked: Vec<Move> = if let (Some(slots), Some(to)) = (&args.slots, &args.to) {
        let to = index(mover, to)?;
        let lost: Vec<Slot> =
            slots.iter().filter(|slot| of(**slot).is_none() && !is_in(&moves, **slot)).copied().collect();
        if !lost.is_empty() {
            return Err(Failure::new(format!(
                "nobody owns slots {}; see roomgate shards verify",
                ranges(&lost)
            )));
        }
        let step = |slot: &Slot| {
            of(*slot).map(|placed| Move { slot: *slot, from: placed.owner, to, size: placed.size })
        };
        slots.iter().filter_map(step).collect()
    } else if let Some(file) = &args.plan {
        read(file, mover, survey)?
    } else {
        survey.begun().into_iter().chain(survey.plan()).collect()
    };
    for step in asked {
        if step.from != step.to && !is_in(&moves, step.slot) {
            moves.push(step);
        }
    }
    Ok(moves)
}

fn is_in(moves: &[Move], slot: Slot) -> bool {
    moves.iter().any(|step| step.slot == slot)
}

/// A node that doesn't know a shard would not find what has moved there.
async fn check_nodes(mover: &Mover, survey: &Survey, moves: &[Move]) -> Result<(), Failure> {
    let mut destinations: Vec<ShardIndex> = moves.iter().map(|step| step.to).collect();
    destinations.sort();
    destinations.dedup();
    for destination in destinations {
        let name = survey.shards[usize::from(destination.0)].0.shard.as_str();
        let strangers = strangers_of(mover, name).await?;
        if !strangers.is_empty() {
            return Err(Failure::new(format!(
                "these nodes don't know {name}, so nothing may move there: {}. Put it into their configuration \
                 and send them SIGHUP",
                strangers.join(", ")
            )));
        }
    }
    Ok(())
}

fn index(mover: &Mover, name: &str) -> Result<ShardIndex, Failure> {
    mover.index(name).ok_or_else(|| {
        let known: Vec<String> = mover.shards.iter().map(|(_, shard)| shard.name().to_string()).collect();
        Failure { status: 2, message: format!("no shard is called {name}: there are {}", known.join(", ")) }
    })
}

/// From, to; which slots, and how many bytes.
type ByPair = BTreeMap<(String, String), (Vec<Slot>, u64)>;

fn by_pair(survey: &Survey, moves: &[Move]) -> ByPair {
    let name = |index: ShardIndex| survey.shards[usize::from(index.0)].0.shard.to_string();
    let mut pairs = ByPair::new();
    for step in moves {
        let (slots, bytes) = pairs.entry((name(step.from), name(step.to))).or_default();
        slots.push(step.slot);
        *bytes += step.size;
    }
    pairs.values_mut().for_each(|(slots, _)| slots.sort());
    pairs
}

fn document(pairs: &ByPair) -> Value {
    let moves = pairs.iter().map(|((from, to), (slots, bytes))| {
        json!({"from": from, "to": to, "slots": ranges(slots), "count": slots.len(), "bytes": bytes})
    });
    json!({"moves": moves.collect::<Vec<_>>()})
}

/// A plan made earlier: what has changed since is left out, as long as it is not
/// another shard's by now.
fn read(file: &PathBuf, mover: &Mover, survey: &Survey) -> Result<Vec<Move>, Failure> {
    let wrong = |why: &str| Failure { status: 2, message: format!("{}: {why}", file.display()) };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error.to_string()))?;
    let plan: Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    let pairs = plan["moves"].as_array().ok_or_else(|| wrong("it has no \"moves\""))?;
    let placed = survey.placed();
    let mut moves = Vec::new();
    for pair in pairs {
        let text = |key: &str| pair[key].as_str().ok_or_else(|| wrong(&format!("a move without {key:?}")));
        let (from, to) = (index(mover, text("from")?)?, index(mover, text("to")?)?);
        for slot in slots(text("slots")?).map_err(|why| wrong(&why))? {
            match placed.iter().find(|placed| placed.slot == slot) {
                Some(placed) if placed.owner == from => {
                    moves.push(Move { slot, from, to, size: placed.size })
                }
                Some(placed) if placed.owner == to => {}
                _ => {
                    return Err(wrong(&format!(
                        "slot {} is not where the plan says: make a new one",
                        slot.0
                    )));
                }
            }
        }
    }
    Ok(moves)
}
