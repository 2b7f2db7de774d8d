//! CPU time of this process and of a PostgreSQL server with its backends.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    /// The submitters' included.
    pub node: Duration,
    pub server: Duration,
}

impl Cpu {
    /// `postmaster`: its backends are its children.
    pub fn now(postmaster: i32) -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Self { node: Duration::from_micros(micros.unsigned_abs()), server: tree(postmaster) }
    }

    pub fn since(&self, earlier: &Self) -> Self {
        Self { node: self.node - earlier.node, server: self.server - earlier.server }
    }
}

fn tree(postmaster: i32) -> Duration {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<i64> = fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        let is_postmaster = entry.file_name().to_str() == Some(&postmaster.to_string());
        if is_postmaster {
            // Its own, and that of children that have ended.
            ticks += fields[11..15].iter().sum::<i64>();
        } else if fields[1] == i64::from(postmaster) {
            ticks += fields[11] + fields[12];
        }
    }
    // USER_HZ is 100 on every Linux that Debian ships.
    Duration::from_millis(ticks.unsigned_abs() * 10)
}
