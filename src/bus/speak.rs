//! Speaking: one task that sends what waits, in order, many at a time.

use bytes::Bytes;
use fred::interfaces::ClientLike;
use futures_util::future;
use tokio::sync::mpsc;

use super::command::{Command, channel};
use super::line::Line;
use super::seal::Seals;
use crate::ids::RoomId;
use crate::metrics::bus as metrics;
use crate::tasks::Stop;

/// Messages on their way at once.
const PIPELINE: usize = 256;

pub(super) struct Saying {
    pub room: RoomId,
    pub payload: Bytes,
}

/// What can't be said now is dropped: it would be stale when Redis is back, and
/// whoever misses it finds it in the log.
pub(super) async fn run(line: Line, seals: Seals, mut sayings: mpsc::Receiver<Saying>, mut stop: Stop) {
    let mut batch = Vec::with_capacity(PIPELINE);
    loop {
        tokio::select! {
            count = sayings.recv_many(&mut batch, PIPELINE) => if count == 0 { return },
            () = stop.wait() => return,
        }
        let client = line.client();
        if !client.is_connected() {
            metrics::dropped(batch.len() as u64);
            batch.clear();
            continue;
        }
        let publish = |saying: Saying| {
            let channel = channel(saying.room);
            let sealed = seals.close(&channel, &saying.payload);
            let args = vec![channel.into(), sealed.into()];
            Command::EventSend.send::<()>(&client, args)
        };
        let said = future::join_all(batch.drain(..).map(publish)).await;
        let failed = said.iter().filter(|result| result.is_err()).count() as u64;
        metrics::published(said.len() as u64 - failed);
        metrics::dropped(failed);
    }
}
