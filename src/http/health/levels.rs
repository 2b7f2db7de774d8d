//! How bad it is: the rules that apply the thresholds. Pure.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::thresholds::{
    CLOCK, CONNECTIONS, DISK, FALLBACKS, LAG, POOL_USE, QUERY_P95, SLOW_QUERIES, SUBMIT_P99, TRANSACTIONS,
};
use crate::clock::Ahead;
use crate::db::DbError;
use crate::routing::{Facts, Standing};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Look at it today.
    Warn,
    /// Users feel it, or are about to.
    Critical,
}

/// The worst of several findings, and each in words.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub status: Level,
    pub why: Vec<String>,
}

impl Default for Verdict {
    fn default() -> Self {
        Self { status: Level::Ok, why: Vec::new() }
    }
}

impl Verdict {
    pub fn note(&mut self, level: Level, why: impl Into<String>) {
        if level > Level::Ok {
            self.status = self.status.max(level);
            self.why.push(why.into());
        }
    }
}

/// What one endpoint's pool and breaker are like.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub in_use: u32,
    pub max: u32,
    pub waiting: u64,
    pub breaker_closed: bool,
    pub disk_used_ratio: Option<f64>,
}

/// What a shard's statements were like lately; none where there were none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub query_p95_seconds: Option<f64>,
    pub transactions_good: Option<f64>,
    pub fallbacks: Option<f64>,
}

/// One server. `staleness` is a replica's.
pub fn endpoint(facts: &Facts, staleness: Option<Duration>, load: Load) -> Verdict {
    let mut verdict = Verdict::default();
    match facts.standing {
        Standing::Down => {
            let silent = || "it has not answered yet".to_owned();
            let error = facts.error.as_ref().map_or_else(silent, DbError::to_string);
            verdict.note(Level::Warn, format!("down: {error}"));
        }
        Standing::Fenced(fence) => {
            let why = format!("fenced off ({}): nothing is written to it or read from it", fence.as_str());
            verdict.note(Level::Critical, why);
        }
        Standing::Unclaimed => verdict.note(Level::Warn, "promoted, and not claimed yet"),
        Standing::Replica => match staleness {
            Some(late) => {
                let late = late.as_secs_f64();
                verdict.note(LAG.level(late), format!("{late:.1} s behind the primary"));
            }
            None => verdict.note(Level::Critical, "further behind than anyone can tell"),
        },
        Standing::Primary => {}
    }
    let used = f64::from(load.in_use) / f64::from(load.max.max(1));
    let mut pool = format!("{} of {} connections in use", load.in_use, load.max);
    if load.waiting > 0 {
        let _infallible = write!(pool, ", {} wait for one", load.waiting);
    }
    verdict.note(POOL_USE.level(used), pool);
    if let Some(over) = &facts.over_budget {
        // A node that is started again now refuses to.
        verdict.note(Level::Critical, over.to_string());
    }
    if facts.connections_allowed > 0 {
        let (active, allowed) = (facts.active_connections, facts.connections_allowed);
        let share = active as f64 / f64::from(allowed);
        verdict.note(CONNECTIONS.level(share), format!("{active} of {allowed} allowed connections at work"));
    }
    if let Some(used) = load.disk_used_ratio {
        verdict.note(DISK.level(used), format!("{:.0} % of its disk used", used * 100.0));
    }
    if let Some(ahead) = facts.clock_ahead {
        verdict
            .note(CLOCK.level(ahead.size().as_secs_f64()).min(Level::Warn), difference("its clock", ahead));
    }
    if !load.breaker_closed {
        verdict.note(Level::Warn, "reads stay away: it failed them");
    }
    verdict
}

/// This node's clock, beside the databases'.
pub fn clock(ahead: Option<Ahead>) -> Verdict {
    let mut verdict = Verdict::default();
    if let Some(ahead) = ahead {
        let level = CLOCK.level(ahead.size().as_secs_f64());
        verdict.note(level, difference("the databases' clock", ahead));
    }
    verdict
}

fn difference(clock: &str, ahead: Ahead) -> String {
    let side = if ahead.seconds() > 0.0 { "behind" } else { "ahead of" };
    format!("{clock} is {:.1} s {side} this node's", ahead.size().as_secs_f64())
}

/// A shard as a whole, from what its endpoints are.
pub fn shard(standings: &[Standing], is_sync: bool, synchronous_standbys: i64, contested: bool) -> Verdict {
    let mut verdict = Verdict::default();
    let has_primary = standings.contains(&Standing::Primary);
    if contested {
        verdict.note(Level::Critical, "several servers were promoted side by side: stop all but one");
    } else if !has_primary {
        verdict.note(Level::Critical, "no primary: nothing is written until one is back or promoted");
    }
    if has_primary && is_sync && synchronous_standbys == 0 {
        verdict.note(Level::Critical, "durability is sync and no standby confirms: writes wait");
    }
    if standings.iter().any(|standing| matches!(standing, Standing::Fenced(_))) {
        verdict.note(Level::Critical, "a server is fenced off");
    }
    let replicas = standings.len().saturating_sub(1);
    let usable = standings.iter().filter(|standing| **standing == Standing::Replica).count();
    if replicas > 0 && usable < replicas {
        verdict.note(Level::Warn, format!("{usable} of {replicas} replicas answer"));
    }
    verdict
}

