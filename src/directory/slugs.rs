//! Slugs: names of rooms for people, unique over all shards.
//!
//! A room is made in three steps: `creating` here, with all that was asked for;
//! the rows on its shard; then `active` here. Whoever stops in between can go on
//! by asking again; what nobody asks for again, the janitor finishes. It can
//! always go forward, since the plan is here, and every step may be repeated: so
//! nothing is undone that a slow node might still do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::ops::compute::{CompResult, Op};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{timeout, timeout_at};

use super::{Directory, DirectoryError};
use crate::db::{DbError, Row, Sql, ToSql};
use crate::digests::PasswordHash;
use crate::ids::{RoomId, Slug, UserId};
use crate::protocol::{Access, DefaultRole, Role, Schema};
use crate::store::rooms::{NewRoom, Rooms};

// The owner who asks again for the same slug continues; a repeat of the very
// same reservation, whose first answer was lost, does so even if it is done.
pub(super) static RESERVE: Sql = Sql {
    name: "slug_reserve",
    text: "INSERT INTO directory.slug (slug, room_id, owner, state, plan)
           SELECT $1::text, $2::bigint, $3::text, 'creating', $4::text::jsonb
            WHERE $5::bigint = 0
               OR EXISTS (SELECT FROM directory.slug WHERE slug = $1)
               OR (SELECT count(*) FROM (SELECT FROM directory.slug WHERE owner = $3 LIMIT $5) AS theirs) < $5
           ON CONFLICT (slug) DO UPDATE
                   SET plan = CASE slug.state WHEN 'creating' THEN excluded.plan END
                 WHERE slug.owner = $3 AND (slug.state = 'creating' OR slug.room_id = $2)
           RETURNING room_id",
};

pub(super) static IS_TAKEN: Sql =
    Sql { name: "slug_is_taken", text: "SELECT FROM directory.slug WHERE slug = $1" };

pub(super) static ACTIVATE: Sql = Sql {
    name: "slug_activate",
    text: "UPDATE directory.slug SET state = 'active', plan = NULL WHERE slug = $1 AND room_id = $2
           RETURNING room_id",
};

pub(super) static RESOLVE: Sql = Sql {
    name: "slug_resolve",
    text: "SELECT room_id FROM directory.slug WHERE slug = $1 AND state = 'active'",
};

// At random, so that those of a shard that is away don't hide the others.
pub(super) static UNFINISHED: Sql = Sql {
    name: "slug_unfinished",
    text: "SELECT slug, room_id, owner, plan::text FROM directory.slug
            WHERE state = 'creating' AND created_at <= now() - $1 * interval '1 millisecond'
            ORDER BY random() LIMIT $2",
};

pub(super) static UNFINISHED_OF: Sql = Sql {
    name: "slug_unfinished_of",
    text: "SELECT slug, room_id, owner, plan::text FROM directory.slug
            WHERE owner = $1 AND state = 'creating'",
};

pub(super) static FORGET: Sql = Sql {
    name: "slug_forget",
    text: "DELETE FROM directory.slug
            WHERE slug = $1 AND room_id = $2 AND state = 'creating' AND plan IS NULL",
};

/// How long the directory may take to answer for a slug before the shards are asked.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(1);
/// How long the shards may take to answer instead.
const SHARDS_PATIENCE: Duration = Duration::from_secs(3);

/// A room whose making was begun some time ago.
#[derive(Debug, Clone)]
pub struct Unfinished {
    pub slug: Slug,
    pub room: RoomId,
    /// None: begun by a program that kept no plans.
    pub plan: Option<NewRoom>,
}

/// As `slug.plan` holds it.
#[derive(Serialize, Deserialize)]
struct Plan {
    name: String,
    access: Access,
    /// Older nodes stored `owner` as well.
    default_role: Role,
    schema: Schema,
    password_hash: Option<String>,
    metadata: Box<RawValue>,
}

