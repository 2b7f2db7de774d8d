//! The hunt for a stale answer.

use roomgate::planted::Bug;

use crate::Failure;
use crate::history::Read;
use crate::plan::Plan;
use crate::run;

/// In-band refusals without which the hunt has tried too little.
const REFUSED_AT_LEAST: usize = 1_000;

/// True if no answer was older than asked and enough was tried; or, with the
/// check removed, if that was noticed.
pub async fn run(reads: usize, seed: u64, planted: bool) -> Result<bool, Failure> {
    let mut plan = Plan::hunt(seed, reads);
    plan.planted = planted.then(|| format!("{:?}", Bug::FreshnessUnchecked));
    let outcome = run::run(&plan).await?;
    println!("{}", outcome.text());
    let count = |of: fn(&Read) -> bool| outcome.history.reads.iter().filter(|read| of(read)).count();
    let answered = count(|read| read.status == 200);
    let by_replicas = count(|read| read.status == 200 && read.served_by.starts_with("replica/"));
    // At least one replica's answer was refused for what it said of its position.
    let refused = count(|read| read.fallback == "behind" || read.fallback == "epoch");
    println!(
        "{answered} reads answered, {by_replicas} of them by replicas; {refused} answers of replicas refused as too old; {} times 503",
        count(|read| read.status == 503)
    );
    if planted {
        return Ok(outcome.verdict.broken.contains_key("reads_are_as_new_as_asked"));
    }
    // Those of what a failover lost can't be compared with anything.
    let compared = outcome.verdict.looked.get("reads_are_as_new_as_asked").map_or(0, |times| *times as usize);
    println!("{compared} answers compared with what was acked");
    let enough =
        compared >= reads && by_replicas * 2 >= answered && refused >= REFUSED_AT_LEAST.min(reads / 100);
    if !enough {
        println!("VOID: not enough was tried");
    }
    Ok(outcome.is_good() && enough)
}
