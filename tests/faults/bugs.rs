//! Is the checker any good? Every planted bug runs in real nodes, under the
//! fault that brings it out; each must be caught, and only by rules.

use roomgate::planted::Bug;

use crate::Failure;
use crate::fault::Fault;
use crate::plan::{Plan, Reading, Step};
use crate::run;

/// Plays each bug (or the one of this name) and says which rules it broke.
/// False if one was not caught.
pub async fn run_all(seed: u64, only: Option<&str>) -> Result<bool, Failure> {
    let chosen = |bug: &Bug| only.is_none_or(|only| format!("{bug:?}").contains(only));
    let mut good = true;
    for bug in Bug::ALL.into_iter().filter(chosen) {
        let outcome = run::run(&plan(bug, seed)).await?;
        let broken: Vec<String> =
            outcome.verdict.broken.iter().map(|(rule, (count, _))| format!("{rule} ×{count}")).collect();
        let as_expected = is_fault(bug) == broken.is_empty();
        good &= as_expected;
        let word = match (broken.is_empty(), as_expected) {
            (false, true) => "caught",
            (true, true) => "survived",
            (true, false) => "NOT CAUGHT",
            (false, false) => "NOT SURVIVED",
        };
        println!(
            "{:<22} {word:<12} {:>3.0} s  {}",
            format!("{bug:?}"),
            outcome.took.as_secs_f64(),
            broken.join(", ")
        );
        if !as_expected {
            println!("{}", outcome.text());
        }
    }
    Ok(good)
}

fn plan(bug: Bug, seed: u64) -> Plan {
    let step = |fault, lasts_ms| Step::new(fault, lasts_ms, 1_000);
    let nothing = || step(Fault::Nothing, 3_000);
    let backends = || step(Fault::KillBackends { shard: 0 }, 4_000);
    let kill = || step(Fault::KillNode { client: 0 }, 500);
    let steps = match bug {
        Bug::AckBeforeCommit | Bug::AnnounceBeforeCommit => vec![backends()],
        Bug::OpsForgotten => vec![kill(), nothing()],
        Bug::ReadBeforeLock | Bug::AnswersReversed | Bug::BatchReversed | Bug::TombstonesForgotten => {
            vec![nothing(), nothing()]
        }
        Bug::LostPositionAccepted => {
            vec![step(Fault::LoseTail { shard: 0, asleep: Some(0) }, 1_000), nothing()]
        }
        Bug::DuplicatesDelivered => vec![step(Fault::FreezeRedis, 1_800); 3],
        Bug::HolesDelivered => {
            vec![step(Fault::KillRedisClients, 4_000), nothing()]
        }
        Bug::ResumeOffByOne => vec![kill(), nothing()],
        Bug::HeadCheckOff => vec![step(Fault::FallSilent, 8_000)],
        // More than the balancer takes for a client that doesn't read: its kernel keeps
        // up to 32 MB of what comes (tcp_rmem) and 4 MB of what goes (tcp_wmem).
        Bug::LagSkips => vec![step(Fault::StopReading { client: 0, megabytes: 48 }, 500)],
        Bug::FreshnessUnchecked => vec![step(Fault::DelayReplay { shard: 0, by_ms: 900 }, 5_000)],
        Bug::UnknownIsFailure | Bug::CrashBeforeAnnounce | Bug::CommitAnswerLost => {
            vec![nothing(), nothing()]
        }
    };
    let mut planted = format!("{bug:?}");
    if bug == Bug::UnknownIsFailure {
        planted += ",CommitAnswerLost";
    }
    // Whoever comes makes its node look at the log, which hides that nobody else does;
    // and whoever goes before it has read what it lagged behind never sees the hole.
    let stay_ms = if matches!(bug, Bug::HeadCheckOff | Bug::LagSkips) { 60_000 } else { 4_000 };
    // Two nodes must read the same shape in the same moment.
    let pause_ms = if bug == Bug::ReadBeforeLock { 50 } else { 200 };
    let reading = match bug {
        Bug::FreshnessUnchecked => Reading { readers: 12, pause_ms: 5, ..Reading::default() },
        _ => Reading::default(),
    };
    let restart = bug == Bug::CrashBeforeAnnounce;
    Plan {
        planted: Some(planted),
        restart,
        reading,
        pause_ms,
        stay_ms,
        settle_ms: 8_000,
        ..Plan::of(seed, steps)
    }
}

/// Faults that a sound gateway survives.
fn is_fault(bug: Bug) -> bool {
    matches!(bug, Bug::CrashBeforeAnnounce | Bug::CommitAnswerLost)
}
