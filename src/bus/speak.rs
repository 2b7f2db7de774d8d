//! Speaking: one task that sends what waits, in order, many at a time.

use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::{ClientLike, HashesInterface, PubsubInterface};
use futures_util::future;
use tokio::sync::mpsc;

use super::Bus;
use super::listen::channel;
use super::presence::{members_key, stored};
use crate::ids::{RoomId, SessionId};
use crate::metrics::bus as metrics;
use crate::tasks::Stop;

const PIPELINE: usize = 256;

pub(super) enum Saying {
    Publish { room: RoomId, payload: Bytes },
    Enter { room: RoomId, session: SessionId, member: String },
    Leave { room: RoomId, session: SessionId },
}

pub(super) async fn run(client: Client, mut sayings: mpsc::Receiver<Saying>, bus: Bus, mut stop: Stop) {
    drop(client.connect());
    let mut batch = Vec::with_capacity(PIPELINE);
    loop {
        tokio::select! {
            count = sayings.recv_many(&mut batch, PIPELINE) => if count == 0 { return },
            () = stop.wait() => return,
        }
        if !bus.is_up() {
            metrics::dropped(batch.len() as u64);
            batch.clear();
            continue;
        }
        let said = future::join_all(batch.drain(..).map(|saying| say(&client, &bus, saying))).await;
        let failed = said.iter().filter(|result| result.is_err()).count() as u64;
        metrics::published(said.len() as u64 - failed);
        metrics::dropped(failed);
    }
}

async fn say(client: &Client, bus: &Bus, saying: Saying) -> Result<(), fred::error::Error> {
    match saying {
        Saying::Publish { room, payload } => client.spublish(channel(room), payload).await,
        Saying::Enter { room, session, member } => {
            let entry = (session.as_str(), stored(bus.shared.node, &member));
            client.hset(members_key(room), entry).await
        }
        Saying::Leave { room, session } => client.hdel(members_key(room), session.as_str()).await,
    }
}