impl Directory {
    /// Reserves the slug of `new` for its owner, who may have begun before: then
    /// the room's id is the one of that time. `SlugTaken` otherwise, and
    /// `TooManyRooms` if the owner has made `most` rooms; 0: no limit.
    pub async fn reserve_room(&self, new: &NewRoom, most: u32) -> Result<RoomId, DirectoryError> {
        let plan = Plan::of(new)?;
        let (slug, limit) = (new.slug.as_str(), i64::from(most));
        let params: [&(dyn ToSql + Sync); 5] =
            [&slug, &new.room.as_i64(), &new.owner.as_str(), &plan, &limit];
        if let Some(row) = self.query_opt(&RESERVE, &params).await? {
            return room_id(row.get(0));
        }
        let is_taken = most == 0 || self.query_opt(&IS_TAKEN, &[&slug]).await?.is_some();
        Err(if is_taken { DirectoryError::SlugTaken } else { DirectoryError::TooManyRooms { most } })
    }

    /// The room is on its shard: from now on the slug finds it.
    pub async fn activate_slug(&self, slug: &Slug, room: RoomId) -> Result<(), DirectoryError> {
        let row = self.query_opt(&ACTIVATE, &[&slug.as_str(), &room.as_i64()]).await?;
        row.ok_or(DirectoryError::SlugTaken)?;
        self.slugs.insert(slug.clone(), KnownSlug::now(room)).await;
        Ok(())
    }

    /// Some of the rooms whose making began at least `age` ago and has not ended.
    pub async fn unfinished_rooms(
        &self,
        age: Duration,
        most: i64,
    ) -> Result<Vec<Unfinished>, DirectoryError> {
        let rows = self.query(&UNFINISHED, &[&super::millis(age), &most]).await?;
        rows.iter().map(Unfinished::from_row).collect()
    }

    /// The rooms that `owner` is making.
    pub async fn unfinished_rooms_of(&self, owner: &UserId) -> Result<Vec<Unfinished>, DirectoryError> {
        let rows = self.query(&UNFINISHED_OF, &[&owner.as_str()]).await?;
        rows.iter().map(Unfinished::from_row).collect()
    }

    /// Undoes a reservation without a plan.
    pub async fn forget_slug(&self, slug: &Slug, room: RoomId) -> Result<(), DirectoryError> {
        self.query(&FORGET, &[&slug.as_str(), &room.as_i64()]).await.map(drop)
    }

    /// Concurrent requests for one slug cost one query, and repeated requests one
    /// query in [`super::SLUGS_TRUSTED`]. While the directory is away, the last known
    /// room of the slug counts, and for an unknown slug the `rooms` of the shards.
    pub async fn room_by_slug(
        &self,
        slug: &Slug,
        rooms: &Rooms,
    ) -> Result<Option<RoomId>, Arc<DirectoryError>> {
        match self.slugs.get(slug).await {
            Some(known) if known.is_trusted(self.slugs_trusted) => Ok(Some(known.room)),
            Some(known) if self.database.primary_now().is_none() => Ok(Some(known.room)),
            Some(_) => Ok(self.look_again(slug).await),
            None => self.look_up(slug, rooms).await,
        }
    }

    async fn look_up(&self, slug: &Slug, rooms: &Rooms) -> Result<Option<RoomId>, Arc<DirectoryError>> {
        let look_up = async {
            let found = match self.resolve(slug).await {
                Ok(room) => room.map(KnownSlug::now),
                Err(error) if error.is_away() => {
                    self.ask_shards(slug, rooms, error).await?.map(KnownSlug::of_shards)
                }
                Err(error) => return Err(Missing::Failed(Arc::new(error))),
            };
            found.ok_or(Missing::Unknown)
        };
        match self.slugs.try_get_with_by_ref(slug, look_up).await {
            Ok(known) => Ok(Some(known.room)),
            Err(missing) => match &*missing {
                Missing::Unknown => Ok(None),
                Missing::Failed(error) => Err(error.clone()),
            },
        }
    }

    /// `error`: of the directory. If the shards can't decide either, it stands.
    async fn ask_shards(
        &self,
        slug: &Slug,
        rooms: &Rooms,
        error: DirectoryError,
    ) -> Result<Option<RoomId>, Missing> {
        let deadline = Instant::now() + SHARDS_PATIENCE;
        let named = async {
            let _place = self.asking_shards.acquire().await.ok()?;
            Some(rooms.named(slug, deadline).await)
        };
        match timeout_at(deadline.into(), named).await {
            Ok(Some(Ok(room))) => return Ok(room),
            Ok(Some(Err(problem))) => tracing::debug!(%slug, error = %problem, "shards can't resolve a slug"),
            Ok(None) | Err(_) => tracing::debug!(%slug, "shards take too long to resolve a slug"),
        }
        Err(Missing::Failed(Arc::new(error)))
    }

