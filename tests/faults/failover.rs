//! Failovers: how they are done, and how long they take.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roomgate::dev::{Admin, Api};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::client;
use crate::cluster::World;
use crate::history::{Answer, Attempt, Clock, Diary, Failover, History, Micros, Played};
use crate::load::Load;
use crate::plan::Plan;
use crate::report::{ms, quantile};
use crate::run::{self, Outcome};

/// Without so many, a round shows nothing.
const IN_FLIGHT_AT_LEAST: usize = 200;
const LOOK_EVERY: Duration = Duration::from_millis(10);
const NOTICE_LIMIT: Duration = Duration::from_secs(30);

/// True if everything held, and enough was in flight every time.
pub async fn run(rounds: usize, sync: bool, seed: u64) -> Result<bool, Failure> {
    let mode = if sync { "sync" } else { "async" };
    println!("{rounds} failover(s) in {mode}; seed {seed}");
    let outcome = run::run(&Plan::failovers(seed, rounds, sync)).await?;
    println!("{}", outcome.text());
    let rounds: Vec<Round> =
        outcome.history.played.iter().filter_map(|played| round(&outcome, played)).collect();
    println!(
        "{mode:<6} in flight  acked lost  resyncs  detected ms  promoted ms  followed ms  pause p50 ms   p99 ms   max ms  recovered ms"
    );
    rounds.iter().enumerate().for_each(|(number, round)| print_row(&(number + 1).to_string(), round));
    if let Some(all) = together(&rounds) {
        print_row("worst", &all);
    }
    let enough = rounds.iter().all(|round| round.in_flight >= IN_FLIGHT_AT_LEAST);
    if !enough {
        println!("VOID: fewer than {IN_FLIGHT_AT_LEAST} submits in flight at a kill");
    }
    let lost = outcome.verdict.acks_lost.len();
    println!("{mode}: {lost} acked events lost in {} failovers", rounds.len());
    Ok(outcome.is_good() && enough && !rounds.is_empty() && !(sync && lost > 0))
}

/// The primary gets SIGKILL, its furthest replica is promoted, the others follow.
pub async fn kill_and_promote(world: &World, load: &mut Load, shard: usize) -> Result<(), Failure> {
    load.begin_rush().await;
    let clock = load.shared.clock;
    let old = world.cluster.shards()[shard].primary();
    let watch = Watch::start(world, shard, old.name(), clock);
    let killed = clock.now();
    old.service().kill_for_good().await;
    load.end_rush();
    let fork = world.cluster.promote(shard).await?;
    let promoted = clock.now();
    world.cluster.gather(shard, fork).await?;
    let (detected, followed) = watch.end().await?;
    load.failover = Some(Failover { shard, killed, detected, promoted, followed });
    Ok(())
}

/// A replica is promoted, and the old primary goes on. Once all nodes have fenced
/// it off, nobody writes to it any more.
pub async fn promote_beside(world: &World, shard: usize, lasts: Duration) -> Result<(), Failure> {
    let old = world.cluster.shards()[shard].primary();
    let admin = old.admin().await?;
    admin.batch_execute("ALTER SYSTEM SET autovacuum = off").await?;
    admin.batch_execute("SELECT pg_reload_conf()").await?;
    let watch = Watch::start(world, shard, old.name(), Clock::start());
    let fork = world.cluster.promote(shard).await?;
    watch.end().await?;
    wait_for_open_transactions(&admin).await?;
    let fenced = next_transaction(&admin).await?;
    sleep(lasts).await;
    let written = committed_since(&admin, fenced).await?;
    old.service().kill_for_good().await;
    world.cluster.gather(shard, fork).await?;
    if written > 0 {
        return Err(format!("{written} transactions wrote to the old primary after the fence").into());
    }
    eprintln!("           {}: no transaction wrote in {lasts:?} after the fence", old.name());
    Ok(())
}

