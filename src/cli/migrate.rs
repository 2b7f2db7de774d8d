//! `roomgate migrate`: the schema of the directory and of every shard.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use futures_util::future::join_all;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{ConfigArgs, Failure};
use crate::config::Config;
use crate::db::migrate::{self, MigrateError, Progress, State, Target};
use crate::tasks::Tasks;

/// Change or show the schema of the directory and of every shard.
#[derive(Debug, Subcommand)]
pub enum MigrateVerb {
    /// Apply what is pending, to all databases side by side.
    ///
    /// Can be stopped and started again at any time: each migration is one
    /// transaction. Another migrator is waited for.
    #[command(after_help = "Example:\n  roomgate migrate up --config config/roomgate.toml")]
    Up(TargetArgs),
    /// Undo the last migrations. Destroys the data they made room for.
    #[command(after_help = "Example:\n  roomgate migrate down --steps 1 --only b --yes")]
    Down(DownArgs),
    /// Show what is applied, pending or changed.
    #[command(after_help = "Example:\n  roomgate migrate status --json")]
    Status(StatusArgs),
    /// Make the files of a new migration, for developers.
    #[command(after_help = "Example:\n  roomgate migrate new shard room_snapshot")]
    New(NewArgs),
}

#[derive(Debug, Args)]
pub struct TargetArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only this database: a shard's name, or directory (repeatable)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

#[derive(Debug, Args)]
pub struct DownArgs {
    #[command(flatten)]
    targets: TargetArgs,
    /// How many migrations to undo
    #[arg(long, value_name = "N", default_value_t = 1)]
    steps: usize,
    /// Yes, destroy the data
    #[arg(long, required = true)]
    yes: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    targets: TargetArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct NewArgs {
    kind: Kind,
    /// What it does, e.g. room_snapshot
    name: String,
    /// Where the migrations lie
    #[arg(long, value_name = "DIR", default_value = "migrations")]
    folder: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Directory,
    Shard,
}

pub(super) async fn run(verb: MigrateVerb) -> Result<(), Failure> {
    match verb {
        MigrateVerb::Up(args) => up(&args.targets()?).await,
        MigrateVerb::Down(args) => {
            let (targets, steps) = (args.targets.targets()?, args.steps);
            side_by_side(&targets, "undone", async |target, step| migrate::down(target, steps, step).await)
                .await
        }
        MigrateVerb::Status(args) => status(&args).await,
        MigrateVerb::New(args) => new(&args),
    }
}

/// For `serve --migrate` too.
pub(super) async fn up_all(config: &Config) -> Result<(), Failure> {
    up(&migrate::targets(config, &Tasks::new())).await
}

async fn up(targets: &[Target]) -> Result<(), Failure> {
    side_by_side(targets, "applied", async |target, step| migrate::up(target, step).await).await
}

impl TargetArgs {
    fn targets(&self) -> Result<Vec<Target>, Failure> {
        let mut targets = migrate::targets(&self.config.load()?.config, &Tasks::new());
        if let Some(unknown) = self.only.iter().find(|name| !targets.iter().any(|t| t.name == **name)) {
            let known: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
            let message = format!("--only {unknown}: there are {}", known.join(", "));
            return Err(Failure { status: 2, message });
        }
        targets.retain(|target| self.only.is_empty() || self.only.contains(&target.name));
        Ok(targets)
    }
}

/// All at once; one that fails doesn't stop the others.
async fn side_by_side(
    targets: &[Target],
    done: &str,
    work: impl AsyncFn(&Target, &(dyn Fn(Progress<'_>) + Sync)) -> Result<usize, MigrateError>,
) -> Result<(), Failure> {
    let bars = Bars::new();
    let one = async |target: &Target| {
        let bar = bars.add(&target.name);
        let step = |step: Progress<'_>| {
            bar.set_length(step.of as u64);
            bar.set_position(step.done as u64);
            bar.set_message(format!("{:04} {}", step.migration.version, step.migration.name));
        };
        let result = work(target, &step).await;
        match &result {
            Ok(count) => bars.say(&bar, &format!("{}: {count} {done}", target.name)),
            Err(_) => bar.finish_and_clear(),
        }
        result
    };
    let results = join_all(targets.iter().map(one)).await;
    let errors: Vec<String> = results.into_iter().filter_map(Result::err).map(|e| e.to_string()).collect();
    if errors.is_empty() { Ok(()) } else { Err(Failure::new(errors.join("\n"))) }
}

/// Progress on a terminal; plain lines elsewhere.
struct Bars {
    all: MultiProgress,
    terminal: bool,
}

impl Bars {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let all = MultiProgress::new();
        if !terminal {
            all.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { all, terminal }
    }

    fn add(&self, name: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{spinner} {prefix:<16} [{bar:24}] {pos}/{len} {msg}")
            .expect("the template is a constant");
        let bar = self.all.add(ProgressBar::new(0).with_style(style).with_prefix(name.to_owned()));
        if self.terminal {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        bar
    }

    fn say(&self, bar: &ProgressBar, line: &str) {
        bar.finish_and_clear();
        if self.terminal {
            self.all.suspend(|| eprintln!("{line}"));
        } else {
            eprintln!("{line}");
        }
    }
}

async fn status(args: &StatusArgs) -> Result<(), Failure> {
    let targets = args.targets.targets()?;
    let mut errors = Vec::new();
    let mut documents = Vec::new();
    for (target, found) in targets.iter().zip(join_all(targets.iter().map(migrate::status)).await) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                errors.push(error.to_string());
                continue;
            }
        };
        for each in found {
            let state = match each.state {
                State::Applied => "applied",
                State::Pending => "pending",
                State::Changed => "changed",
                State::Unknown => "unknown",
            };
            if args.json {
                let (database, version, name) = (&target.name, each.version, each.name);
                documents
                    .push(json!({"database": database, "version": version, "name": name, "state": state}));
            } else {
                println!("{:<16} {:04} {:<32} {state}", target.name, each.version, each.name);
            }
        }
    }
    if args.json {
        println!("{:#}", serde_json::Value::from(documents));
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::new(errors.join("\n"))) }
}

fn new(args: &NewArgs) -> Result<(), Failure> {
    let fits = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if !fits(&args.name) {
        return Err(Failure { status: 2, message: "a name is of a-z 0-9 _".to_owned() });
    }
    let folder = args.folder.join(match args.kind {
        Kind::Directory => "directory",
        Kind::Shard => "shard",
    });
    let version = last_version(&folder)? + 1;
    for (direction, purpose) in [("up", "what changes"), ("down", "the way back")] {
        let path = folder.join(format!("{version:04}_{}.{direction}.sql", args.name));
        std::fs::write(&path, format!("-- {}: {purpose}.\n", args.name)).map_err(Failure::new)?;
        println!("{}", path.display());
    }
    Ok(())
}

fn last_version(folder: &Path) -> Result<u32, Failure> {
    let entries =
        std::fs::read_dir(folder).map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.split_once('_')?.0.parse().ok()).max().unwrap_or(0))
}