/// How the statements of a shard went.
pub fn traffic(lately: Traffic) -> Verdict {
    let mut verdict = Verdict::default();
    if let Some(seconds) = lately.query_p95_seconds {
        verdict
            .note(QUERY_P95.level(seconds), format!("5 % of statements take over {:.0} ms", seconds * 1e3));
    }
    if let Some(good) = lately.transactions_good {
        verdict.note(TRANSACTIONS.level(good), format!("{:.1} % of transactions fail", (1.0 - good) * 100.0));
    }
    if let Some(share) = lately.fallbacks {
        let why = format!("{:.0} % of reads go to the primary because no replica will do", share * 100.0);
        verdict.note(FALLBACKS.level(share), why);
    }
    verdict
}

/// How the work of this node went.
pub fn work(submit_p99_seconds: Option<f64>, slow_queries_per_minute: f64) -> Verdict {
    let mut verdict = Verdict::default();
    if let Some(seconds) = submit_p99_seconds {
        verdict.note(SUBMIT_P99.level(seconds), format!("1 % of submits take over {:.0} ms", seconds * 1e3));
    }
    let why = format!("{slow_queries_per_minute:.1} statements a minute take over 100 ms");
    verdict.note(SLOW_QUERIES.level(slow_queries_per_minute), why);
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Class;
    use crate::routing::Fence;

    const IDLE: Load = Load { in_use: 0, max: 20, waiting: 0, breaker_closed: true, disk_used_ratio: None };

    fn replica() -> Facts {
        Facts { standing: Standing::Replica, ..Facts::default() }
    }

    #[test]
    fn what_is_near_its_end_is_told_before() {
        let late = |ms| endpoint(&replica(), Some(Duration::from_millis(ms)), IDLE).status;
        assert_eq!([late(999), late(1_000), late(10_000)], [Level::Ok, Level::Warn, Level::Critical]);
        assert_eq!(endpoint(&replica(), None, IDLE).status, Level::Critical, "nobody knows how late");
        let busy = |in_use| endpoint(&replica(), Some(Duration::ZERO), Load { in_use, ..IDLE }).status;
        let all = [Level::Ok, Level::Warn, Level::Critical];
        assert_eq!([busy(13), busy(14), busy(17)], all);
        let full = |ratio| {
            endpoint(&replica(), Some(Duration::ZERO), Load { disk_used_ratio: Some(ratio), ..IDLE }).status
        };
        assert_eq!([full(0.69), full(0.7), full(0.85)], all);
        let at_work = |active_connections| {
            let facts = Facts { active_connections, connections_allowed: 100, ..replica() };
            endpoint(&facts, Some(Duration::ZERO), IDLE).status
        };
        assert_eq!([at_work(79), at_work(80), at_work(100)], all);
    }

    #[test]
    fn a_clock_that_is_off_is_told_of_the_node_and_of_the_server() {
        let of = |ms| clock(Some(Ahead::from_millis(ms))).status;
        assert_eq!([of(999), of(-1_000), of(4_999)], [Level::Ok, Level::Warn, Level::Warn]);
        assert_eq!([of(5_000), of(-3_600_000)], [Level::Critical, Level::Critical]);
        assert_eq!(clock(None).status, Level::Ok);
        let facts = Facts { clock_ahead: Some(Ahead::from_millis(-60_000)), ..replica() };
        let verdict = endpoint(&facts, Some(Duration::ZERO), IDLE);
        assert_eq!(
            (verdict.status, verdict.why[0].as_str()),
            (Level::Warn, "its clock is 60.0 s ahead of this node's")
        );
    }

    #[test]
    fn slow_and_failing_work_is_told_and_no_work_is_no_fault() {
        assert_eq!(traffic(Traffic::default()), Verdict::default());
        assert_eq!(work(None, 0.0), Verdict::default());
        let bad =
            Traffic { query_p95_seconds: Some(0.6), transactions_good: Some(0.98), fallbacks: Some(0.5) };
        let verdict = traffic(bad);
        assert_eq!((verdict.status, verdict.why.len()), (Level::Critical, 3), "{verdict:?}");
        assert_eq!(work(Some(0.3), 20.0).status, Level::Critical);
        assert_eq!(work(Some(0.3), 0.0).why, ["1 % of submits take over 300 ms"]);
    }

    #[test]
    fn a_shard_is_as_bad_as_what_its_users_feel() {
        use Standing::{Down, Primary, Replica};
        let of =
            |standings: &[Standing], is_sync, standbys| shard(standings, is_sync, standbys, false).status;
        assert_eq!(of(&[Primary, Replica], true, 1), Level::Ok);
        assert_eq!(of(&[Primary, Down], false, 0), Level::Warn);
        assert_eq!(of(&[Primary, Replica], true, 0), Level::Critical, "writes wait");
        assert_eq!(of(&[Down, Replica], false, 0), Level::Critical, "nobody can write");
        let fenced = Standing::Fenced(Fence::OldTimeline);
        assert_eq!(of(&[fenced, Primary], false, 0), Level::Critical);
        assert_eq!(of(&[Primary], false, 0), Level::Ok, "a shard without replicas lacks none");
    }

    #[test]
    fn every_finding_is_told_and_the_worst_counts() {
        let down = Facts {
            error: Some(DbError::new(Class::Connection, "connect", "connection refused")),
            ..Facts::default()
        };
        let verdict = endpoint(&down, None, Load { in_use: 20, waiting: 3, breaker_closed: false, ..IDLE });
        assert_eq!(verdict.status, Level::Critical);
        assert_eq!(
            verdict.why,
            [
                "down: connect: connection refused (connection)",
                "20 of 20 connections in use, 3 wait for one",
                "reads stay away: it failed them"
            ]
        );
    }
}
