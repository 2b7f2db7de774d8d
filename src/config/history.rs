//! Old states of rooms, and how long their events are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::millis;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// Events from one snapshot of a room to the next; more in rooms of many
    /// shapes.
    pub snapshot_events: u64,
    /// How often this node looks for rooms that are due.
    #[serde(rename = "snapshot_interval_ms", with = "millis")]
    pub snapshot_interval: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { snapshot_events: 1000, snapshot_interval: Duration::from_secs(10) }
    }
}
