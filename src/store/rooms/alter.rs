//! A room is changed, put away or opened again by its owners.

use std::time::Instant;

use super::refusals::{needs_password, too_much_metadata, two_doors};
use super::standing::{Actor, Standing};
use super::write::Change;
use super::{Rooms, RoomsError, standing};
use crate::db::{Connection, Sql, ToSql};
use crate::digests::PasswordHash;
use crate::ids::RoomId;
use crate::log::merge_patch;
use crate::protocol::{Access, DefaultRole, Refusal};
use crate::store::audit::{Action, Note};

pub const METADATA_MAX_BYTES: usize = 16 * 1024;

pub(super) static KEPT: Sql = Sql {
    name: "room_kept",
    text: "SELECT slug, name, metadata::text, retention_ms FROM room WHERE id = $1",
};

pub(super) static ALTER: Sql = Sql {
    name: "room_alter",
    text: "UPDATE room SET name = $2, metadata = $3::text::jsonb, retention_ms = $4,
                  access = $5, password_hash = $6, default_role = $7
            WHERE id = $1",
};

pub(super) static ARCHIVE: Sql = Sql {
    name: "room_archive",
    text: "UPDATE room SET archived_at = now() WHERE id = $1 AND archived_at IS NULL",
};

pub(super) static UNARCHIVE: Sql = Sql {
    name: "room_unarchive",
    text: "UPDATE room SET archived_at = NULL WHERE id = $1 AND archived_at IS NOT NULL",
};

// Not if the password was changed meanwhile.
pub(super) static REHASH: Sql = Sql {
    name: "room_rehash",
    text: "UPDATE room SET password_hash = $3 WHERE id = $1 AND password_hash = $2",
};

/// What is to be another than it was. What is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Alteration {
    /// `None` within: the slug, as for a room that was made without a name.
    pub name: Option<Option<String>>,
    /// A merge patch, one JSON object; `None` within: nothing is left of it.
    pub metadata: Option<Option<String>>,
    /// `None` within: as the node's configuration says.
    pub retention_ms: Option<Option<i64>>,
    pub access: Option<Access>,
    pub password: Option<Option<PasswordHash>>,
    pub default_role: Option<DefaultRole>,
    /// An archived room is opened again, before the other changes.
    pub unarchives: bool,
}

impl Rooms {
    /// Answers the room's `access_rev` as of that. Refused to all but owners and
    /// servers.
    pub async fn alter(
        &self,
        room: RoomId,
        actor: Actor<'_>,
        alteration: &Alteration,
        deadline: Instant,
    ) -> Result<u64, RoomsError> {
        self.change(&Alter { room, actor, alteration }, deadline).await
    }

    /// Another hash of the same password, which changes nobody's access.
    pub async fn replace_hash(
        &self,
        room: RoomId,
        old: &PasswordHash,
        new: &PasswordHash,
        deadline: Instant,
    ) -> Result<(), RoomsError> {
        self.change(&Rehash { room, old, new }, deadline).await
    }

    /// Nothing is written to it any more, and nobody enters it. Answers the room's
    /// `access_rev` as of that.
    pub async fn archive(
        &self,
        room: RoomId,
        actor: Actor<'_>,
        deadline: Instant,
    ) -> Result<u64, RoomsError> {
        self.change(&Archive { room, actor }, deadline).await
    }
}

struct Rehash<'a> {
    room: RoomId,
    old: &'a PasswordHash,
    new: &'a PasswordHash,
}

impl Change for Rehash<'_> {
    type Done = ();

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<(), RoomsError> {
        // As all who change a room do, so that no two wait for each other.
        standing::lock(connection, self.room, false).await?;
        let (old, new) = (self.old.as_str(), self.new.as_str());
        connection.execute(&REHASH, &[&self.room.as_i64(), &old, &new]).await?;
        Ok(())
    }
}

struct Alter<'a> {
    room: RoomId,
    actor: Actor<'a>,
    alteration: &'a Alteration,
}

