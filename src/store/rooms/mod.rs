//! Rooms themselves: their row, their head, who is a member.
//!
//! Guarantees: a write takes the slot's shared lock, then checks in a second
//! statement that the slot is owned here and the server is the claimed one; all
//! writes may be repeated with the effect of one, so a lost COMMIT is tried
//! again. A read carries the owner's state in its own snapshot.

mod admit;
mod alter;
mod cursor;
mod drawn;
mod everywhere;
mod forget;
mod invites;
mod legacy_reads;
mod list;
mod members;
mod named;
mod quota;
mod read;
pub mod refusals;
mod rights;
mod row;
mod search;
mod standing;
mod trail;
mod visits;
mod write;

use thiserror::Error;

use crate::db::{Class, DbError, Sql};
use crate::protocol::{Code, Refusal};
use crate::routing::{NoPrimary, Shard, Shards, Unavailable};
use crate::store::guard::WriteError;
use crate::store::misconfigured;
use crate::store::slots::Slots;

pub use admit::{Admitted, Key};
pub use alter::{Alteration, METADATA_MAX_BYTES};
pub use cursor::{InvalidCursor, ListCursor};
pub use drawn::{Drawn, DrawnShapes};
pub use everywhere::{List, RoomPage};
pub use forget::Left;
pub use invites::{ListedInvite, NewInvite};
pub use legacy_reads::ReadBefore;
pub use members::{ListedMember, MemberPage};
pub use read::{Found, Wanted};
pub use rights::Rights;
pub use row::{Membership, NewRoom, RoomFacts};
pub use standing::Actor;
pub use trail::{NotePlace, TrailNote};
pub use visits::Visits;

/// Every statement, to be prepared when a connection is made.
pub const STATEMENTS: &[&Sql] = &[
    &write::INSERT_ROOM,
    &write::INSERT_HEAD,
    &trail::OF_ROOM,
    &trail::TRIM,
    &forget::THEIRS,
    &forget::KEEP_REMOVAL,
    &forget::LEAVE,
    &forget::PASS_ON,
    &forget::CROWN,
    &read::FACTS,
    &rights::RIGHTS,
    &alter::KEPT,
    &alter::ALTER,
    &alter::ARCHIVE,
    &alter::UNARCHIVE,
    &alter::REHASH,
    &admit::INVITE,
    &admit::USE_INVITE,
    &invites::ADD,
    &invites::COUNT,
    &invites::READ,
    &invites::REVOKE,
    &invites::LIST,
    &invites::ENDED,
    &invites::SWEEP,
    &legacy_reads::FORGET,
    &legacy_reads::NOTE,
    &legacy_reads::WAITING,
    &legacy_reads::CLAIM,
    &legacy_reads::CLOSE,
    &legacy_reads::EXPIRED,
    &standing::RAISE,
    &standing::STANDING,
    &standing::INVITED_SINCE,
    &standing::WITNESS,
    &members::SET_ROLE,
    &members::LEAVE,
    &members::LIST,
    &drawn::DRAWN,
    &list::MINE,
    &named::NAMED,
    &quota::METADATA,
    &search::SEARCH,
    &visits::LOCK_SLOTS,
    &visits::BUMP,
];

/// Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    shards: Shards,
    slots: Slots,
    is_sync: bool,
}

#[derive(Debug, Error)]
pub enum RoomsError {
    #[error("there is no such room")]
    Unknown,
    #[error("no shard that is known here owns the room's slot")]
    NoOwner,
    #[error("several rooms have the slug, and only the directory knows which one it names")]
    SlugContested,
    #[error("the server's timeline is not the one that is claimed for the shard")]
    NotClaimed,
    #[error("durability is sync, but the server waits for no standby")]
    NoStandby,
    #[error(transparent)]
    NoPrimary(#[from] NoPrimary),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("the position is not in the log any more")]
    PositionLost,
    #[error("the position is beyond the end of the log")]
    AheadOfLog,
    /// By the room's own rules.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Database(#[from] DbError),
    #[error("the shard holds {what} that can't be read")]
    Corrupt { what: &'static str },
}

impl Rooms {
    /// `is_sync`: nothing is written where no standby is waited for.
    pub fn new(shards: Shards, slots: Slots, is_sync: bool) -> Self {
        Self { shards, slots, is_sync }
    }

    /// All shards that there are.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().map(|(_, shard)| shard)
    }
}

impl From<WriteError> for RoomsError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NoOwner => Self::NoOwner,
            WriteError::NotClaimed => Self::NotClaimed,
            WriteError::NoStandby => Self::NoStandby,
            WriteError::NoPrimary(error) => Self::NoPrimary(error),
            WriteError::Database(error) => Self::Database(error),
        }
    }
}

/// What the caller is told; details are logged here, once.
impl From<RoomsError> for Refusal {
    fn from(error: RoomsError) -> Self {
        match error {
            RoomsError::Unknown => Self::new(Code::RoomUnknown, "there is no such room"),
            RoomsError::PositionLost => {
                Self::new(Code::PositionLost, "this position is not in the log any more; read anew")
            }
            RoomsError::AheadOfLog => {
                Self::new(Code::AheadOfLog, "this position is beyond the end of the log")
            }
            RoomsError::Unavailable(error) => error.into(),
            RoomsError::Refused(refusal) => refusal,
            RoomsError::NoOwner
            | RoomsError::SlugContested
            | RoomsError::NotClaimed
            | RoomsError::NoStandby
            | RoomsError::NoPrimary(_) => {
                tracing::warn!(%error, "a room can't be reached");
                Self::new(Code::ShardUnavailable, "the room's shard can't be written now; try again")
                    .retry_after_ms(1_000)
            }
            RoomsError::Database(error) if error.class() == Class::Misconfigured => {
                misconfigured("the room's shard", &error)
            }
            RoomsError::Database(error) if error.class() != Class::BadInput => {
                tracing::warn!(%error, "a room can't be reached");
                Self::new(Code::ShardUnavailable, "the room's shard failed; try again").retry_after_ms(1_000)
            }
            RoomsError::Database(_) | RoomsError::Corrupt { .. } => {
                tracing::error!(%error, "a room's statement failed");
                Self::new(Code::Internal, "something is wrong here; the operators know")
            }
        }
    }
}
