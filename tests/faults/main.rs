//! The fault runner: real clusters, real clients, real faults, and a checker
//! that compares all that was seen with what the databases hold at the end.
//!
//! `cargo test --test faults -- run` plays every fault once; `--length long` is
//! for nights. A run is replayed with `--seed`, or from the plan that it wrote.
//! README.md beside this file has the rules.

mod bugs;
mod burst;
mod check;
mod client;
mod cluster;
mod crowd;
mod draw;
mod failover;
mod fault;
mod felt;
mod fold;
mod history;
mod hostile;
mod hunt;
mod load;
mod moves;
mod plan;
mod reader;
mod report;
mod run;
mod storm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::plan::{Length, Plan};

const NO_BUGS: &str = "there are no bugs in this build: cargo test --features planted --test faults";

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Load, faults, quiet, checker.
    Run {
        #[arg(long, value_enum, default_value = "short")]
        length: Length,
        /// Of a run to be replayed; any one if it is left out.
        #[arg(long)]
        seed: Option<u64>,
        /// A plan from a file instead.
        #[arg(long)]
        plan: Option<PathBuf>,
        /// Only faults whose names contain this.
        #[arg(long)]
        only: Option<String>,
        /// Where plan and findings are written.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Many reads of replicas that are late in every way there is: is any of them
    /// older than was asked?
    Hunt {
        #[arg(long, default_value_t = 100_000)]
        reads: usize,
        #[arg(long)]
        seed: Option<u64>,
        /// With the check of freshness removed, to see that it is noticed. Needs
        /// `--features planted`.
        #[arg(long)]
        planted: bool,
    },
    /// The primary is killed with many submits in flight and its furthest replica
    /// promoted, again and again: what is lost, and how long does it take?
    Failover {
        #[arg(long, default_value_t = 1)]
        rounds: usize,
        /// Acks wait for a replica.
        #[arg(long)]
        sync: bool,
        #[arg(long)]
        seed: Option<u64>,
    },
    /// A shard joins and its share of all slots moves there, then it is emptied,
    /// under load: does anybody see more than a pause?
    Moves {
        #[arg(long)]
        seed: Option<u64>,
        /// What is drawn: gzipped lines like {"room": slug, "shape": {…}}.
        #[arg(long)]
        shapes: Option<PathBuf>,
    },
    /// Many clients lose their node and come back at once.
    Storm {
        #[arg(long, default_value_t = 5_000)]
        clients: usize,
        #[arg(long, default_value_t = 50)]
        rooms: usize,
    },
    /// Many sessions that do next to nothing on one node: what scrapes cost beside
    /// them, and what each costs in memory and CPU.
    Crowd {
        #[arg(long, default_value_t = 10_000)]
        sessions: usize,
        /// That they are in, in turn; 0 = none.
        #[arg(long, default_value_t = 100)]
        rooms: usize,
        /// Where the figures are written, as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Every planted bug in real nodes: is each caught? Needs `--features planted`.
    Bugs {
        #[arg(long)]
        seed: Option<u64>,
        /// Only those whose names contain this.
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    match runtime.block_on(serve(cli)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(cli: Cli) -> Result<bool, Failure> {
    match cli.what {
        What::Run { length, seed, plan, only, out } => {
            let mut plan = match plan {
                Some(file) => serde_json::from_slice(&std::fs::read(file)?)?,
                None => Plan::new(length, seed.unwrap_or_else(rand::random)),
            };
            if let Some(only) = only {
                plan.steps.retain(|step| step.fault.to_string().contains(&only));
            }
            println!("seed {}; to replay: cargo test --test faults -- run --seed {}", plan.seed, plan.seed);
            let outcome = run::run(&plan).await?;
            println!("{}", outcome.text());
            if let Some(out) = out {
                std::fs::write(out, serde_json::to_vec_pretty(&outcome.json())?)?;
            }
            Ok(outcome.is_good())
        }
        What::Hunt { planted: true, .. } if cfg!(not(feature = "planted")) => Err(NO_BUGS.into()),
        What::Hunt { reads, seed, planted } => {
            hunt::run(reads, seed.unwrap_or_else(rand::random), planted).await
        }
        What::Failover { rounds, sync, seed } => {
            failover::run(rounds, sync, seed.unwrap_or_else(rand::random)).await
        }
        What::Moves { seed, shapes } => moves::run(seed.unwrap_or_else(rand::random), shapes).await,
        What::Storm { clients, rooms } => {
            let storm = storm::run(clients, rooms).await?;
            println!("{}", storm.text());
            Ok(storm.is_good())
        }
        What::Crowd { sessions, rooms, out } => {
            let crowd = crowd::run(sessions, rooms).await?;
            println!("{}", crowd.text());
            if let Some(out) = out {
                std::fs::write(out, serde_json::to_vec_pretty(&crowd.json())?)?;
            }
            Ok(true)
        }
        What::Bugs { .. } if cfg!(not(feature = "planted")) => Err(NO_BUGS.into()),
        What::Bugs { seed, only } => bugs::run_all(seed.unwrap_or_else(rand::random), only.as_deref()).await,
    }
}
