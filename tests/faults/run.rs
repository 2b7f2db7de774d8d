//! A run: load, faults one after the other, quiet; then the checker.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::check::{self, Delays, Verdict};
use crate::cluster::{Room, World, heads};
use crate::fault::Fault;
use crate::felt::Felt;
use crate::history::{Clock, History, Played};
use crate::load::Load;
use crate::plan::{Plan, Step};

/// Before the first fault.
const WARM_UP: Duration = Duration::from_millis(1_500);
/// The end of a step, in which all is as before again.
const CALM: Duration = Duration::from_millis(1_500);
/// Gaps in that time that need no reason: two nodes announce out of order, the
/// more the busier the machine. Without the bus there are twice as many.
const FEW_GAPS: f64 = 30.0;

pub struct Outcome {
    pub plan: Plan,
    pub rooms: Vec<Room>,
    pub history: History,
    pub verdict: Verdict,
    pub delays: Delays,
    /// Events in all logs.
    pub logged: usize,
    pub took: Duration,
}

pub async fn run(plan: &Plan) -> Result<Outcome, Failure> {
    let began = Instant::now();
    let mut world = World::start(plan).await?;
    let clock = Clock::start();
    let mut load = Load::start(&world, plan, clock)?;
    let felt = Felt::start(&world);
    sleep(WARM_UP).await;
    let mut played = Vec::new();
    while played.is_empty() || load.shared.reads.load(Ordering::Relaxed) < plan.reading.at_least {
        for step in &plan.steps {
            eprintln!("  {:>5.1} s  {}", began.elapsed().as_secs_f64(), step.fault);
            played.push(play(step, plan, &world, &mut load, &felt, clock).await?);
            if matches!(step.fault, Fault::MoveSlots { .. }) {
                world.find_rooms().await?;
            }
        }
    }
    load.settle();
    let unsettled = settled(&world, &load, Duration::from_millis(plan.settle_ms)).await?;
    drop(felt);
    let events = load.shared.events.clone();
    let (diaries, reads) = load.stop().await;
    let mut history = History { diaries, reads, played, events };
    count_losses(&mut history);
    let (mut verdict, logs, delays) = check::check(&world, &history).await?;
    for what in unsettled {
        verdict.fail("everybody_settles", what);
    }
    let has_calm = |played: &&Played| played.until - played.healed >= 2 * CALM.as_micros() as u64;
    for played in history.played.iter().filter(has_calm) {
        verdict.check("a_healed_fault_leaves_no_gaps", played.late_gaps <= FEW_GAPS, || {
            format!("{}: {} gaps after it had healed", played.name, played.late_gaps)
        });
    }
    let logged = logs.values().map(|log| log.entries.len()).sum();
    world.cluster.stop().await;
    Ok(Outcome {
        plan: plan.clone(),
        rooms: world.rooms.clone(),
        history,
        verdict,
        delays,
        logged,
        took: began.elapsed(),
    })
}

async fn play(
    step: &Step,
    plan: &Plan,
    world: &World,
    load: &mut Load,
    felt: &Felt,
    clock: Clock,
) -> Result<Played, Failure> {
    let counted = |load: &Load| {
        let mut now = felt.now();
        now.insert("goodbyes".to_owned(), load.shared.goodbyes.load(Ordering::Relaxed) as f64);
        let behind = load.shared.events_behind.load(Ordering::Relaxed);
        now.insert("events behind".to_owned(), behind as f64);
        now
    };
    let before = counted(load);
    let (began, excuses) = (clock.now(), step.fault.excuses(load));
    step.fault.play(world, load, Duration::from_millis(step.lasts_ms)).await?;
    let healed = clock.now();
    let then = Duration::from_millis(step.then_ms);
    sleep(then.saturating_sub(CALM)).await;
    let recovered = counted(load);
    sleep(then.min(CALM)).await;
    let after = counted(load);
    let gaps = |counts: &BTreeMap<String, f64>| counts.get("gaps repaired").copied().unwrap_or(0.0);
    let grown = |(name, now): (&String, &f64)| {
        let grown = now - before.get(name).copied().unwrap_or(0.0);
        (grown > 0.0).then(|| (name.clone(), grown))
    };
    Ok(Played {
        name: step.fault.to_string(),
        began,
        healed,
        until: clock.now(),
        felt: after.iter().filter_map(grown).collect(),
        excuses,
        late_gaps: gaps(&after) - gaps(&recovered),
        may_lose: step.fault.may_lose(plan.sync),
        leaves: step.fault.leaves(),
        failover: load.failover.take(),
    })
}

/// Waits until every client has every event and every answer; who has not.
async fn settled(world: &World, load: &Load, limit: Duration) -> Result<Vec<String>, Failure> {
    let admins = world.primaries().await?;
    let until = Instant::now() + limit;
    loop {
        let unsettled = load.unsettled(&heads(&admins, &world.rooms).await?);
        if unsettled.is_empty() || Instant::now() > until {
            return Ok(unsettled);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// What the clients felt, by the fault in whose time it was.
fn count_losses(history: &mut History) {
    let connections = || history.diaries.iter().flat_map(|diary| &diary.connections).filter(|c| !c.left);
    let mut counts: Vec<(usize, String)> = Vec::new();
    for (index, played) in history.played.iter().enumerate() {
        let within = |at: u64| (played.began..played.until).contains(&at);
        for lost in connections().filter(|connection| connection.lost.is_some_and(within)) {
            counts.push((index, "connections lost".to_owned()));
            counts.extend(lost.close_code.map(|code| (index, format!("closed {code}"))));
        }
    }
    for (index, name) in counts {
        *history.played[index].felt.entry(name).or_default() += 1.0;
    }
}

pub fn is_felt(felt: &BTreeMap<String, f64>, any: &[&str]) -> bool {
    any.is_empty() || any.iter().any(|name| felt.contains_key(*name))
}
