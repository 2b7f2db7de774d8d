//! How far this node's clock is off, by the clocks of the database servers.
//!
//! The median of the servers counts, so that one server with a wrong clock takes
//! no node out. Where the servers are of two opinions in equal numbers, the opinion
//! that is closer to this node's clock counts: then this node agrees with it. A
//! single server is believed, because a wrong clock of a node ends every session.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::shard::{Shard, Shards};
use crate::clock::Ahead;
use crate::metrics;
use crate::tasks::Stop;

const EVERY: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub struct Clocks {
    shards: Shards,
    directory: Shard,
    /// From this difference on the clock is wrong.
    tolerated: Duration,
}

impl Clocks {
    pub fn new(shards: Shards, directory: Shard, tolerated: Duration) -> Self {
        Self { shards, directory, tolerated }
    }

    /// By how much this node's clock is ahead, as far as the servers show; none
    /// while no server answers.
    pub fn ahead(&self) -> Option<Ahead> {
        let shards = self.shards.iter().map(|(_, shard)| shard).chain([&self.directory]);
        // The directory may be on a shard's server, which has one voice.
        let mut voices = BTreeMap::new();
        for shard in shards {
            for (endpoint, facts) in shard.endpoints().iter().zip(&shard.known().facts) {
                let address = (endpoint.config().host.clone(), endpoint.config().port);
                voices.extend(facts.clock_ahead.map(|ahead| (address, ahead)));
            }
        }
        median(voices.into_values().collect())
    }

    /// Tokens would be refused that are good, or accepted that have ended.
    pub fn is_wrong(&self) -> bool {
        self.ahead().is_some_and(|ahead| ahead.size() >= self.tolerated)
    }

    /// Measures, and logs when the clock becomes wrong or right.
    pub async fn watch(self, mut stop: Stop) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_wrong = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.wait() => return,
            }
            let Some(ahead) = self.ahead() else { continue };
            metrics::gateway::clock_offset(ahead.seconds());
            let is_wrong = ahead.size() >= self.tolerated;
            if is_wrong != was_wrong {
                let ahead_s = ahead.seconds();
                match is_wrong {
                    true => tracing::error!(ahead_s, "clock differs from the databases': not ready; set it"),
                    false => tracing::info!(ahead_s, "clock agrees with the databases' again"),
                }
            }
            was_wrong = is_wrong;
        }
    }
}

fn median(mut voices: Vec<Ahead>) -> Option<Ahead> {
    voices.sort();
    let last = voices.len().checked_sub(1)?;
    let middle = [voices.get(last / 2)?, voices.get(last.div_ceil(2))?];
    middle.into_iter().min_by_key(|ahead| ahead.size()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_decides_which_clock_is_wrong() {
        let hour = 3_600_000;
        for (voices, expected) in [
            (&[][..], None),
            (&[hour], Some(hour)),
            (&[hour, hour, 0, 0, 0], Some(0)),
            (&[hour, 0, 1], Some(1)),
            (&[hour, hour, 0], Some(hour)),
            // As many servers agree with this node as do not.
            (&[hour, 0], Some(0)),
            (&[-hour, 2], Some(2)),
            (&[hour, hour, 3, -3], Some(3)),
            (&[-hour, -hour - 5], Some(-hour)),
        ] {
            let ahead = median(voices.iter().map(|ms| Ahead::from_millis(*ms)).collect());
            assert_eq!(ahead, expected.map(Ahead::from_millis), "{voices:?}");
        }
    }
}
