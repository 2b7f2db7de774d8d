//! Every metric moves when what it tells of happens: one test an area, each with
//! the list of the series that it saw move, and one that the lists hold them all.

mod delivery;
mod failover;
mod node;
mod refusals;
mod replicas;
mod scrape;
mod sessions;
mod slots;
mod submits;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use self::scrape::{Sample, Scrape, Series};
use crate::world::World;

const LISTS: [&[&str]; 13] = [
    sessions::COMING_AND_GOING,
    sessions::TIMES_AND_LIMITS,
    submits::SUBMITS,
    submits::ERRORS,
    refusals::REFUSALS,
    delivery::GAPS,
    delivery::BUS,
    delivery::UPKEEP,
    replicas::READS,
    replicas::PRIMARY,
    failover::FAILOVER,
    node::NODE,
    slots::SLOTS,
];

/// What no test moves, and why.
const STILL: [(&str, &str); 11] = [
    ("roomgate_memory_reserved_bytes", "the tests of memory look at it"),
    ("roomgate_rate_limited_total{action=\"memory\"}", "the tests of memory move it"),
    (
        "roomgate_forwarded_untrusted_total",
        "the test of untrusted proxies moves it, on a node that trusts others",
    ),
    ("roomgate_clock_offset_seconds", "the test of clocks moves it, with a clock of its own"),
    ("db_clock_offset_seconds", "the test of clocks moves it, with a clock of its own"),
    ("roomgate_bus_forged_total{reason=\"wrong_seal\"}", "the tests of forgeries move it"),
    ("roomgate_bus_forged_total{reason=\"replayed\"}", "the tests of forgeries move it"),
    ("roomgate_bus_forged_total{reason=\"not_in_log\"}", "the tests of forgeries move it"),
    ("roomgate_bus_forged_total{reason=\"stale\"}", "the tests of seals refuse a message older than 15 s"),
    ("roomgate_build_info", "always 1; the test of the process looks at it"),
    (
        "roomgate_disconnects_total{code=\"1011\"}",
        "kept for a bug in a session: nothing that is known ends one so",
    ),
];

/// Labels whose values are written down in the program: each value has its series
/// from the start, and what feeds it.
const CLOSED: [&str; 10] =
    ["transport", "type", "outcome", "cause", "reason", "code", "action", "class", "served_by", "role"];

#[tokio::test]
async fn no_metric_and_no_value_of_its_labels_is_without_a_test_that_moves_it() {
    let world = World::shared();
    let scrape = Scrape::of(&world.cluster().nodes()[0]).await;
    let listed = LISTS.iter().copied().flatten().copied();
    let moved: Vec<Series> =
        listed.chain(STILL.iter().map(|(series, _)| *series)).map(Series::read).collect();

    let defined = roomgate::metrics::names().map(str::to_owned);
    let families: BTreeSet<String> = defined.chain(scrape.kinds.keys().cloned()).collect();
    let has_test = |family: &&String| moved.iter().any(|series| series.family == **family);
    let left: Vec<_> = families.iter().filter(|family| !has_test(family)).collect();
    assert!(left.is_empty(), "no test moves {left:#?}");
    let gone: Vec<_> = moved.iter().filter(|series| !families.contains(&series.family)).collect();
    assert!(
        gone.is_empty(),
        "there is no {:?}",
        gone.iter().map(|series| &series.family).collect::<Vec<_>>()
    );

    let values: BTreeSet<_> = scrape.samples.iter().flat_map(|sample| closed(&scrape, sample)).collect();
    let seen_at = |(family, label, value): &(String, String, String)| {
        moved.iter().any(|series| series.family == *family && series.labels.get(label) == Some(value))
    };
    let left: Vec<_> = values.iter().filter(|value| !seen_at(value)).collect();
    assert!(left.is_empty(), "no test moves {left:#?}");
}

/// Family, label, value, for each of its labels that is one of a fixed set.
fn closed(scrape: &Scrape, sample: &Sample) -> Vec<(String, String, String)> {
    let parts = ["_bucket", "_sum", "_count"];
    let whole = parts.iter().find_map(|part| {
        sample
            .name
            .strip_suffix(part)
            .filter(|name| scrape.kinds.get(*name).is_some_and(|k| k == "histogram"))
    });
    let family = whole.unwrap_or(&sample.name);
    let labels: &BTreeMap<String, String> = &sample.labels;
    let of = labels.iter().filter(|(label, _)| CLOSED.contains(&label.as_str()));
    of.map(|(label, value)| (family.to_owned(), label.clone(), value.clone())).collect()
}
