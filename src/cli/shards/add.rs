//! `roomgate shards add`.

use std::time::{Duration, Instant};

use clap::Args;
use tokio::time::sleep;

use super::open::{LOOKING, open, survey};
use crate::cli::{ConfigArgs, Failure};
use crate::db::migrate;
use crate::tasks::Tasks;

/// How long nodes have that were told of it, and waited for its schema.
const NODES_FIND_IT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct AddArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The shard's name
    shard: String,
}

pub(super) async fn run(args: AddArgs) -> Result<(), Failure> {
    let config = args.config.load()?.config;
    let tasks = Tasks::new();
    let name = &args.shard;
    if !config.shards.iter().any(|shard| shard.name.as_str() == name) {
        let message = format!(
            "no [[shards]] is called {name}: put it into the configuration, here and of every node, and send the \
             nodes SIGHUP"
        );
        return Err(Failure { status: 2, message });
    }
    let targets = migrate::targets(&config, &tasks);
    let target = targets.iter().find(|target| target.name == *name);
    let target = target.ok_or_else(|| Failure::new(format!("{name} can't be migrated")))?;
    let applied = migrate::up(target, &|_| {}).await.map_err(Failure::new)?;
    println!("{name}: {applied} migrations applied");

    let mover = open(&config, LOOKING, &tasks).await?;
    let survey = survey(&mover, Duration::ZERO).await?;
    let found = survey.shards.iter().find(|(weighted, _)| weighted.shard.as_str() == name);
    if let Some((_, slots)) = found.filter(|(_, slots)| !slots.is_empty()) {
        return Err(Failure::new(format!("{name} is not empty: it has {} slots already", slots.len())));
    }
    println!("{name}: its primary is claimed, and it is empty");
    let until = Instant::now() + NODES_FIND_IT;
    let mut strangers = strangers_of(&mover, name).await?;
    while !strangers.is_empty() && Instant::now() < until {
        sleep(LOOK_EVERY).await;
        strangers = strangers_of(&mover, name).await?;
    }
    if !strangers.is_empty() {
        let message = format!(
            "{name} is ready, but these nodes don't know it: {}. Put it into their configuration and send them SIGHUP",
            strangers.join(", ")
        );
        return Err(Failure::new(message));
    }
    println!("{name}: all nodes know it; `roomgate shards plan` tells what would move to it");
    Ok(())
}

/// Nodes that use other shards and not this one.
pub(super) async fn strangers_of(mover: &crate::moves::Mover, name: &str) -> Result<Vec<String>, Failure> {
    let newcomer = mover.index(name).and_then(|index| mover.shards.get(index));
    let newcomer = newcomer.ok_or_else(|| Failure::new(format!("there is no shard {name}")))?;
    let mut strangers = Vec::new();
    for (_, shard) in mover.shards.iter().filter(|(_, shard)| shard.name() != newcomer.name()) {
        strangers.extend(mover.strangers(shard, newcomer).await.map_err(Failure::new)?);
    }
    strangers.sort();
    strangers.dedup();
    Ok(strangers)
}
