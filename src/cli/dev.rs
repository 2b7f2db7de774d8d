//! `roomgate dev`: a whole cluster on this machine.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::dev::{Breaker, Cluster, Error, HELP, Keys, Notice, Observer, Options, Tail, table};

/// Start a whole cluster on this machine: PostgreSQL shards with replicas, Redis,
/// nodes, and HAProxy before them.
///
/// Everything listens on loopback and lies in one data folder; Ctrl-C takes it
/// down, and the next start finds the data again. Settings in the environment
/// (ROOMGATE__SECTION__KEY) are passed on to the nodes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  roomgate dev --nodes 2 --replicas 2 --sync --port 8080")]
pub struct DevArgs {
    /// PostgreSQL shards, if the data folder does not have more already
    #[arg(long, value_name = "N", default_value_t = 2)]
    shards: usize,
    /// Streaming replicas of each shard
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: usize,
    /// Gateway nodes
    #[arg(long, value_name = "N", default_value_t = 3)]
    nodes: usize,
    /// Acknowledge only what a replica has on its disk too
    #[arg(long)]
    sync: bool,
    /// Throw away the data of earlier starts
    #[arg(long)]
    reset: bool,
    /// Start a Prometheus that watches the nodes
    #[arg(long)]
    prometheus: bool,
    /// The data folder
    #[arg(long, value_name = "DIR", default_value = ".dev")]
    data: PathBuf,
    /// The balancer's port; 0 = any free one [default: the last one, else 8080, else any]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Print the content of dev.json instead of a table
    #[arg(long)]
    json: bool,
    /// Start again what died
    #[arg(long)]
    restart: bool,
    /// Lift every limit of a number, for load tests: docs/limits.md
    #[arg(long)]
    no_limits: bool,
}

/// Runs until Ctrl-C or SIGTERM.
pub async fn run(args: DevArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("roomgate dev: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: DevArgs) -> Result<(), Error> {
    let mut interrupts = Interrupts::open()?;
    let observer: Observer = Arc::new(|notice: Notice| eprintln!("==> {notice}"));
    let options = options(&args)?;
    let began = Instant::now();
    let cluster = tokio::select! {
        started = Cluster::start(&options, observer.clone()) => Arc::new(started?),
        () = interrupts.next() => return Ok(()),
    };
    announce(&args, &cluster, began.elapsed());
    follow(&cluster, &mut interrupts, observer.clone()).await?;
    observer(Notice::Step("taking everything down; once more to do it at once".to_owned()));
    tokio::select! {
        () = cluster.stop() => {}
        () = interrupts.next() => {}
    }
    Ok(())
}

fn options(args: &DevArgs) -> Result<Options, Error> {
    let program = std::env::current_exe()
        .map_err(|source| Error::Io { what: "the path of this program".to_owned(), source })?;
    let options = Options {
        shards: args.shards,
        replicas: args.replicas,
        nodes: args.nodes,
        sync: args.sync,
        reset: args.reset,
        prometheus: args.prometheus,
        port: args.port,
        restart: args.restart,
        ..Options::new(&args.data, program)
    };
    Ok(if args.no_limits { options.without_limits() } else { options })
}

fn announce(args: &DevArgs, cluster: &Cluster, took: Duration) {
    let report = cluster.report();
    let text = if args.json {
        serde_json::to_string_pretty(&report).expect("strings and numbers")
    } else {
        table(&report, &args.data)
    };
    // Whoever reads may have closed it; the cluster runs all the same.
    writeln!(std::io::stdout(), "{text}").ok();
    eprintln!("==> ready after {:.1} s", took.as_secs_f64());
}

/// Prints the logs and obeys the keys until it is told to end.
async fn follow(
    cluster: &Arc<Cluster>,
    interrupts: &mut Interrupts,
    observer: Observer,
) -> Result<(), Error> {
    let mut keys = Keys::open()?;
    if keys.is_some() {
        observer(Notice::Step(format!("keys: {HELP}")));
    }
    let breaker = Breaker::new(observer);
    // The databases' logs are long-winded about what the supervisors say in a
    // line; they are read where they lie.
    let told = cluster.services().into_iter().filter(|service| !service.name().starts_with("postgres"));
    let mut tails: Vec<Tail> = told.map(|service| Tail::new(service.name(), service.log())).collect();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            () = interrupts.next() => return Ok(()),
            _ = tick.tick() => print_lines(&mut tails),
            key = next_key(&mut keys) => {
                if key == 'q' {
                    return Ok(());
                }
                if !breaker.press(key, cluster) {
                    eprintln!("==> keys: {HELP}");
                }
            }
        }
    }
}

async fn next_key(keys: &mut Option<Keys>) -> char {
    match keys {
        Some(keys) => keys.next().await,
        None => std::future::pending().await,
    }
}

fn print_lines(tails: &mut [Tail]) {
    let colour = std::io::stderr().is_terminal();
    for tail in tails {
        for line in tail.lines() {
            if colour {
                eprintln!("\x1b[36m{:<13}\x1b[0m {line}", tail.name());
            } else {
                eprintln!("{:<13} {line}", tail.name());
            }
        }
    }
}

/// Ctrl-C and SIGTERM; also SIGHUP, which a closed terminal sends.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn open() -> Result<Self, Error> {
        let open = |kind| {
            signal(kind).map_err(|source| Error::Io { what: "listening for signals".to_owned(), source })
        };
        Ok(Self([
            open(SignalKind::interrupt())?,
            open(SignalKind::terminate())?,
            open(SignalKind::hangup())?,
        ]))
    }

    /// Cancel-safe.
    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
