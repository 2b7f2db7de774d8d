//! One transaction: lock and read in a round trip, decide, write and commit in
//! a second one.
//!
//! Guarantees: what is decided on was read under the rooms' locks, by
//! statements that began after they were held; a [`CommitProof`] exists only if
//! every statement and then COMMIT succeeded, without a notice that the wait
//! for a standby was cut short.

use std::collections::{HashMap, HashSet};

use futures_util::future;

use super::statements::{self, Head, Member, Ownership, Pairs, RoomFacts, RoomRow, Wanted};
use crate::db::{Class, Connection, DbError, Lease, Row, Sql};
use crate::ids::{RoomId, ShapeId, UserId};
use crate::log::{Before, Event, OpKey, RoomState, ShapeState, Submit};
use crate::planted::{self, Bug};
use crate::protocol::Role;
use crate::store::slots::SLOT_LOCKS;

/// What to do about rooms that someone else has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Locked {
    /// Wait for them, up to the connection's `lock_timeout`.
    Wait,
    /// Go on without them.
    Skip,
}

/// Why an attempt ended without a commit, or without word of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error(transparent)]
    Db(#[from] DbError),
    /// A primary on another timeline than the one that was claimed.
    #[error("the server's timeline is not the one that is claimed for the shard")]
    NotClaimed,
    #[error("durability is sync, but the server waits for no standby")]
    NoStandby,
    #[error("no answer in time")]
    TimedOut,
    #[error("another server became the primary")]
    Superseded,
    #[error("the shard has no primary")]
    NoPrimary,
}

impl Cause {
    /// The server said, or its connection shows, that it is no primary any more.
    pub fn blames_server(&self) -> bool {
        matches!(self, Self::Db(error) if error.class().breaks_connection())
    }

    /// After a rollback the connection can be used again.
    pub fn leaves_connection_usable(&self) -> bool {
        match self {
            Self::Db(error) => !error.class().breaks_connection(),
            Self::NotClaimed | Self::NoStandby => true,
            Self::TimedOut | Self::Superseded | Self::NoPrimary => false,
        }
    }

    /// What a transaction is run again for. Who gets no connection or knows no
    /// primary has run none.
    pub fn classes() -> impl Iterator<Item = &'static str> {
        let errors = Class::ALL.into_iter().filter(|class| *class != Class::PoolTimeout);
        let others = [Self::NotClaimed, Self::NoStandby, Self::TimedOut, Self::Superseded];
        errors.map(Class::as_str).chain(others.map(|cause| cause.class()))
    }

    /// For the `class` label of metrics.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Db(error) => error.class().as_str(),
            Self::NotClaimed => "not_claimed",
            Self::NoStandby => "no_standby",
            Self::TimedOut => "timed_out",
            Self::Superseded => "superseded",
            Self::NoPrimary => "no_primary",
        }
    }
}

/// A batch whose rooms are locked, with everything the rules look at. The
/// transaction is open.
pub(super) struct Read {
    pub before: Before,
    /// Their slot isn't here.
    pub elsewhere: HashSet<RoomId>,
    /// Somebody else holds their locks.
    pub locked: HashSet<RoomId>,
    /// For what was found in the log: others can see it, so it was committed.
    pub proof: CommitProof,
}

/// What a decision changes, without the answers.
pub(super) struct Writes {
    pub events: Vec<Event>,
    pub shapes: Vec<(RoomId, ShapeId, ShapeState)>,
    pub rooms: Vec<(RoomId, RoomState)>,
}

/// Proves that what it comes with is in the log: every statement and then
/// COMMIT returned success.
pub(super) struct CommitProof(());

pub(super) enum Written {
    Committed(Vec<Event>, CommitProof),
    /// The server said no before COMMIT: there is no effect.
    Failed(DbError),
    /// COMMIT was sent, and the answer doesn't say what became of it.
    Unresolved(DbError),
}

/// Round trip 1. Dropped half-way, it has no effect but a broken connection.
pub(super) async fn read(
    connection: &Connection,
    submits: &[Submit],
    witnesses: &[OpKey],
    locked: Locked,
    is_sync: bool,
) -> Result<Read, Cause> {
    // What is not prepared yet would leave the pipeline's order.
    connection.prepare(statements::STATEMENTS).await?;
    let wanted = Wanted::of(submits, witnesses);
    let (lock_slots, lock_heads) = match locked {
        Locked::Wait => (&statements::LOCK_SLOTS, &statements::LOCK_HEADS),
        Locked::Skip => (&statements::TRY_LOCK_SLOTS, &statements::SKIP_LOCKED_HEADS),
    };
    let unprotected = match planted::has(Bug::ReadBeforeLock) {
        true => Some(unless_empty(connection, &statements::SHAPES, &wanted.shapes).await),
        false => None,
    };
    // Sent in this order, each with a snapshot of its own: what is read after
    // the locks is what the locks protect.
    // Boxed, since seven statements in one future are large.
    let (locks, facts) = Box::pin(future::join(
        future::join3(
            connection.begin(),
            connection.query(lock_slots, &[&SLOT_LOCKS, &wanted.slots]),
            connection.query(lock_heads, &[&wanted.rooms]),
        ),
        future::join4(
            connection.query(&statements::ROOMS, &[&wanted.rooms, &wanted.room_slots]),
            unless_empty(connection, &statements::SHAPES, &wanted.shapes),
            connection.query(&statements::OPS, &[&wanted.op_rooms, &wanted.op_users, &wanted.ops]),
            unless_empty(connection, &statements::MEMBERS, &wanted.members),
        ),
    ))
    .await;
    // The first error in the order of sending is the cause of those after it.
    let (begun, slots, heads) = locks;
    let (rooms, shapes, ops, members) = facts;
    begun?;
    let (slots, heads) = (slots?, statements::heads(&heads?));
    let rooms = statements::rooms(&rooms?);
    let mut before = Before::default();
    statements::shapes(&unprotected.unwrap_or(shapes)?, &wanted, &mut before);
    let ops = ops?;
    if !planted::has(Bug::OpsForgotten) {
        statements::ops(&ops, submits, witnesses, &mut before);
    }
    let members = statements::members(&members?);
    check_server(&rooms, is_sync)?;
    let locked_slots: HashSet<i32> = slots.iter().map(|row| row.get(0)).collect();
    let (elsewhere, locked) = sort_out(&wanted, rooms, &locked_slots, heads, &members, &mut before);
    Ok(Read { before, elsewhere, locked, proof: CommitProof(()) })
}

