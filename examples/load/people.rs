//! Rooms of people of whom some draw, at a steady pace: what a cluster spends on
//! them. `loadtest/capacity.py` makes its model from this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use roomgate::dev::Api;
use roomgate::tasks::Tasks;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::Failure;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::process;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rooms
    #[arg(long, value_name = "N", default_value_t = 100)]
    rooms: usize,
    /// People in each
    #[arg(long, value_name = "N", default_value_t = 10)]
    people: usize,
    /// How many of them draw
    #[arg(long, value_name = "N", default_value_t = 1)]
    drawing: usize,
    /// Submits a second of each who draws
    #[arg(long, value_name = "N", default_value_t = 4.0)]
    rate: f64,
    /// How long they are watched
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    seconds: u64,
}

const JOIN_TRIES: u32 = 10;
const JOIN_PAUSE: Duration = Duration::from_secs(1);
/// Between everybody's arrival and the first look.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Heard {
    events: AtomicU64,
    acks: AtomicU64,
}

pub async fn run(cluster: &Cluster, args: &Args) -> Result<Value, Failure> {
    let rooms: Vec<u64> =
        stream::iter(0..args.rooms).map(|index| cluster.create_room(index)).buffered(8).try_collect().await?;
    let tasks = Tasks::new();
    let heard = Arc::new(Heard::default());
    let arrive = |index: usize| {
        let (room, place) = (rooms[index % args.rooms], index / args.rooms);
        let (tasks, heard) = (&tasks, heard.clone());
        async move {
            // In turn over the nodes, with the people of a room apart.
            let mut client =
                Client::connect(&cluster.node(index % args.rooms + place).url, &cluster.token(index)?)
                    .await?;
            // All come at once, and a cluster may say that it is too much at once.
            let mut tries = 1;
            while let Err(refused) = client.join(room).await {
                if tries == JOIN_TRIES {
                    return Err(refused);
                }
                tries += 1;
                tokio::time::sleep(JOIN_PAUSE).await;
            }
            let pace = (place < args.drawing && args.rate > 0.0).then_some(args.rate);
            tasks.spawn("person", person(client, room, index, pace, heard));
            Ok::<_, Failure>(())
        }
    };
    stream::iter(0..args.rooms * args.people).map(arrive).buffer_unordered(32).try_collect::<()>().await?;

    tokio::time::sleep(SETTLE).await;
    let before = Sums::of(cluster, &heard).await?;
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let after = Sums::of(cluster, &heard).await?;
    after.since(&before, cluster, args)
}

/// Draws, if it has a pace, and hears, until the cluster or the program ends.
async fn person(mut client: Client, room: u64, index: usize, pace: Option<f64>, heard: Arc<Heard>) {
    let period = Duration::from_secs_f64(1.0 / pace.unwrap_or(1.0));
    // Beginning apart from each other: a golden section never comes round.
    let phase = period.mul_f64((index as f64 * 0.618_033_988_75).fract());
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + phase, period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = 0_u64;
    loop {
        tokio::select! {
            _ = tick.tick(), if pace.is_some() => {
                if client.say(&submit(room, index, sent)).await.is_err() { return }
                sent += 1;
            }
            text = client.text() => {
                let Ok(text) = text else { return };
                // Counted without parsing: the parsers would be the bottleneck.
                let count = |wanted: &str| text.matches(wanted).count() as u64;
                heard.events.fetch_add(count("{\"type\":\"event\""), Ordering::Relaxed);
                heard.acks.fetch_add(count("{\"type\":\"ack\""), Ordering::Relaxed);
            }
        }
    }
}

fn submit(room: u64, index: usize, sent: u64) -> Value {
    json!({
        "type": "submit", "room": room, "op": format!("{index}-{sent}"), "kind": "shape.put",
        "shape": { "id": format!("{index}-{}", sent % 100), "type": "rect", "x": sent, "y": 7.25,
                   "width": 120, "height": 80.5, "stroke": "#1e1e1e", "fill": "transparent", "angle": 0,
                   "seed": 1_968_410_350_u64, "locked": false, "link": null },
    })
}

/// What was counted and spent until an instant.
struct Sums {
    at: Instant,
    events: u64,
    acks: u64,
    transactions: u64,
    published: u64,
    received: u64,
    cpu: [Duration; 4],
}

impl Sums {
    async fn of(cluster: &Cluster, heard: &Heard) -> Result<Self, Failure> {
        let (mut transactions, mut published, mut received) = (0, 0, 0);
        for node in &cluster.nodes {
            let metrics = Api::new(&node.admin_url).get("/metrics").await?.text;
            transactions += sum(&metrics, "db_transactions_total", "outcome=\"committed\"");
            published += sum(&metrics, "roomgate_bus_published_total", "");
            received += sum(&metrics, "roomgate_bus_received_total", "");
        }
        Ok(Self {
            at: Instant::now(),
            events: heard.events.load(Ordering::Relaxed),
            acks: heard.acks.load(Ordering::Relaxed),
            transactions,
            published,
            received,
            cpu: [
                process::cpu(&cluster.node_processes())?,
                process::cpu_with_children(&cluster.primaries())?,
                process::cpu_with_children(&cluster.replicas())?,
                process::cpu(&[cluster.redis()])?,
            ],
        })
    }

    /// All a second, and CPU in seconds a second.
    fn since(&self, before: &Self, cluster: &Cluster, args: &Args) -> Result<Value, Failure> {
        let seconds = (self.at - before.at).as_secs_f64();
        let rate = |after: u64, before: u64| ((after - before) as f64 / seconds * 10.0).round() / 10.0;
        let cpu = |group: usize| {
            ((self.cpu[group] - before.cpu[group]).as_secs_f64() / seconds * 1e4).round() / 1e4
        };
        Ok(json!({
            "nodes": cluster.nodes.len(),
            "shards": cluster.primaries().len(),
            "rooms": args.rooms,
            "sessions": args.rooms * args.people,
            "seconds": (seconds * 100.0).round() / 100.0,
            "submits": rate(self.acks, before.acks),
            "transactions": rate(self.transactions, before.transactions),
            "published": rate(self.published, before.published),
            "received": rate(self.received, before.received),
            "delivered": rate(self.events, before.events),
            "node_cpu": cpu(0),
            "primary_cpu": cpu(1),
            "replica_cpu": cpu(2),
            "redis_cpu": cpu(3),
            "node_memory_bytes": process::memory(&cluster.node_processes())?,
        }))
    }
}

/// All series of a family that have this label, in the text that Prometheus reads.
fn sum(metrics: &str, family: &str, label: &str) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let labels = series.strip_prefix(family)?;
        ((labels.is_empty() || labels.starts_with('{')) && labels.contains(label))
            .then(|| value.parse().ok())?
    });
    values.map(|value: f64| value as u64).sum()
}
