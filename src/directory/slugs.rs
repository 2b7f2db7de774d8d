//! Slugs: names of rooms for people, unique over all shards.
//!
//! A room is made in three steps: `creating` here, the row on its shard, then
//! `active` here. Whoever stops in between can go on by asking again.

use std::sync::Arc;

use super::{Directory, DirectoryError};
use crate::db::{Row, Sql, ToSql};
use crate::ids::{RoomId, Slug, UserId};

pub(super) static RESERVE: Sql = Sql {
    name: "slug_reserve",
    text: "INSERT INTO directory.slug (slug, room_id, owner, state) VALUES ($1, $2, $3, 'creating')
           ON CONFLICT (slug) DO UPDATE SET state = slug.state
                 WHERE slug.owner = $3 AND slug.state = 'creating'
           RETURNING room_id",
};

pub(super) static ACTIVATE: Sql = Sql {
    name: "slug_activate",
    text: "UPDATE directory.slug SET state = 'active' WHERE slug = $1 AND room_id = $2",
};

pub(super) static RESOLVE: Sql = Sql {
    name: "slug_resolve",
    text: "SELECT room_id FROM directory.slug WHERE slug = $1 AND state = 'active'",
};

impl Directory {
    /// Reserves `slug` for a new room of `owner`, who may have begun before:
    /// then the room's id is the one of that time. `SlugTaken` otherwise.
    pub async fn reserve_slug(
        &self,
        slug: &Slug,
        owner: &UserId,
        proposed: RoomId,
    ) -> Result<RoomId, DirectoryError> {
        let params: [&(dyn ToSql + Sync); 3] = [&slug.as_str(), &proposed.as_i64(), &owner.as_str()];
        let row = self.query_opt(&RESERVE, &params).await?.ok_or(DirectoryError::SlugTaken)?;
        room_id(row.get(0))
    }

    /// The room is on its shard: from now on the slug finds it.
    pub async fn activate_slug(&self, slug: &Slug, room: RoomId) -> Result<(), DirectoryError> {
        self.query(&ACTIVATE, &[&slug.as_str(), &room.as_i64()]).await?;
        self.slugs.insert(slug.clone(), room).await;
        Ok(())
    }

    /// Many who ask for one slug at once cost one query.
    pub async fn room_by_slug(&self, slug: &Slug) -> Result<Option<RoomId>, Arc<DirectoryError>> {
        let look_up = async {
            match self.query_opt(&RESOLVE, &[&slug.as_str()]).await.and_then(found) {
                Ok(Some(room)) => Ok(room),
                Ok(None) => Err(Missing::Unknown),
                Err(error) => Err(Missing::Failed(Arc::new(error))),
            }
        };
        match self.slugs.try_get_with_by_ref(slug, look_up).await {
            Ok(room) => Ok(Some(room)),
            Err(missing) => match &*missing {
                Missing::Unknown => Ok(None),
                Missing::Failed(error) => Err(error.clone()),
            },
        }
    }
}

/// Why the cache stays without an entry.
enum Missing {
    Unknown,
    Failed(Arc<DirectoryError>),
}

fn found(row: Option<Row>) -> Result<Option<RoomId>, DirectoryError> {
    row.map(|row| room_id(row.get(0))).transpose()
}

fn room_id(id: i64) -> Result<RoomId, DirectoryError> {
    RoomId::from_i64(id).map_err(|_| DirectoryError::Corrupt { what: "a room id" })
}