async fn unless_empty<Id>(
    connection: &Connection,
    sql: &'static Sql,
    pairs: &Pairs<'_, Id>,
) -> Result<Vec<Row>, DbError> {
    if pairs.ids.is_empty() {
        return Ok(Vec::new());
    }
    connection.query(sql, &[&pairs.rooms, &pairs.ids]).await
}

/// The same in every row.
fn check_server(rooms: &[RoomRow], is_sync: bool) -> Result<(), Cause> {
    let Some(room) = rooms.first() else { return Ok(()) };
    if !room.claimed {
        return Err(Cause::NotClaimed);
    }
    if is_sync && !room.replicated {
        return Err(Cause::NoStandby);
    }
    Ok(())
}

/// Fills rooms and roles; what is in neither set, and not in `before`, is a
/// room that doesn't exist.
fn sort_out(
    wanted: &Wanted<'_>,
    rows: Vec<RoomRow>,
    locked_slots: &HashSet<i32>,
    mut heads: HashMap<RoomId, Head>,
    members: &HashMap<usize, Member>,
    before: &mut Before,
) -> (HashSet<RoomId>, HashSet<RoomId>) {
    let (mut elsewhere, mut locked) = (HashSet::new(), HashSet::new());
    let mut facts_of: HashMap<RoomId, RoomFacts> = HashMap::with_capacity(rows.len());
    for row in rows {
        if !locked_slots.contains(&statements::slot_of_room(row.room)) {
            locked.insert(row.room);
            continue;
        }
        let Ownership::Active(epoch) = row.ownership else {
            elsewhere.insert(row.room);
            continue;
        };
        let Some(facts) = row.facts else { continue };
        let Some(head) = heads.remove(&row.room) else {
            // Skipped, or created after the heads were read.
            locked.insert(row.room);
            continue;
        };
        let state = RoomState {
            head: head.position,
            cleared: head.cleared,
            live_shapes: head.live_shapes,
            live_bytes: head.live_bytes,
            schema: facts.schema,
            archived: facts.archived,
            epoch,
        };
        before.rooms.insert(row.room, state);
        facts_of.insert(row.room, facts);
    }
    for (at, (room, user)) in wanted.members.asked.iter().enumerate() {
        if let Some(facts) = facts_of.get(room)
            && let Some(role) = role(facts, user, members.get(&at).copied())
        {
            before.roles.insert((*room, (*user).clone()), role);
        }
    }
    (elsewhere, locked)
}

/// What applies to a person: the owner's right, the member's row, else what the
/// room gives to everyone.
fn role(facts: &RoomFacts, user: &UserId, member: Option<Member>) -> Option<Role> {
    if facts.owner == user.as_str() {
        return Some(Role::Owner);
    }
    match member {
        Some(Member::Role(role)) => Some(role),
        Some(Member::Removed) => None,
        None => facts.public_role,
    }
}

/// Round trip 2. Owns its connection: whoever stops waiting for it lets it run
/// to its end elsewhere, so that a COMMIT that is stuck keeps its place in the
/// pool's budget.
pub(super) async fn write(connection: Lease, mut writes: Writes) -> Written {
    if planted::has(Bug::TombstonesForgotten) {
        writes.shapes.retain(|(_, _, shape)| shape.data.is_some());
    }
    let (events, shapes, heads, committed) = future::join4(
        statements::add_events(&connection, &writes.events),
        statements::put_shapes(&connection, &writes.shapes),
        statements::move_heads(&connection, &writes.rooms),
        connection.commit(),
    )
    .await;
    let counts = [(events, writes.events.len()), (shapes, writes.shapes.len()), (heads, writes.rooms.len())];
    for (count, expected) in counts {
        match count {
            Ok(count) if count == expected as u64 => {}
            Ok(count) => {
                let message = format!("{count} rows were written instead of {expected}");
                return Written::Unresolved(DbError::new(Class::Other, "append", message));
            }
            // A statement that failed has failed its transaction. Without the
            // server's word, COMMIT may have been reached.
            Err(error) if error.sqlstate().is_some() && error.class() != Class::Connection => {
                return Written::Failed(error);
            }
            Err(error) => return Written::Unresolved(error),
        }
    }
    match committed {
        Ok(()) if planted::loses_answer() => {
            Written::Unresolved(DbError::new(Class::Connection, "append", "planted"))
        }
        Ok(()) => Written::Committed(writes.events, CommitProof(())),
        Err(error) => Written::Unresolved(error),
    }
}
