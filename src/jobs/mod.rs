//! What a node does by itself, now and then. Every node does all of it: each
//! piece of work may be done twice, or by two at once, with the effect of once.

mod erasure;
mod half_made;
mod janitor;
mod revocations;

use thiserror::Error;

use crate::bus::Away;
use crate::directory::DirectoryError;
use crate::store::rooms::RoomsError;

pub use erasure::Erasures;
pub use janitor::Janitor;
pub use revocations::RevocationWatch;

/// Work that is tried again later.
#[derive(Debug, Error)]
pub enum Failed {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Rooms(#[from] RoomsError),
    #[error(transparent)]
    Bus(#[from] Away),
}
