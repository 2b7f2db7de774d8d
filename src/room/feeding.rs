//! Which events a session gets next. Pure.
//!
//! A session is live, and gets what is delivered beyond what it has; or it
//! catches up, and asks for what follows until nothing does. What it gets is one
//! run of one log, whatever the bus loses and however slow its socket is.

use super::deliver::Delivery;
use crate::position::Position;
use crate::store::history::LogEvent;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feeding {
    /// Has all that was delivered, and gets what is delivered next.
    Live,
    /// Is fed from memory or the log.
    CatchingUp,
}

/// What follows a position.
#[derive(Debug)]
pub enum Follows {
    /// Nothing that was delivered: live from here.
    Nothing,
    Memory(Vec<LogEvent>),
    /// Memory doesn't reach back so far, or knows another history: read the log,
    /// which goes at least so far.
    Log {
        head: Position,
    },
    /// It has read further in the log than this room has delivered: the room must
    /// read too. Until then the log says whether the position is still in it; a
    /// session that went live here would not hear that a failover took it back.
    Ahead,
}

/// What a session at `after` gets next; of memory at most about `page_bytes`.
pub fn follows(delivery: &Delivery, after: Position, page_bytes: usize) -> Follows {
    let delivered = delivery.delivered();
    if after == delivered {
        return Follows::Nothing;
    }
    if after.seq > delivered.seq {
        return Follows::Ahead;
    }
    let Some(events) = delivery.since(after) else { return Follows::Log { head: delivered } };
    let mut bytes = 0;
    let page = events.take_while(|event| {
        bytes += event.json.len();
        bytes <= page_bytes || bytes == event.json.len()
    });
    Follows::Memory(page.cloned().collect())
}

#[cfg(any(test, fuzzing))]
#[path = "feeding_model.rs"]
pub(super) mod model;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    proptest! {
        #[test]
        fn every_session_sees_one_run_of_one_log_and_in_the_end_all_of_it(seed: u64) {
            super::model::run(SmallRng::seed_from_u64(seed));
        }
    }
}
