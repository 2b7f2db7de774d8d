//! People who asked to be forgotten, over all shards and Redis.
//!
//! What names them in the directory is gone before this begins, in the statement
//! that noted the work. Rooms are gone through one by one, each in a transaction
//! that changes nothing if it was done before; so whoever continues begins at the
//! beginning. A minute later everything is gone through once more, for what a
//! token did before every node knew that it had ended.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval};

use super::{Failed, half_made};
use crate::bus::Bus;
use crate::directory::Directory;
use crate::ids::UserId;
use crate::routing::Shard;
use crate::store::rooms::{Left, Rooms};
use crate::tasks::Stop;

const ROOMS_A_PAGE: i64 = 100;
/// How long one room may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Clone)]
pub struct Erasures {
    pub directory: Directory,
    pub rooms: Rooms,
    pub bus: Bus,
}

impl Erasures {
    /// Continues what others left, every so often.
    pub async fn run(self, every: Duration, mut stop: Stop) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let round = async {
                ticks.tick().await;
                if let Err(error) = self.round().await {
                    tracing::warn!(%error, "an erasure is not done yet");
                }
            };
            tokio::select! {
                () = round => {}
                () = stop.wait() => return,
            }
        }
    }

    async fn round(&self) -> Result<(), Failed> {
        while let Some(user) = self.directory.take_erasure().await? {
            self.erase(&user).await?;
        }
        Ok(())
    }

    /// What is left to do for `user`, to the end. May be dropped and run again.
    pub async fn erase(&self, user: &UserId) -> Result<(), Failed> {
        // A shard that is away holds up no other one: its part is done in a later round.
        let mut ended = Vec::new();
        for begun in self.directory.unfinished_rooms_of(user).await? {
            ended.push(half_made::finish(&self.directory, &self.rooms, &begun).await);
        }
        ended.extend(join_all(self.rooms.shards().map(|shard| self.leave_rooms(shard, user))).await);
        ended.into_iter().collect::<Result<(), _>>()?;
        self.forget_presence(user).await?;
        self.directory.erasure_done(user).await?;
        tracing::info!(%user, "somebody was forgotten");
        Ok(())
    }

    async fn leave_rooms(&self, shard: &Shard, user: &UserId) -> Result<(), Failed> {
        let mut after = 0;
        loop {
            let page = self.rooms.to_forget(shard, user, after, ROOMS_A_PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.as_i64();
            let (mut transferred, mut archived) = (0, 0);
            for room in page {
                match self.rooms.forget(room, user, Instant::now() + PATIENCE).await? {
                    Left::Transferred => transferred += 1,
                    Left::Archived => archived += 1,
                    Left::AsItIs => {}
                }
            }
            self.directory.erasure_working(user, transferred, archived).await?;
        }
    }

    /// Without Redis there is nothing to forget: it starts empty, or is asked
    /// again when everything is gone through once more.
    async fn forget_presence(&self, user: &UserId) -> Result<(), Failed> {
        let theirs = |member: &str| {
            let member: serde_json::Value = serde_json::from_str(member).unwrap_or_default();
            member["user"] == user.as_str()
        };
        if let Err(error) = self.bus.forget_members(theirs).await {
            tracing::warn!(%error, "presence entries can't be gone through now");
        }
        Ok(())
    }
}
