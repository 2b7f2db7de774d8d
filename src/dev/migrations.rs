//! Brings the schema of the directory and of every shard up to date.

use std::path::Path;

use futures_util::future::try_join_all;

use super::Error;
use crate::config::Sources;
use crate::db::migrate;
use crate::tasks::Tasks;

/// All databases that the node configuration `file` names, side by side.
pub(super) async fn migrate(file: &Path) -> Result<(), Error> {
    let sources = Sources { file: Some(file.to_owned()), ..Sources::default() };
    let config = sources.load().map_err(|error| Error::Other(error.to_string()))?.config;
    let targets = migrate::targets(&config, &Tasks::new());
    let runs = targets.iter().map(|target| migrate::up(target, &|_| ()));
    try_join_all(runs).await.map(drop).map_err(|error| Error::Other(error.to_string()))
}
