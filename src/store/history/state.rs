//! The state at the head: all of it, or one page.

use super::read::{Asked, READ_BYTES};
use super::{History, Read, ReadError, statements};
use crate::db::ToSql;
use crate::ids::RoomId;
use crate::memory::Reservation;
use crate::position::Position;
use crate::routing::Freshness;

/// A room's shapes at its head.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub position: Position,
    /// In order of their ids' bytes.
    pub shapes: Vec<SnapshotShape>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotShape {
    pub id: String,
    pub shape_type: Option<String>,
    /// `{"version":…,"shape":{…}}`.
    pub json: String,
}

impl AsRef<str> for SnapshotShape {
    fn as_ref(&self) -> &str {
        &self.json
    }
}

/// Which shapes of a room are wanted.
#[derive(Debug, Clone, Default)]
pub struct ShapeQuery<'a> {
    /// Shapes whose ids come after it.
    pub after: &'a str,
    pub shape_type: Option<&'a str>,
    pub limit: usize,
}

impl History {
    /// All live shapes, encoded as they arrive. Before that, `held` grows to the memory
    /// that they need.
    pub async fn snapshot(
        &self,
        room: RoomId,
        freshness: Freshness,
        held: &mut Reservation,
    ) -> Result<Read<Snapshot>, ReadError> {
        let asked = Asked::new(room, freshness);
        loop {
            let most = i64::try_from(held.bytes()).unwrap_or(i64::MAX);
            let (read, mut shapes) = self
                .reader
                .read(&asked, &statements::SNAPSHOT, &[&most], |shapes: &mut Vec<SnapshotShape>, row| {
                    shapes.extend(statements::shape(row));
                })
                .await?;
            let needed = read.facts.state_bytes;
            if needed > held.bytes() {
                // Somewhat more, since the room may grow meanwhile.
                held.grow_to(needed + needed / 8).await.map_err(ReadError::NoMemory)?;
                continue;
            }
            shapes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
            return Ok(read.map(|_, position, _| Snapshot { position, shapes }));
        }
    }

    /// A page of the live shapes in the order of their ids' bytes: at most `limit`, and
    /// at most about 4 MiB; and whether there are more.
    pub async fn shapes(
        &self,
        room: RoomId,
        query: &ShapeQuery<'_>,
        freshness: Freshness,
    ) -> Result<Read<(Snapshot, bool)>, ReadError> {
        let asked = Asked::new(room, freshness);
        // One more than asked for tells whether there is another page.
        let limit = i64::try_from(query.limit + 1).unwrap_or(i64::MAX);
        let bytes = READ_BYTES.cast_signed();
        let params: [&(dyn ToSql + Sync); 4] = [&query.after, &query.shape_type, &limit, &bytes];
        let (read, mut shapes) = self
            .reader
            .read(&asked, &statements::SHAPES, &params, |shapes: &mut Vec<SnapshotShape>, row| {
                shapes.extend(statements::shape(row));
            })
            .await?;
        shapes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let is_cut = shapes.iter().map(|shape| shape.json.len() as u64).sum::<u64>() >= READ_BYTES;
        let more = shapes.len() > query.limit || is_cut;
        shapes.truncate(query.limit);
        Ok(read.map(|_, position, _| (Snapshot { position, shapes }, more)))
    }
}