/// What was begun before a node fenced it off may still end.
async fn wait_for_open_transactions(old: &Admin) -> Result<(), Failure> {
    let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'roomgate' AND backend_xid IS NOT NULL";
    let ended = async {
        while old.query_one(open, &[]).await?.get::<_, i64>(0) > 0 {
            sleep(LOOK_EVERY).await;
        }
        Ok::<_, Failure>(())
    };
    timeout(NOTICE_LIMIT, ended).await.map_err(|_| "a transaction on the old primary doesn't end")?
}

/// Transactions have numbers once they lock or write a row.
async fn next_transaction(server: &Admin) -> Result<i64, Failure> {
    let ask = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    Ok(server.query_one(ask, &[]).await?.get(0))
}

/// Those that were rolled back wrote nothing.
async fn committed_since(server: &Admin, first: i64) -> Result<i64, Failure> {
    let ask = "SELECT count(*) FROM generate_series($1::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1) AS id
                WHERE pg_xact_status(id::text::xid8) IS DISTINCT FROM 'aborted'";
    Ok(server.query_one(ask, &[&first]).await?.get(0))
}

/// Looks at what every node takes for the primary.
struct Watch(JoinSet<Result<(Micros, Micros), Failure>>);

impl Watch {
    fn start(world: &World, shard: usize, old: &str, clock: Clock) -> Self {
        let mut nodes = JoinSet::new();
        for node in world.cluster.nodes() {
            nodes.spawn(notice(Api::new(&node.admin_url()), shard, old.to_owned(), clock));
        }
        Self(nodes)
    }

    /// When the first node saw the old one gone, and the last one had the new.
    async fn end(mut self) -> Result<(Micros, Micros), Failure> {
        let (mut detected, mut followed) = (Micros::MAX, 0);
        while let Some(noticed) = self.0.join_next().await {
            let (gone, new) = noticed??;
            (detected, followed) = (detected.min(gone), followed.max(new));
        }
        Ok((detected, followed))
    }
}