impl Change for Alter<'_> {
    type Done = u64;

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<u64, RoomsError> {
        let Self { room, actor, alteration } = *self;
        let standing = Standing::take_managed(connection, room, actor, actor.user).await?;
        if !alteration.unarchives {
            standing.check_not_archived()?;
        }
        let unarchived =
            alteration.unarchives && connection.execute(&UNARCHIVE, &[&room.as_i64()]).await? > 0;
        if unarchived {
            Note::new(actor.user, Action::Unarchived, room, None).write(connection).await?;
        }
        let (access, password) = door(&standing, alteration)?;
        let default_role = alteration.default_role.unwrap_or(standing.default_role);
        let id = room.as_i64();
        let kept = connection.query_one(&KEPT, &[&id]).await?;
        let name = match &alteration.name {
            None => kept.get(1),
            Some(Some(name)) => name.as_str(),
            Some(None) => kept.get(0),
        };
        let metadata = metadata(kept.get(2), alteration.metadata.as_ref())?;
        let retention_ms = alteration.retention_ms.unwrap_or_else(|| kept.get(3));
        let hash = password.as_ref().map(PasswordHash::as_str);
        let params: [&(dyn ToSql + Sync); 7] =
            [&id, &name, &metadata, &retention_ms, &access.as_str(), &hash, &default_role.as_str()];
        connection.execute(&ALTER, &params).await?;
        let was = (standing.access, standing.password, standing.default_role);
        let is_about_access = was != (access, password, default_role);
        if is_about_access {
            Note::new(actor.user, Action::AccessChanged, room, None).write(connection).await?;
        }
        standing::lock(connection, room, unarchived || is_about_access).await
    }
}

/// How the room is open, and with which password.
fn door(standing: &Standing, wish: &Alteration) -> Result<(Access, Option<PasswordHash>), Refusal> {
    match (wish.access, &wish.password) {
        (None | Some(Access::Password), Some(Some(hash))) => Ok((Access::Password, Some(hash.clone()))),
        (Some(_), Some(Some(_))) => Err(two_doors()),
        (Some(Access::Password), Some(None)) => Err(needs_password()),
        (Some(Access::Password), None) => match &standing.password {
            Some(hash) => Ok((Access::Password, Some(hash.clone()))),
            None => Err(needs_password()),
        },
        (Some(access), _) => Ok((access, None)),
        // Without its password it is open to all, as if it had never had one.
        (None, Some(None)) if standing.access == Access::Password => Ok((Access::Public, None)),
        (None, _) => Ok((standing.access, standing.password.clone())),
    }
}

fn metadata(old: &str, patch: Option<&Option<String>>) -> Result<String, RoomsError> {
    let new = match patch {
        None => return Ok(old.to_owned()),
        Some(None) => return Ok("{}".to_owned()),
        Some(Some(patch)) => merge_patch(old, patch).map_err(|_| RoomsError::Corrupt { what: "metadata" })?,
    };
    if new.len() > METADATA_MAX_BYTES {
        return Err(too_much_metadata().into());
    }
    Ok(new)
}

struct Archive<'a> {
    room: RoomId,
    actor: Actor<'a>,
}

impl Change for Archive<'_> {
    type Done = u64;

    fn room(&self) -> RoomId {
        self.room
    }

    async fn apply(&self, connection: &Connection) -> Result<u64, RoomsError> {
        let Self { room, actor } = *self;
        let standing = Standing::take_managed(connection, room, actor, actor.user).await?;
        if connection.execute(&ARCHIVE, &[&room.as_i64()]).await? == 0 {
            return Ok(standing.access_rev);
        }
        Note::new(actor.user, Action::Archived, room, None).write(connection).await?;
        standing::lock(connection, room, true).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UserId;

    fn open(access: Access) -> Standing {
        Standing {
            owner: UserId::new("ann").unwrap(),
            access,
            default_role: DefaultRole::Editor,
            password: (access == Access::Password).then(|| hash("old")),
            is_archived: false,
            actor: None,
            decided_rev: 0,
            target: None,
            access_rev: 1,
        }
    }

    fn hash(text: &str) -> PasswordHash {
        PasswordHash::new(text.to_owned())
    }

    #[test]
    fn a_room_has_a_password_if_and_only_if_it_is_open_by_one() {
        use Access::{Invite, Password, Public};
        for before in [Public, Password, Invite] {
            for access in [None, Some(Public), Some(Password), Some(Invite)] {
                for password in [None, Some(None), Some(Some(hash("new")))] {
                    let wish = Alteration { access, password: password.clone(), ..Alteration::default() };
                    let after = door(&open(before), &wish);
                    let contradicts = match (access, &password) {
                        (Some(Public | Invite), Some(Some(_))) => true,
                        (Some(Password), Some(None)) => true,
                        (Some(Password), None) => before != Password,
                        _ => false,
                    };
                    assert_eq!(after.is_err(), contradicts, "{before:?} {wish:?}");
                    let Ok((now, kept)) = after else { continue };
                    assert_eq!(now == Password, kept.is_some(), "{before:?} {wish:?}");
                    assert!(access.is_none_or(|access| access == now));
                    match password {
                        Some(Some(new)) => assert_eq!(kept, Some(new)),
                        None if access.is_none() => assert_eq!(now, before),
                        _ => {}
                    }
                }
            }
        }
    }
}
