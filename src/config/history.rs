//! Old states of rooms, and how long their events are kept.

use std::path::PathBuf;
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
    /// How long events are kept in rooms that don't say; 0 is for ever.
    #[serde(rename = "retention_ms", with = "millis")]
    pub retention: Duration,
    /// How often this node looks for events that have had their time.
    #[serde(rename = "retention_interval_ms", with = "millis")]
    pub retention_interval: Duration,
    /// Where events are written before they are deleted.
    pub archive_dir: Option<PathBuf>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            snapshot_events: 1000,
            snapshot_interval: Duration::from_secs(10),
            retention: Duration::ZERO,
            retention_interval: Duration::from_secs(60),
            archive_dir: None,
        }
    }
}
