//! What a node does by itself, now and then. Every node does all of it: each
//! piece of work may be done twice, or by two at once, with the effect of once.
//! What reads much rests for as long as it worked.

mod archive;
mod daily;
mod erasure;
mod half_made;
mod janitor;
mod retention;
mod revocations;
mod rooms;
mod snapshots;

use std::time::Duration;

use thiserror::Error;

use crate::bus::Away;
use crate::directory::DirectoryError;
use crate::store::guard::WriteError;
use crate::store::history::ReadError;
use crate::store::rooms::RoomsError;
use crate::tasks::Stop;

pub use daily::DailyCounts;
pub use erasure::Erasures;
pub use janitor::Janitor;
pub use retention::Retention;
pub use revocations::RevocationWatch;
pub use snapshots::Snapshots;

/// Work that is tried again later.
#[derive(Debug, Error)]
pub enum Failed {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Rooms(#[from] RoomsError),
    #[error(transparent)]
    Bus(#[from] Away),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the archive can't be written: {0}")]
    Archive(#[from] std::io::Error),
}

/// Rests for as long as some work took. False: told to stop.
async fn rest(took: Duration, stop: &mut Stop) -> bool {
    tokio::time::timeout(took, stop.wait()).await.is_err()
}

/// From half of `interval` to one and a half, so that nodes that were started
/// together don't do the same work at the same time. False: told to stop.
async fn pause(interval: Duration, stop: &mut Stop) -> bool {
    let pause = interval.mul_f64(rand::random_range(0.5..1.5));
    tokio::time::timeout(pause, stop.wait()).await.is_err()
}
