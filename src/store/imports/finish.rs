//! The one transaction in which staged lines become events.

use std::time::Instant;

use tokio::time::sleep;
use xxhash_rust::xxh3::xxh3_64;

use super::statements::{self as sql};
use super::{Import, ImportError, Imports, PATIENCE, Staging};
use crate::clock::UnixMillis;
use crate::db::{Class, DbError, Row};
use crate::log::{Authority, Digest, RoomBounds};
use crate::position::{Epoch, Seq};
use crate::protocol::{Code, DefaultRole, ObjectWriter, Refusal, Role};
use crate::store::guard::{Guard, Wanted, WriteError};
use crate::store::rooms::refusals::{archived, editors_only};

/// Between two tries, when someone else has the room.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Either its answer, or why there is none yet.
enum Attempt {
    Done(String),
    /// Nothing was written; it may work now.
    Again(ImportError),
}

impl Imports {
    /// Makes the staged lines events, and answers
    /// `{imported,rejected[{line,code}],epoch,from,to}`; for an op that was used
    /// before, what was answered then. `digest` is of the whole body, `rejected`
    /// are the lines that were not staged.
    pub async fn finish(
        &self,
        staging: &Staging,
        digest: Digest,
        rejected: &[(u32, Code)],
        bounds: RoomBounds,
    ) -> Result<String, ImportError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let wanted = Wanted { room: staging.import.room, is_sync: self.is_sync, deadline };
            let guard = Guard::begin(&self.shards, &self.slots, wanted).await?;
            match attempt(guard, staging, digest, rejected, bounds).await? {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::Again(error) if Instant::now() + PAUSE >= deadline => return Err(error),
                Attempt::Again(_) => sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await,
            }
        }
    }
}

async fn attempt(
    guard: Guard,
    staging: &Staging,
    digest: Digest,
    rejected: &[(u32, Code)],
    bounds: RoomBounds,
) -> Result<Attempt, ImportError> {
    match write(&guard, staging, digest, rejected, bounds).await {
        Ok(answer) => match guard.commit().await {
            Ok(()) => Ok(Attempt::Done(answer)),
            Err(error) => Err(ImportError::Unknown(error)),
        },
        Err(error) => {
            guard.rollback().await;
            match &error {
                ImportError::Write(WriteError::Database(cause)) if passes(cause) => Ok(Attempt::Again(error)),
                _ => Err(error),
            }
        }
    }
}

fn passes(error: &DbError) -> bool {
    matches!(
        error.class(),
        Class::LockTimeout | Class::Deadlock | Class::Serialization | Class::Connection | Class::Stale
    )
}

async fn write(
    guard: &Guard,
    staging: &Staging,
    digest: Digest,
    rejected: &[(u32, Code)],
    bounds: RoomBounds,
) -> Result<String, ImportError> {
    let import = &staging.import;
    let room = import.room.as_i64();
    let head = guard.query_opt(&sql::LOCK_HEAD, &[&room]).await?.ok_or_else(room_unknown)?;
    let (head_seq, head_epoch, cleared): (i64, i64, i64) = (head.get(0), head.get(1), head.get(2));
    let (user, op) = (import.user.as_str(), import.op.as_str());
    let rights = guard.query_opt(&sql::RIGHTS, &[&room, &user]).await?;
    may_write(import, rights.as_ref())?;
    if let Some(known) = guard.query_opt(&sql::KNOWN, &[&room, &user, &op]).await? {
        let answer = known_answer(&known, digest)?;
        // A write, so that COMMIT waits for the standby that the first one may
        // not have reached.
        guard.execute(&sql::MOVE_HEAD, &[&room, &0_i64, &head_epoch, &0_i64]).await?;
        guard.execute(&sql::UNSTAGE, &[&staging.id]).await?;
        return Ok(answer);
    }
    let mut rejected: Vec<(u32, &str)> = rejected.iter().map(|(line, code)| (*line, code.as_str())).collect();
    let collisions = guard.query(&sql::COLLISIONS, &[&room, &staging.id, &cleared]).await?;
    let lines: Vec<i32> = collisions.iter().map(|row| row.get(0)).collect();
    rejected.extend(collisions.iter().map(collision));
    rejected.sort_unstable();
    if !lines.is_empty() {
        guard.execute(&sql::REFUSE, &[&staging.id, &lines]).await?;
    }
    let bytes = measured(guard, staging, (head.get(3), head.get(4)), bounds).await?;
    let epoch = guard.epoch().as_i64();
    let prefix = format!("i{:016x}-", xxh3_64(op.as_bytes()));
    let at = UnixMillis::now().0;
    let events = guard
        .execute(&sql::ADD_EVENTS, &[&room, &staging.id, &head_seq, &epoch, &op, &prefix, &user, &at])
        .await?;
    let shapes = guard.execute(&sql::ADD_SHAPES, &[&room, &staging.id, &head_seq]).await?;
    if events != shapes || events + lines.len() as u64 != staging.staged {
        return Err(ImportError::StageLost);
    }
    let count = i64::try_from(events).unwrap_or(i64::MAX);
    let epoch = if events == 0 { head_epoch } else { epoch };
    guard.execute(&sql::MOVE_HEAD, &[&room, &count, &epoch, &bytes]).await?;
    let from = Seq::from_i64(head_seq).next();
    let answer = answer(events, &rejected, Epoch::from_i64(epoch), from);
    // An import without an effect leaves its op unused, as a rejected submit does.
    if events > 0 {
        guard.execute(&sql::KEEP, &[&room, &user, &op, &&digest.0[..], &answer]).await?;
    }
    guard.execute(&sql::UNSTAGE, &[&staging.id]).await?;
    Ok(answer)
}

