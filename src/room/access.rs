//! Who may enter a room, and as what.
//!
//! A room without a password is open to every signed-in user as its
//! `default_role`. A right password or invite makes a member, so coming back needs
//! none. Whoever was removed stays out until given a role or a new invite. A "yes"
//! may rest on a replica's answer that is `max_stale` old; a "no" is said only by
//! the primary, because it may be about a room or membership that was made a moment
//! ago.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::auth::{Claims, InviteCode, Match, Passwords, Payer, may_be_password};
use crate::config::Secret;
use crate::digests::PasswordHash;
use crate::directory::Directory;
use crate::ids::{RoomId, Slug, UserId};
use crate::limits::Limits;
use crate::log::Authority;
use crate::protocol::{Access as Openness, Code, Refusal, Role, RoomRef};
use crate::routing::{Freshness, ServedBy};
use crate::store::rooms::refusals::{
    archived, invite_needed, owners_only, password_needed, removed, wrong_password,
};
use crate::store::rooms::{Found, Key, Membership, RoomFacts, Rooms, RoomsError, Visits, Wanted};

/// How long an entry may take, passwords included.
const PATIENCE: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub struct Access {
    rooms: Rooms,
    directory: Directory,
    passwords: Passwords,
    limits: Limits,
    visits: Visits,
    max_stale: Duration,
}

/// What an [`Access`] is built on.
pub struct Parts {
    pub rooms: Rooms,
    pub directory: Directory,
    pub passwords: Passwords,
    pub limits: Limits,
    pub visits: Visits,
    pub max_stale: Duration,
}

/// The person may be in the room.
#[derive(Debug, Clone)]
pub struct Admission {
    pub room: RoomId,
    pub slug: Slug,
    pub role: Role,
    pub facts: RoomFacts,
}

/// What a person shows at the door.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'a> {
    pub password: Option<&'a str>,
    pub invite: Option<&'a str>,
    /// The address of the client, to which wrong passwords count.
    pub from: Option<IpAddr>,
}

/// What the rows alone say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Enter(Role),
    Removed,
    Archived,
    AskPassword(Option<PasswordHash>),
    AskInvite,
}

impl Access {
    pub fn new(parts: Parts) -> Self {
        let Parts { rooms, directory, passwords, limits, visits, max_stale } = parts;
        Self { rooms, directory, passwords, limits, visits, max_stale }
    }

    /// The way in for a session: counts as a visit. Refused with `room_unknown`,
    /// `forbidden`, `room_archived`, `password_required`, `bad_password`, or
    /// what keeps the gateway from knowing.
    pub async fn enter(&self, user: &UserId, room: &RoomRef, shown: Shown<'_>) -> Result<Admission, Refusal> {
        // Boxed: rare, and large.
        let admission = Box::pin(self.admit(user, room, shown)).await?;
        self.visits.add(admission.room);
        Ok(admission)
    }

    /// The same for a single request: no visit, nothing shown.
    pub async fn check(&self, user: &UserId, room: &RoomRef) -> Result<Admission, Refusal> {
        self.admit(user, room, Shown::default()).await
    }

    /// The room, if the bearer of `claims` may read it: whoever may enter, and
    /// servers everywhere.
    pub async fn readable(&self, claims: &Claims, room: &RoomRef) -> Result<RoomId, Refusal> {
        match claims.authority {
            Authority::Server => self.resolve(room).await,
            Authority::Member => Ok(self.check(&claims.user, room).await?.room),
        }
    }

    /// The room, if the bearer of `claims` may decide on it and its people: its
    /// owners, and servers. A first look: whoever writes judges again.
    pub async fn managed(&self, claims: &Claims, room: &RoomRef) -> Result<RoomId, Refusal> {
        if claims.authority == Authority::Server {
            return self.resolve(room).await;
        }
        let (user, deadline) = (&claims.user, Instant::now() + PATIENCE);
        for freshness in [Freshness::MaxStale(self.max_stale), Freshness::Primary] {
            let found = self.find(room, user, freshness, deadline).await?;
            if found.facts.is_owned_by(&claims.user, found.membership) {
                return Ok(found.facts.room);
            }
        }
        Err(owners_only())
    }

