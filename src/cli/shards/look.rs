//! `roomgate shards list` and `verify`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::open::{LOOKING, open, ranges, slots, survey};
use crate::cli::{ConfigArgs, Failure};
use crate::ids::{RoomId, Slot};
use crate::moves::{Contents, State};
use crate::placement::SLOTS;
use crate::tasks::Tasks;

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only these, e.g. 0-99,4711
    #[arg(long, value_parser = slots)]
    slots: Option<std::vec::Vec<Slot>>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn list(args: ListArgs) -> Result<(), Failure> {
    let config = args.config.load()?.config;
    let tasks = Tasks::new();
    let mover = open(&config, LOOKING, &tasks).await?;
    let survey = survey(&mover, Duration::ZERO).await?;
    let mut shards = Vec::new();
    for (weighted, found) in &survey.shards {
        let of = |wanted: fn(&State) -> bool| found.iter().filter(move |found| wanted(&found.state));
        let active = || of(|state| *state == State::Active);
        shards.push(json!({
            "name": weighted.shard.as_str(),
            "weight": weighted.weight,
            "slots": active().count(),
            "rooms": active().map(|found| found.rooms).sum::<i64>(),
            "bytes": active().map(|found| found.bytes).sum::<u64>(),
            "importing": of(|state| *state == State::Importing).count(),
            "moved": of(|state| matches!(state, State::Moved(_))).count(),
        }));
    }
    let (unfinished, two_owners) = (survey.unfinished().len(), survey.two_owners());
    if args.json {
        let two: Vec<u16> = two_owners.iter().map(|slot| slot.0).collect();
        println!("{:#}", json!({"shards": shards, "unfinished": unfinished, "two_owners": two}));
    } else {
        println!(
            "{:<16} {:>6} {:>6} {:>9} {:>12} {:>9} {:>6}",
            "shard", "weight", "slots", "rooms", "bytes", "importing", "left"
        );
        for shard in &shards {
            let number = |key: &str| shard[key].as_u64().unwrap_or(0);
            println!(
                "{:<16} {:>6} {:>6} {:>9} {:>12} {:>9} {:>6}",
                shard["name"].as_str().unwrap_or_default(),
                number("weight"),
                number("slots"),
                number("rooms"),
                number("bytes"),
                number("importing"),
                number("moved")
            );
        }
        if unfinished > 0 {
            println!("{unfinished} moves were cut short: roomgate shards move finishes them");
        }
    }
    if two_owners.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("slots with two owners: {}; see the runbook", ranges(&two_owners))))
}

pub(super) async fn verify(args: VerifyArgs) -> Result<(), Failure> {
    let config = args.config.load()?.config;
    let tasks = Tasks::new();
    let mover = open(&config, LOOKING, &tasks).await?;
    let survey = survey(&mover, Duration::ZERO).await?;
    let wanted = args.slots.unwrap_or_else(|| (0..SLOTS).map(Slot).collect());
    let mut found: BTreeMap<u16, Vec<(String, State, Contents)>> = BTreeMap::new();
    for ((weighted, slots), (_, shard)) in survey.shards.iter().zip(mover.shards.iter()) {
        for slot in slots.iter().filter(|found| wanted.contains(&found.slot)) {
            let contents = if slot.rooms == 0 {
                Contents::default()
            } else {
                mover.contents(shard, slot.slot).await.map_err(Failure::new)?
            };
            let entry = (weighted.shard.to_string(), slot.state.clone(), contents);
            found.entry(slot.slot.0).or_default().push(entry);
        }
    }
    let problems: Vec<String> = wanted.iter().flat_map(|slot| problems(*slot, found.get(&slot.0))).collect();
    let all = || found.values().flatten().filter(|(_, state, _)| *state == State::Active);
    let sum = |count: fn(&Contents) -> i64| all().map(|(_, _, contents)| count(contents)).sum::<i64>();
    if args.json {
        let slots: Vec<Value> = found.iter().map(|(slot, entries)| told(*slot, entries)).collect();
        println!("{:#}", json!({"slots": slots, "problems": problems}));
    } else {
        println!(
            "{} slots: {} rooms, {} events, {} shapes; {} problems",
            wanted.len(),
            sum(|c| c.rooms),
            sum(|c| c.events),
            sum(|c| c.shapes),
            problems.len()
        );
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::new(problems.join("\n"))) }
}

fn problems(slot: Slot, entries: Option<&Vec<(String, State, Contents)>>) -> Vec<String> {
    let entries = entries.map(Vec::as_slice).unwrap_or_default();
    let owners: Vec<&str> = entries
        .iter()
        .filter(|(_, state, _)| *state == State::Active)
        .map(|(shard, _, _)| shard.as_str())
        .collect();
    let mut problems = Vec::new();
    match owners.as_slice() {
        [_] => {}
        [] => problems.push(format!("slot {}: nobody owns it", slot.0)),
        several => problems.push(format!("slot {}: two owners: {}", slot.0, several.join(", "))),
    }
    for (shard, state, contents) in entries {
        if *state == State::Active && !contents.broken.is_empty() {
            problems.push(format!(
                "slot {} on {shard}: broken logs of rooms {}",
                slot.0,
                named(&contents.broken)
            ));
        }
    }
    problems
}

fn named(rooms: &[RoomId]) -> String {
    rooms.iter().map(RoomId::to_string).collect::<Vec<_>>().join(", ")
}

fn told(slot: u16, entries: &[(String, State, Contents)]) -> Value {
    let entry = |(shard, state, contents): &(String, State, Contents)| {
        let state = match state {
            State::Active => "active".to_owned(),
            State::Importing => "importing".to_owned(),
            State::Moved(to) => format!("moved to {to}"),
        };
        json!({
            "shard": shard, "state": state, "rooms": contents.rooms, "events": contents.events,
            "shapes": contents.shapes, "log_digest": contents.log_digest.to_string(),
            "shapes_digest": contents.shapes_digest.to_string(), "broken": contents.broken,
        })
    };
    json!({"slot": slot, "on": entries.iter().map(entry).collect::<Vec<_>>()})
}