    /// One asks, the others wait for it, and nobody asks again at once if it fails.
    async fn look_again(&self, slug: &Slug) -> Option<RoomId> {
        let looked = self.slugs.entry_by_ref(slug).and_compute_with(async |entry| {
            let Some(known) = entry.map(moka::Entry::into_value) else { return Op::Nop };
            if known.is_trusted(self.slugs_trusted) {
                return Op::Nop;
            }
            match self.resolve(slug).await {
                Ok(Some(room)) => Op::Put(KnownSlug::now(room)),
                Ok(None) => Op::Remove,
                Err(error) => {
                    tracing::debug!(%slug, %error, "a slug is taken to be what it was");
                    Op::Put(KnownSlug::now(known.room))
                }
            }
        });
        match looked.await {
            CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) | CompResult::Unchanged(entry) => {
                Some(entry.into_value().room)
            }
            CompResult::Removed(_) | CompResult::StillNone(_) => None,
        }
    }

    /// Does not wait for a primary, because the shards have the slug too.
    async fn resolve(&self, slug: &Slug) -> Result<Option<RoomId>, DirectoryError> {
        self.database.primary_now().ok_or(DirectoryError::NoPrimary)?;
        let slug = slug.as_str();
        let params: [&(dyn ToSql + Sync); 1] = [&slug];
        let asked = timeout(RESOLVE_PATIENCE, self.query_opt(&RESOLVE, &params)).await;
        let row = asked.unwrap_or_else(|_| Err(DbError::no_answer(RESOLVE.name).into()))?;
        row.map(|row| room_id(row.get(0))).transpose()
    }
}

/// Which room a slug meant, and when that was so.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownSlug {
    room: RoomId,
    /// None: the directory was never asked, only the shards.
    asked_at: Option<Instant>,
}

impl KnownSlug {
    fn now(room: RoomId) -> Self {
        Self { room, asked_at: Some(Instant::now()) }
    }

    fn of_shards(room: RoomId) -> Self {
        Self { room, asked_at: None }
    }

    fn is_trusted(&self, for_so_long: Duration) -> bool {
        self.asked_at.is_some_and(|asked_at| asked_at.elapsed() < for_so_long)
    }
}

impl Plan {
    fn of(new: &NewRoom) -> Result<String, DirectoryError> {
        let metadata = RawValue::from_string(new.metadata.to_string());
        let plan = Self {
            name: new.name.clone(),
            access: new.access,
            default_role: new.default_role.into(),
            schema: new.schema,
            password_hash: new.password.as_ref().map(|hash| hash.as_str().to_owned()),
            metadata: metadata.map_err(|_| corrupt())?,
        };
        serde_json::to_string(&plan).map_err(|_| corrupt())
    }

    fn room(self, slug: Slug, room: RoomId, owner: UserId) -> NewRoom {
        NewRoom {
            room,
            slug,
            name: self.name,
            owner,
            access: self.access,
            default_role: match self.default_role {
                Role::Viewer => DefaultRole::Viewer,
                Role::Editor | Role::Owner => DefaultRole::Editor,
            },
            schema: self.schema,
            password: self.password_hash.map(PasswordHash::new),
            metadata: self.metadata.get().into(),
        }
    }
}

impl Unfinished {
    fn from_row(row: &Row) -> Result<Self, DirectoryError> {
        let slug = Slug::new(row.get(0)).map_err(|_| DirectoryError::Corrupt { what: "a slug" })?;
        let room = room_id(row.get(1))?;
        let owner = UserId::new(row.get(2)).map_err(|_| DirectoryError::Corrupt { what: "a user id" })?;
        let plan: Option<Plan> = match row.get::<_, Option<&str>>(3) {
            Some(text) => Some(serde_json::from_str(text).map_err(|_| corrupt())?),
            None => None,
        };
        let plan = plan.map(|plan| plan.room(slug.clone(), room, owner));
        Ok(Self { slug, room, plan })
    }
}

/// Why the cache stays without an entry.
enum Missing {
    Unknown,
    Failed(Arc<DirectoryError>),
}

fn room_id(id: i64) -> Result<RoomId, DirectoryError> {
    RoomId::from_i64(id).map_err(|_| DirectoryError::Corrupt { what: "a room id" })
}

fn corrupt() -> DirectoryError {
    DirectoryError::Corrupt { what: "the plan of a room" }
}