    /// The room, if `user` may know of it and so may leave it. A stranger to a room by
    /// invite is refused as at the door.
    pub async fn leaving(&self, user: &UserId, room: &RoomRef) -> Result<RoomId, Refusal> {
        match self.judged(room, user, None, Instant::now() + PATIENCE).await? {
            (_, Verdict::AskInvite) => Err(invite_needed()),
            (found, _) => Ok(found.facts.room),
        }
    }

    /// Like [`Access::enter`], and a member row even where none is needed.
    pub async fn become_member(
        &self,
        user: &UserId,
        room: &RoomRef,
        shown: Shown<'_>,
    ) -> Result<Admission, Refusal> {
        let admission = self.admit(user, room, shown).await?;
        self.make_member(user, admission.facts, Key::Nothing, Instant::now() + PATIENCE).await
    }

    /// What may be known of a room before entering it: all of it, but of a room
    /// by invite only to its members, and not to who was removed. Servers know all.
    pub async fn look(
        &self,
        claims: &Claims,
        room: &RoomRef,
        freshness: Option<Freshness>,
    ) -> Result<Found, Refusal> {
        let deadline = Instant::now() + PATIENCE;
        let (found, verdict) = self.judged(room, &claims.user, freshness, deadline).await?;
        match verdict {
            _ if claims.authority == Authority::Server => Ok(found),
            Verdict::Removed => Err(removed()),
            Verdict::AskInvite => Err(invite_needed()),
            Verdict::Enter(_) | Verdict::Archived | Verdict::AskPassword(_) => Ok(found),
        }
    }

    /// The id behind a name. A server can name a room with a slug of digits by its id
    /// alone: its requests are not looked up before they are carried out.
    pub async fn resolve(&self, room: &RoomRef) -> Result<RoomId, Refusal> {
        match room {
            RoomRef::Id(id) => Ok(*id),
            RoomRef::Slug(slug) => match slug.as_id() {
                Some(id) => Ok(id),
                None => self.by_slug(slug).await,
            },
        }
    }

    async fn by_slug(&self, slug: &Slug) -> Result<RoomId, Refusal> {
        let id = self.directory.room_by_slug(slug, &self.rooms).await.map_err(|error| error.refusal())?;
        id.ok_or_else(|| RoomsError::Unknown.into())
    }

