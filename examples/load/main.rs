//! Loads a running `roomgate dev` cluster and measures what it costs.
//!
//! Lift the limits for it, since they are there to stop such a client:
//! `roomgate dev --no-limits`

mod client;
mod cluster;
mod idle;
mod listeners;
mod people;
mod process;
mod submits;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use cluster::Cluster;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Load a running `roomgate dev` cluster and measure what it costs.
#[derive(Debug, Parser)]
#[command(
    after_help = "Example:\n  load --dev .dev/dev.json idle --connections 5000\n\nA process may have 20 000 \
                        descriptors here, so connections go to nodes directly. Start the cluster with\n\
                        roomgate dev --no-limits"
)]
struct Args {
    /// The cluster's dev.json
    #[arg(long, value_name = "FILE", default_value = ".dev/dev.json")]
    dev: PathBuf,
    /// Load this node only [default: all, in turn]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Connections that say hello and nothing else: memory of each, connections/s
    Idle(idle::Args),
    /// One room with many listeners: node CPU of each delivered event
    Listeners(listeners::Args),
    /// Rooms of people of whom some draw: what all parts of a cluster spend on them
    People(people::Args),
    /// Many rooms that are drawn in: submits/s, latency, CPU of each submit
    Submits(submits::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let cluster = Cluster::open(&args.dev, args.node.as_deref())?;
    let figures = match &args.load {
        Load::Idle(load) => idle::run(&cluster, load).await?,
        Load::Listeners(load) => listeners::run(&cluster, load).await?,
        Load::People(load) => people::run(&cluster, load).await?,
        Load::Submits(load) => submits::run(&cluster, load).await?,
    };
    if args.json {
        println!("{figures:#}");
    } else if let Some(figures) = figures.as_object() {
        for (name, value) in figures {
            println!("{name:>36}  {value}");
        }
    }
    Ok(())
}