async fn notice(api: Api, shard: usize, old: String, clock: Clock) -> Result<(Micros, Micros), Failure> {
    let mut gone = None;
    let noticed = async {
        loop {
            let detail = api.get("/health/detailed").await?.json();
            let primary = detail["shards"][shard]["primary"].as_str();
            if primary != Some(&old) {
                let gone = *gone.get_or_insert_with(|| clock.now());
                // The first shard's servers hold the directory too.
                let directory = detail["directory"]["primary"].as_str();
                if primary.is_some() && directory.is_some_and(|name| name != old) {
                    return Ok((gone, clock.now()));
                }
            }
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(NOTICE_LIMIT, noticed).await.map_err(|_| "a node doesn't find the new primary")?
}

/// What one failover was like.
struct Round {
    in_flight: usize,
    acked_lost: usize,
    resyncs: f64,
    /// Since the kill, as all that follows.
    detected: Micros,
    promoted: Micros,
    followed: Micros,
    /// Of each client, from its last ack before to its first of the new epoch.
    pauses: Vec<Micros>,
    /// Everything that was in flight has its answer.
    recovered: Micros,
}

fn round(outcome: &Outcome, played: &Played) -> Option<Round> {
    let Failover { shard, killed, detected, promoted, followed } = played.failover?;
    let rooms: BTreeSet<u64> =
        outcome.rooms.iter().filter(|room| room.shard == shard).map(|room| room.id).collect();
    let history = &outcome.history;
    let of_round = |at: &Micros| (played.began..played.until).contains(at);
    let lost = outcome.verdict.acks_lost.iter().filter(|(of, at)| *of == shard && of_round(at));
    let answered: Vec<Option<Micros>> =
        history.diaries.iter().flat_map(|diary| answers_to_what_flew(diary, killed, &rooms)).collect();
    let mut pauses = pauses(history, killed, &rooms);
    pauses.sort_unstable();
    let recovered = answered.iter().map(|at| at.unwrap_or(Micros::MAX)).max();
    Some(Round {
        in_flight: answered.len(),
        acked_lost: lost.count(),
        resyncs: played.felt.get("resyncs").copied().unwrap_or(0.0),
        detected: detected.saturating_sub(killed),
        promoted: promoted - killed,
        followed: followed.saturating_sub(killed),
        pauses,
        recovered: recovered.unwrap_or(killed).saturating_sub(killed),
    })
}

/// When each op that was sent and not answered at that moment was acked, or
/// refused for good.
fn answers_to_what_flew(diary: &Diary, at: Micros, rooms: &BTreeSet<u64>) -> Vec<Option<Micros>> {
    let mut ops: BTreeMap<(u64, &str), Vec<&Attempt>> = BTreeMap::new();
    for attempt in diary.attempts.iter().filter(|attempt| rooms.contains(&attempt.room)) {
        ops.entry((attempt.room, &attempt.op)).or_default().push(attempt);
    }
    let ended = |attempts: &[&Attempt]| attempts.iter().filter_map(|attempt| ended_at(attempt)).min();
    let flies = |attempt: &&Attempt| {
        let lost = diary.connections.get(attempt.connection).and_then(|connection| connection.lost);
        let answered = attempt.answer.as_ref().is_some_and(|(answered, _)| *answered <= at);
        attempt.sent <= at && !answered && lost.is_none_or(|lost| lost > at)
    };
    let in_flight = ops.values().filter(|attempts| attempts.iter().any(flies));
    in_flight.map(|attempts| ended(attempts)).filter(|ended| ended.is_none_or(|ended| ended > at)).collect()
}

fn ended_at(attempt: &Attempt) -> Option<Micros> {
    match attempt.answer.as_ref()? {
        (_, Answer::Reject { code }) if client::passes(code) => None,
        (at, _) => Some(*at),
    }
}

/// What is acked under a later epoch was written to the new primary.
fn pauses(history: &History, killed: Micros, rooms: &BTreeSet<u64>) -> Vec<Micros> {
    let acks = |diary: &Diary| -> Vec<(Micros, u64)> {
        let of_rooms = diary.attempts.iter().filter(|attempt| rooms.contains(&attempt.room));
        let ack = |attempt: &Attempt| match &attempt.answer {
            Some((at, Answer::Ack { at: position, duplicate: false })) => Some((*at, position.epoch)),
            _ => None,
        };
        of_rooms.filter_map(ack).collect()
    };
    let all: Vec<Vec<(Micros, u64)>> = history.diaries.iter().map(acks).collect();
    let before =
        all.iter().flatten().filter(|(at, _)| *at <= killed).map(|(_, epoch)| *epoch).max().unwrap_or(0);
    let pause = |acks: &Vec<(Micros, u64)>| {
        let last = acks.iter().map(|(at, _)| *at).filter(|at| *at <= killed).max()?;
        let first =
            acks.iter().filter(|(at, epoch)| *at > killed && *epoch > before).map(|(at, _)| *at).min()?;
        Some(first - last)
    };
    all.iter().filter_map(pause).collect()
}

/// All pauses, and of the rest the worst.
fn together(rounds: &[Round]) -> Option<Round> {
    let max = |of: fn(&Round) -> Micros| rounds.iter().map(of).max();
    let mut pauses: Vec<Micros> = rounds.iter().flat_map(|round| round.pauses.iter().copied()).collect();
    pauses.sort_unstable();
    Some(Round {
        in_flight: rounds.iter().map(|round| round.in_flight).min()?,
        acked_lost: rounds.iter().map(|round| round.acked_lost).max()?,
        resyncs: rounds.iter().map(|round| round.resyncs).fold(0.0, f64::max),
        detected: max(|round| round.detected)?,
        promoted: max(|round| round.promoted)?,
        followed: max(|round| round.followed)?,
        pauses,
        recovered: max(|round| round.recovered)?,
    })
}

fn print_row(name: &str, round: &Round) {
    let [p50, p99, max] = [50, 99, 100].map(|percent| ms(quantile(&round.pauses, percent)));
    let [detected, promoted, followed, recovered] =
        [round.detected, round.promoted, round.followed, round.recovered].map(|at| ms(Some(at)));
    println!(
        "{name:<6} {:>9} {:>11} {:>8} {detected:>12} {promoted:>12} {followed:>12} {p50:>13} {p99:>8} {max:>8} {recovered:>13}",
        round.in_flight, round.acked_lost, round.resyncs
    );
}
