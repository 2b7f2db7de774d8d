//! `roomgate shards cleanup`.

use std::time::Duration;

use clap::Args;

use super::open::{LOOKING, open, survey};
use crate::cli::{ConfigArgs, Failure};
use crate::moves::State;
use crate::placement::ShardIndex;
use crate::tasks::Tasks;

#[derive(Debug, Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only slots that went so long ago: replicas and readers that are late may
    /// still be at the old place
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    older_than: u64,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: CleanupArgs) -> Result<(), Failure> {
    let config = args.config.load()?.config;
    let tasks = Tasks::new();
    let mover = open(&config, LOOKING, &tasks).await?;
    let survey = survey(&mover, Duration::from_secs(args.older_than)).await?;
    let mut failed = Vec::new();
    let (mut slots, mut rooms, mut young) = (0, 0, 0);
    for (index, (weighted, found)) in survey.shards.iter().enumerate() {
        for found in found.iter().filter(|found| matches!(found.state, State::Moved(_))) {
            if !found.is_old {
                young += 1;
                continue;
            }
            slots += 1;
            if args.dry_run {
                rooms += usize::try_from(found.rooms).unwrap_or(0);
                continue;
            }
            match mover.clean_up(ShardIndex(index as u16), found.slot).await {
                Ok(deleted) => rooms += deleted,
                Err(error) => failed.push(format!("slot {} on {}: {error}", found.slot.0, weighted.shard)),
            }
        }
    }
    let done = if args.dry_run { "would be deleted" } else { "deleted" };
    println!("{slots} slots with {rooms} rooms {done}; {young} went less than {} s ago", args.older_than);
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(failed.join("\n"))) }
}
