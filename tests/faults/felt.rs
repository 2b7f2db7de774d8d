//! What was noticed of a fault: counters of all nodes, summed over restarts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roomgate::dev::{Api, Gateway};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::Failure;
use crate::cluster::World;

/// Metrics by what they say to people: name, a text that the labels must have,
/// and what it is called.
const COUNTED: [(&str, &str, &str); 10] = [
    ("roomgate_gap_repairs_total", "", "gaps repaired"),
    ("roomgate_resyncs_total", "", "resyncs"),
    ("roomgate_resumes_total", "", "resumes"),
    ("db_transaction_retries_total", "", "transactions retried"),
    ("db_transactions_total", "outcome=\"unknown\"", "commits unknown"),
    ("db_replica_fallbacks_total", "", "reads fell back"),
    ("roomgate_slot_moves_total", "outcome=\"followed\"", "slots followed"),
    ("roomgate_bus_reconnects_total", "", "bus reconnects"),
    ("roomgate_bus_dropped_total", "", "announcements dropped"),
    ("roomgate_events_delivered_total", "", "events delivered"),
];
const GAUGE: (&str, &str) = ("roomgate_sessions_lagging", "sessions lagging");
/// A gauge that is 0 then.
const DOWN: (&str, &str) = ("db_endpoint_up{", "databases seen down");
const EVERY: Duration = Duration::from_millis(500);

/// Reads the nodes' metrics for as long as it lives.
pub struct Felt {
    sums: Arc<Mutex<BTreeMap<String, f64>>>,
    _sampling: JoinSet<()>,
}

impl Felt {
    pub fn start(world: &World) -> Self {
        let sums: Arc<Mutex<BTreeMap<String, f64>>> = Arc::default();
        let mut sampling = JoinSet::new();
        for node in world.cluster.nodes() {
            sampling.spawn(sample(Api::new(&node.admin_url()), sums.clone()));
        }
        Self { sums, _sampling: sampling }
    }

    /// Everything since the beginning.
    pub fn now(&self) -> BTreeMap<String, f64> {
        self.sums.lock().expect("nobody panics with it").clone()
    }
}

/// Whether everybody on the node has what there is: what comes next reaches them
/// through their outboxes.
pub async fn is_all_live(node: &Gateway) -> Result<bool, Failure> {
    let answer = Api::new(&node.admin_url()).get("/metrics").await?;
    Ok(sum(&answer.text, GAUGE.0, "") == 0.0)
}

/// A counter that is lower than before has begun anew with its process.
async fn sample(api: Api, sums: Arc<Mutex<BTreeMap<String, f64>>>) {
    let mut ticks = interval(EVERY);
    let mut before: BTreeMap<&str, f64> = BTreeMap::new();
    loop {
        ticks.tick().await;
        let Ok(Ok(answer)) = timeout(2 * EVERY, api.get("/metrics")).await else { continue };
        let mut sums = sums.lock().expect("nobody panics with it");
        for (metric, label, name) in COUNTED {
            let now = sum(&answer.text, metric, label);
            let last = before.insert(name, now).unwrap_or(0.0);
            let grown = if now < last { now } else { now - last };
            *sums.entry(name.to_owned()).or_default() += grown;
        }
        let down = answer.text.lines().filter(|line| line.starts_with(DOWN.0) && line.ends_with(" 0"));
        *sums.entry(DOWN.1.to_owned()).or_default() += down.count() as f64;
        // Counted as sightings, these two.
        *sums.entry(GAUGE.1.to_owned()).or_default() += sum(&answer.text, GAUGE.0, "");
    }
}

fn sum(text: &str, metric: &str, label: &str) -> f64 {
    let is_ours = |line: &&str| {
        line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
    };
    text.lines().filter(is_ours).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
