//! `roomgate serve`: one node.

use clap::Args;

use super::{ConfigArgs, Failure, logging, migrate};
use crate::{node, reload};

/// Run a gateway node until SIGTERM or Ctrl-C, then drain it. SIGHUP reads the
/// configuration again: what of it is live says config/roomgate.toml.
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
    let filter = logging::start(&config.log)?;
    if args.migrate {
        migrate::up_all(&config).await?;
    }
    let again = reload::Sources {
        read: Box::new(move || {
            let config = args.config.load().map_err(|failure| failure.message)?.config;
            logging::check(&config.log).map(|()| config)
        }),
        filter_log: Box::new(move |text| filter.set(text)),
    };
    node::serve(&config, again).await.map_err(Failure::new)
}
