//! Where a client of the first protocol continues when it joins.
//!
//! Such a client reads the history with `GET /chats/{room}`, then sends
//! `join_room`, and appends each `chat` message to its shapes. It must therefore
//! get each event after its history exactly once:
//!
//! - The request stored the position of its answer on the room's shard. The join
//!   takes it from there, on whichever node, and is then an ordinary resume.
//! - Such a client reads whole shapes only. The translator starts with the state at
//!   that position, and derives later updates and clears from it.
//! - Without a history read in the last two minutes, the client gets the events
//!   after its `join_room`. So does a client that reconnects without a new read.
//! - Reads of several tabs of one sign-in can't be told apart, nor from a read of a
//!   page that closed before its join. For events that one of these reads holds and
//!   another does not, each join gets `delete_shape` before `chat`: a page that has
//!   the shape and one that has not both end with it once. Texts have no id; such a
//!   page may get one twice, and none is lost.
//! - A client that reads the history after its join gets the events in between
//!   twice: over the socket and in the answer, which lacks none of them.
//! - A second `join_room` without a new history changes nothing.
//!
//! The position is claimed on the shard's primary, so these joins wait for it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Shared;
use super::dialect::locked;
use super::legacy::{Known, Translator};
use crate::auth::Claims;
use crate::ids::RoomId;
use crate::memory::{Owner, SMALL_BYTES};
use crate::position::{Position, Seq};
use crate::protocol::{Json, Refusal};
use crate::room::SnapshotPages;
use crate::store::history::{Freshness, ReadError};
use crate::store::rooms::ReadBefore;

const PATIENCE: Duration = Duration::from_secs(10);
/// Events read to restore the state that a client has. A room has a snapshot every
/// thousand events, or as many as it has shapes.
const EVENTS_MAX: u64 = 200_000;

impl Shared {
    /// Returns the position to resume from, and prepares the translator for it.
    /// `None`: the session is in the room and has read no history since.
    pub(super) async fn prepare_legacy_join(
        &self,
        translator: &Mutex<Translator>,
        claims: &Claims,
        room: RoomId,
        is_joined: bool,
    ) -> Result<Option<Position>, Refusal> {
        let (join, reader) = (locked(translator).next_join(), claims.reader_of(room));
        let deadline = Instant::now() + PATIENCE;
        let read = self.parts.hub.stored_rooms().claim_legacy_read(room, reader, join, deadline).await?;
        if read.is_none() && is_joined {
            return Ok(None);
        }
        let ReadBefore { from, unsure_to } = match read {
            Some(read) => read,
            None => self.end_of_log(room).await?,
        };
        let pages = self.state_pages(claims, room, from).await?;
        locked(translator).expect(room, &Known { pages: &pages, unsure_to });
        Ok(Some(from))
    }

    /// By the primary: a replica may lack events that the client has seen acked.
    async fn end_of_log(&self, room: RoomId) -> Result<ReadBefore, ReadError> {
        let head = self.parts.hub.history().head(room, Freshness::Primary).await?.head;
        Ok(ReadBefore { from: head, unsure_to: head.seq })
    }

    /// The state at `at` as `snapshot` messages; none if that position was lost,
    /// which the join reports to the client.
    async fn state_pages(&self, claims: &Claims, room: RoomId, at: Position) -> Result<Vec<Json>, ReadError> {
        if at.seq == Seq::ZERO {
            return Ok(SnapshotPages::encode::<String>(room, Position::BEGINNING, []).pages);
        }
        let (hub, owner) = (&self.parts.hub, Owner::User(claims.user.clone()));
        let mut held = hub.memory().reserve(&owner, SMALL_BYTES).await.map_err(ReadError::NoMemory)?;
        match hub.history().state_at(room, at, EVENTS_MAX, Freshness::AtLeast(at), &mut held).await {
            Ok(state) => Ok(SnapshotPages::encode(room, at, state.shapes).pages),
            Err(ReadError::Lost(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}
