//! Work on rooms that is found by looking through all of them, shard by shard.
//!
//! A node that is stopped, or finds another one at the same room, has lost
//! nothing: what is left to do is in the database, and found again.

use std::time::{Duration, Instant};

use super::{Failed, rest};
use crate::ids::RoomId;
use crate::placement::ShardIndex;
use crate::store::history::{Freshness, History, ReadError};
use crate::tasks::Stop;

/// What a replica doesn't know yet is found the next time.
pub(super) const FRESHNESS: Freshness = Freshness::MaxStale(Duration::from_secs(1));

pub(super) trait RoomWork: Sync {
    /// For the log.
    const NAME: &'static str;

    /// What there is to do in a room.
    type Due: Send + Sync;

    fn history(&self) -> &History;

    /// What is due in the next rooms of a shard, and the last room that was looked
    /// at.
    fn look(
        &self,
        shard: ShardIndex,
        after: i64,
    ) -> impl Future<Output = Result<(Vec<Self::Due>, Option<i64>), ReadError>> + Send;

    fn room(due: &Self::Due) -> RoomId;

    fn work(&self, due: &Self::Due, stop: &mut Stop) -> impl Future<Output = Result<(), Failed>> + Send;
}

/// All shards once. What fails is tried again the next time.
pub(super) async fn look_through<W: RoomWork>(work: &W, stop: &mut Stop) {
    for shard in work.history().shards() {
        look_through_shard(work, shard, stop).await;
    }
}

async fn look_through_shard<W: RoomWork>(work: &W, shard: ShardIndex, stop: &mut Stop) {
    let mut after = 0;
    loop {
        let begun = Instant::now();
        let looked = work.look(shard, after).await;
        let took = begun.elapsed();
        let (due, last) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                tracing::debug!(work = W::NAME, %error, "a shard is looked through later");
                return;
            }
        };
        // What has moved away is left to its owner.
        for due in due.iter().filter(|due| work.history().shard_of(W::room(due)) == Some(shard)) {
            if let Err(error) = work.work(due, stop).await {
                tracing::warn!(work = W::NAME, room = %W::room(due), %error, "a room is done later");
            }
        }
        match last {
            Some(last) if rest(took, stop).await => after = last,
            _ => return,
        }
    }
}
