//! Rooms whose making began and did not end. The plan is in the directory, and
//! every step may be repeated, also beside a slow node that is at the same.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Failed;
use crate::db::DbError;
use crate::directory::{Directory, Unfinished};
use crate::routing::Freshness;
use crate::store::rooms::{Rooms, RoomsError, Wanted};

/// How long one room may take: a shard that is away must not hold up the others.
const PATIENCE: Duration = Duration::from_secs(2);

/// Goes forward; only what was begun without a plan, by an older program, is
/// undone where its shard has nothing of it.
pub(super) async fn finish(directory: &Directory, rooms: &Rooms, begun: &Unfinished) -> Result<(), Failed> {
    // A frozen server doesn't keep to the deadline of a statement.
    let finished = timeout(PATIENCE, go_forward(directory, rooms, begun)).await;
    finished.unwrap_or_else(|_| Err(RoomsError::from(DbError::no_answer("room_finish")).into()))
}

async fn go_forward(directory: &Directory, rooms: &Rooms, begun: &Unfinished) -> Result<(), Failed> {
    let deadline = Instant::now() + PATIENCE;
    match &begun.plan {
        Some(plan) => rooms.insert(plan, deadline).await?,
        None if exists(rooms, begun, deadline).await? => {}
        None => {
            directory.forget_slug(&begun.slug, begun.room).await?;
            tracing::info!(room = %begun.room, "undid a room that was half made");
            return Ok(());
        }
    }
    directory.activate_slug(&begun.slug, begun.room).await?;
    tracing::info!(room = %begun.room, "finished a room that was half made");
    Ok(())
}

async fn exists(rooms: &Rooms, begun: &Unfinished, deadline: Instant) -> Result<bool, RoomsError> {
    let wanted = Wanted { room: begun.room, user: None, freshness: Freshness::Primary, deadline };
    match rooms.find(wanted).await {
        Ok(_) => Ok(true),
        Err(RoomsError::Unknown) => Ok(false),
        Err(error) => Err(error),
    }
}