    /// The room that is meant. If digits are no room's id, an old room may have them
    /// as its slug. The id comes first at every door: else that old room would be
    /// found in the place of another one.
    async fn find(
        &self,
        room: &RoomRef,
        user: &UserId,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<Found, Refusal> {
        let wanted = |room| Wanted { room, user: Some(user), freshness, deadline };
        match (self.rooms.find(wanted(self.resolve(room).await?)).await, room) {
            (Err(RoomsError::Unknown), RoomRef::Slug(slug)) if slug.as_id().is_some() => {
                Ok(self.rooms.find(wanted(self.by_slug(slug).await?)).await?)
            }
            (found, _) => Ok(found?),
        }
    }

    async fn admit(&self, user: &UserId, room: &RoomRef, shown: Shown<'_>) -> Result<Admission, Refusal> {
        let deadline = Instant::now() + PATIENCE;
        let (found, verdict) = self.judged(room, user, None, deadline).await?;
        let id = found.facts.room;
        match (verdict, shown.invite) {
            (Verdict::Archived, _) => Err(archived()),
            (Verdict::Enter(role), Some(invite)) if role < Role::Owner => {
                match self.redeem(user, found.facts, invite, deadline).await {
                    Ok(admission) => Ok(admission),
                    // Then they come in as they may without.
                    Err(_) => self.enter_as_they_are(id, user, deadline).await,
                }
            }
            (Verdict::Enter(role), _) => Ok(Admission::new(found.facts, role)),
            (Verdict::AskPassword(_), invite) => {
                if let Some(invite) = invite {
                    let redeemed = self.redeem(user, found.facts.clone(), invite, deadline).await;
                    if redeemed.is_ok() || shown.password.is_none() {
                        return redeemed;
                    }
                }
                self.admit_by_password(user, found.facts, shown, deadline).await
            }
            (Verdict::Removed | Verdict::AskInvite, Some(invite)) => {
                self.redeem(user, found.facts, invite, deadline).await
            }
            (Verdict::Removed, None) => Err(removed()),
            (Verdict::AskInvite, None) => Err(invite_needed()),
        }
    }

    async fn redeem(
        &self,
        user: &UserId,
        facts: RoomFacts,
        invite: &str,
        deadline: Instant,
    ) -> Result<Admission, Refusal> {
        self.limits.room_key(user, facts.room).await?;
        let digest = InviteCode::shown(invite).digest();
        self.make_member(user, facts, Key::Invite(&digest), deadline).await
    }

    /// By the primary.
    async fn enter_as_they_are(
        &self,
        room: RoomId,
        user: &UserId,
        deadline: Instant,
    ) -> Result<Admission, Refusal> {
        let (found, verdict) =
            self.judged(&RoomRef::Id(room), user, Some(Freshness::Primary), deadline).await?;
        match verdict {
            Verdict::Enter(role) => Ok(Admission::new(found.facts, role)),
            Verdict::Archived => Err(archived()),
            Verdict::Removed => Err(removed()),
            Verdict::AskPassword(_) => Err(password_needed()),
            Verdict::AskInvite => Err(invite_needed()),
        }
    }

    /// The room and what it says to `user`; if that is no, by the primary.
    async fn judged(
        &self,
        room: &RoomRef,
        user: &UserId,
        freshness: Option<Freshness>,
        deadline: Instant,
    ) -> Result<(Found, Verdict), Refusal> {
        let mut freshness = freshness.unwrap_or(Freshness::MaxStale(self.max_stale));
        loop {
            let found = self.find(room, user, freshness, deadline).await?;
            let verdict = judge(&found.facts, found.membership, user);
            let sure = matches!(verdict, Verdict::Enter(_)) || found.served_by == ServedBy::Primary;
            if sure || freshness == Freshness::Primary {
                return Ok((found, verdict));
            }
            freshness = Freshness::Primary;
        }
    }

    async fn admit_by_password(
        &self,
        user: &UserId,
        mut facts: RoomFacts,
        Shown { password, from, .. }: Shown<'_>,
        deadline: Instant,
    ) -> Result<Admission, Refusal> {
        let room = facts.room;
        let shown = Secret::new(password.ok_or_else(password_needed)?);
        self.limits.room_key(user, room).await?;
        self.limits.room_guess(room, from).await?;
        if !may_be_password(&shown) {
            return Err(wrong_password());
        }
        let mut is_given_back = false;
        loop {
            let hash = facts.password.clone();
            let found = self.passwords.verify(shown.clone(), hash.clone(), Payer::User(user)).await?;
            let hash = hash.filter(|_| found != Match::Wrong).ok_or_else(wrong_password)?;
            if !is_given_back {
                self.limits.guessed(room, from).await;
                is_given_back = true;
            }
            match self.make_member(user, facts, Key::Password(&hash), deadline).await {
                // Replaced meanwhile, perhaps by another hash of the same password.
                Err(refusal) if refusal.code == Code::BadPassword => {
                    let primary = Some(Freshness::Primary);
                    facts = self.judged(&RoomRef::Id(room), user, primary, deadline).await?.0.facts;
                    if facts.password.as_ref() == Some(&hash) {
                        return Err(refusal);
                    }
                }
                admitted => {
                    if admitted.is_ok() && found == Match::Outdated {
                        self.rehash(room, &hash, shown, Payer::User(user), deadline).await;
                    }
                    return admitted;
                }
            }
        }
    }

    /// A right password replaces a hash that is outdated; if that fails now, the next
    /// time.
    async fn rehash(
        &self,
        room: RoomId,
        old: &PasswordHash,
        shown: Secret,
        payer: Payer<'_>,
        deadline: Instant,
    ) {
        let Ok(new) = self.passwords.hash(shown, payer).await else { return };
        if let Err(error) = self.rooms.replace_hash(room, old, &new, deadline).await {
            tracing::debug!(%room, %error, "an outdated hash of a room stays for now");
        }
    }

    async fn make_member(
        &self,
        user: &UserId,
        facts: RoomFacts,
        key: Key<'_>,
        deadline: Instant,
    ) -> Result<Admission, Refusal> {
        let admitted = self.rooms.admit(facts.room, user, key, deadline).await?;
        Ok(Admission::new(RoomFacts { access_rev: admitted.access_rev, ..facts }, admitted.role))
    }
}

impl Admission {
    fn new(facts: RoomFacts, role: Role) -> Self {
        Self { room: facts.room, slug: facts.slug.clone(), role, facts }
    }
}

fn judge(facts: &RoomFacts, membership: Option<Membership>, user: &UserId) -> Verdict {
    if membership == Some(Membership::Removed) && facts.owner != *user {
        return Verdict::Removed;
    }
    match (facts.role_of(user, membership), facts.access) {
        // Whether there was such a room is nobody's business without an invite.
        (None, Openness::Invite) => Verdict::AskInvite,
        _ if facts.archived_at.is_some() => Verdict::Archived,
        (Some(role), _) => Verdict::Enter(role),
        (None, Openness::Password) => Verdict::AskPassword(facts.password.clone()),
        (None, Openness::Public) => Verdict::AskInvite,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;

    fn room(access: Openness) -> RoomFacts {
        RoomFacts::example(1, access)
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn alice_at(facts: &RoomFacts, membership: Option<Membership>) -> Verdict {
        judge(facts, membership, &user("alice"))
    }

    #[test]
    fn a_public_room_is_open_as_its_default_role() {
        assert_eq!(alice_at(&room(Openness::Public), None), Verdict::Enter(Role::Viewer));
        let editor = Some(Membership::Member(Role::Editor));
        assert_eq!(alice_at(&room(Openness::Public), editor), Verdict::Enter(Role::Editor));
    }

    #[test]
    fn members_need_neither_password_nor_invite() {
        let member = Some(Membership::Member(Role::Viewer));
        for access in [Openness::Password, Openness::Invite] {
            assert_eq!(alice_at(&room(access), member), Verdict::Enter(Role::Viewer));
            assert_eq!(judge(&room(access), None, &user("owner")), Verdict::Enter(Role::Owner));
        }
        assert!(matches!(alice_at(&room(Openness::Password), None), Verdict::AskPassword(Some(_))));
        assert_eq!(alice_at(&room(Openness::Invite), None), Verdict::AskInvite);
    }

    #[test]
    fn who_was_removed_stays_out_of_every_room() {
        for access in [Openness::Public, Openness::Password, Openness::Invite] {
            assert_eq!(alice_at(&room(access), Some(Membership::Removed)), Verdict::Removed);
        }
    }

    #[test]
    fn an_archived_room_is_closed_to_everybody() {
        let archived = RoomFacts { archived_at: Some(UnixMillis(1)), ..room(Openness::Public) };
        assert_eq!(alice_at(&archived, None), Verdict::Archived);
        assert_eq!(judge(&archived, None, &user("owner")), Verdict::Archived);
        let invited = RoomFacts { archived_at: Some(UnixMillis(1)), ..room(Openness::Invite) };
        assert_eq!(alice_at(&invited, None), Verdict::AskInvite, "nor shown to whom it wasn't open");
        assert_eq!(alice_at(&invited, Some(Membership::Member(Role::Viewer))), Verdict::Archived);
    }
}
