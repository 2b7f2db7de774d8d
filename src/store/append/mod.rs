//! The append: durable, ordered, once. The heart of the gateway.
//!
//! ```text
//! append() → desk (bounded queue a lane, users in turn) → lane: all that waits → one transaction
//!   round trip 1: BEGIN, lock slots, lock heads, then read  (transaction, statements)
//!   decide: pure                                            (log::decide)
//!   round trip 2: events, shapes, heads, COMMIT             (transaction, statements)
//! → Announce, then the answers, in order                    (committed, lane)
//! ```
//!
//! Guarantees: an answer `Accepted` comes only after COMMIT succeeded, and after
//! its event was announced; a rejection means no effect; an op has one effect,
//! however often it is sent; the submits of a payer to a room are decided in the
//! order of their `append` calls, and payers take turns. What can't be found out before the deadline is [`Unknown`].
//!
//! May not import rooms' live side: `room`, `bus`, `session`, `http`.

mod batch;
mod committed;
mod desk;
mod detour;
mod isolate;
mod lane;
mod retry;
mod statements;
mod transaction;
mod turns;
mod unknown;

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

pub use batch::Unknown;
pub use committed::{Announce, Committed, CommittedEvent};
pub use statements::STATEMENTS;

use self::batch::Ticket;
use self::desk::{Desk, NotTaken, Seat};
use self::lane::Lane;
use crate::config::{Durability, Writes};
use crate::ids::{RoomId, UserId};
use crate::log::{Outcome, RoomBounds, Submit};
use crate::metrics::{self, ShardMetrics};
use crate::placement::ShardIndex;
use crate::protocol::{Code, Refusal};
use crate::routing::{Shard, Shards};
use crate::store::slots::Slots;
use crate::tasks::Tasks;
use crate::traces::{Trace, Traces};

/// Called once, in the order of a room's submits, on a lane: must neither block
/// nor be slow.
pub type Answer = Box<dyn FnOnce(Result<Outcome, Unknown>) + Send>;

/// Takes submits to any room. Cheap to clone.
#[derive(Clone)]
pub struct Appender {
    shared: Arc<Shared>,
    desks: Arc<[Arc<Desk>]>,
}

/// What all lanes have in common.
struct Shared {
    config: Writes,
    slots: Slots,
    announce: Arc<dyn Announce>,
    tasks: Tasks,
    bounds: ArcSwap<RoomBounds>,
    traces: Traces,
}

impl Shared {
    fn is_sync(&self) -> bool {
        self.config.durability == Durability::Sync
    }
}

impl Appender {
    /// Starts the lanes of every shard. They end when `tasks` is told to stop,
    /// each after it has settled what waits.
    pub fn start(
        config: &Writes,
        shards: &Shards,
        slots: &Slots,
        announce: Arc<dyn Announce>,
        bounds: RoomBounds,
        traces: &Traces,
        tasks: &Tasks,
    ) -> Self {
        metrics::database::prepare_retries(transaction::Cause::classes());
        let shared = Arc::new(Shared {
            config: config.clone(),
            slots: slots.clone(),
            announce,
            tasks: tasks.clone(),
            bounds: ArcSwap::from_pointee(bounds),
            traces: traces.clone(),
        });
        let desks = (0..config.lanes.max(1)).map(|_| Arc::new(Desk::new(config.lane_queue)));
        let appender = Self { shared, desks: desks.collect() };
        shards.iter().for_each(|(index, shard)| appender.join(index, shard));
        appender
    }

    /// Starts the lanes of a shard, before any slot is known to be there. Shards
    /// come in the order of their indexes.
    pub fn join(&self, index: ShardIndex, shard: &Shard) {
        let Self { shared, desks } = self;
        let metrics = ShardMetrics::new(shard.name().as_str());
        for desk in desks.iter() {
            desk.seat();
            for aside in [false, true] {
                let lane = Lane {
                    shared: shared.clone(),
                    desk: desk.clone(),
                    seat: Seat { shard: index, aside },
                    shard: shard.clone(),
                    metrics: metrics.clone(),
                    limit: shared.config.batch_max.max(1),
                };
                let name = if aside { "append-aside" } else { "append-lane" };
                shared.tasks.spawn(name, lane.run(shared.tasks.stop_signal()));
            }
        }
    }

    /// From the next batch on.
    pub fn bound_rooms(&self, bounds: RoomBounds) {
        self.shared.bounds.store(Arc::new(bounds));
    }

    /// For who takes submits in: the trace that goes with each.
    pub fn traces(&self) -> &Traces {
        &self.shared.traces
    }

    /// Queues a submit, in the turns of `payer`. Refused at once (and `answer` never
    /// called) when the queue is full, half of it with submits of `payer`, or nobody
    /// owns the room's slot; otherwise `answer` is called by `deadline`, give or take
    /// a transaction.
    pub fn append(
        &self,
        submit: Submit,
        payer: UserId,
        deadline: Instant,
        trace: Trace,
        answer: Answer,
    ) -> Result<(), Refusal> {
        let room = submit.room;
        let ticket = Ticket::new(payer, answer, trace, deadline, self.shared.config.failover_wait);
        let owner = || self.shared.slots.owner(room);
        self.desk(room).put(submit, ticket, owner).map_err(|not_taken| match not_taken {
            NotTaken::Full => overloaded(),
            NotTaken::NoOwner => Refusal::new(Code::ShardUnavailable, "no shard is known that has this room")
                .retry_after_ms(1000),
        })
    }

    /// A room always maps to the same lane number, on every shard.
    fn desk(&self, room: RoomId) -> &Desk {
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&room.get().to_be_bytes(), LANE_SEED);
        &self.desks[(hash % self.desks.len() as u64) as usize]
    }
}

/// Makes lanes independent of slots, which are the unseeded hash.
const LANE_SEED: u64 = 1;

fn overloaded() -> Refusal {
    Refusal::new(Code::Overloaded, "too many submits wait for this room's shard").retry_after_ms(500)
}
