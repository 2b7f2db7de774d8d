//! `roomgate serve`: one node.

use clap::Args;

use super::{ConfigArgs, Failure, logging, migrate};
use crate::node;

/// Run a gateway node until SIGTERM or Ctrl-C, then drain it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  roomgate serve --config config/roomgate.toml --migrate")]
pub struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Bring the schemas of the directory and of all shards up first
    #[arg(long)]
    migrate: bool,
}

pub async fn run(args: ServeArgs) -> Result<(), Failure> {
    let config = args.config.load()?.config;
    logging::start(&config.log)?;
    if args.migrate {
        migrate::up_all(&config).await?;
    }
    node::serve(&config).await.map_err(Failure::new)
}