/// The bytes of the staged shapes, if the room has space for them.
async fn measured(
    guard: &Guard,
    staging: &Staging,
    live: (i64, i64),
    bounds: RoomBounds,
) -> Result<i64, ImportError> {
    let staged = guard.query_one(&sql::MEASURE, &[&staging.id]).await?;
    let (shapes, bytes): (i64, i64) = (staged.get(0), staged.get(1));
    let counts = |(shapes, bytes): (i64, i64)| (shapes.unsigned_abs(), bytes.unsigned_abs());
    let after = (live.0 + shapes, live.1 + bytes);
    bounds.admit(counts(live), counts(after)).map_err(ImportError::Refused)?;
    Ok(bytes)
}

/// As for every submit: decided on what is read under the room's lock.
fn may_write(import: &Import, rights: Option<&Row>) -> Result<(), ImportError> {
    let rights = rights.ok_or_else(room_unknown)?;
    if rights.get::<_, bool>(3) {
        return Err(ImportError::Refused(archived()));
    }
    let role = match rights.get::<_, Option<&str>>(4) {
        _ if rights.get::<_, bool>(0) => Some(Role::Owner),
        Some(member) => Role::parse(member),
        None if rights.get::<_, &str>(1) == "public" => DefaultRole::parse(rights.get(2)).map(Role::from),
        None => None,
    };
    match role {
        _ if import.authority == Authority::Server => Ok(()),
        Some(Role::Editor | Role::Owner) => Ok(()),
        Some(Role::Viewer) | None => Err(ImportError::Refused(editors_only())),
    }
}

fn known_answer(known: &Row, digest: Digest) -> Result<String, ImportError> {
    match (known.get::<_, Option<&[u8]>>(0), known.get::<_, Option<String>>(1)) {
        (Some(bytes), Some(answer)) if bytes == digest.0 => Ok(answer),
        _ => {
            let message = "this op was used for something else";
            Err(ImportError::Refused(Refusal::new(Code::OpReused, message)))
        }
    }
}

fn collision(row: &Row) -> (u32, &'static str) {
    let is_deleted = row.get::<_, Option<bool>>(1).unwrap_or_default();
    let code = if is_deleted { Code::ShapeDeleted } else { Code::ShapeExists };
    (u32::try_from(row.get::<_, i32>(0)).unwrap_or_default(), code.as_str())
}

/// Of an import without events, `to` is `from - 1`.
fn answer(imported: u64, rejected: &[(u32, &str)], epoch: Epoch, from: Seq) -> String {
    let rejected = rejected
        .iter()
        .map(|(line, code)| ObjectWriter::object(48).number("line", *line).string("code", code).end());
    ObjectWriter::object(128)
        .number("imported", imported)
        .array("rejected", rejected)
        .number("epoch", epoch.0)
        .number("from", from.0)
        .number("to", from.0 + imported - 1)
        .end()
}

fn room_unknown() -> ImportError {
    ImportError::Refused(Refusal::new(Code::RoomUnknown, "there is no such room"))
}
