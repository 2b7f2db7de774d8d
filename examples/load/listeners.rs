//! One room, many listeners: what delivering costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use roomgate::tasks::Tasks;
use serde_json::{Value, json};

use crate::Failure;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::process;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many listen
    #[arg(long, value_name = "N", default_value_t = 500)]
    listeners: usize,
    /// Events that are sent
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    events: u64,
    /// Events a second
    #[arg(long, value_name = "N", default_value_t = 100)]
    rate: u64,
}

/// A listener gives up after hearing nothing for so long.
const QUIET: Duration = Duration::from_secs(20);

pub async fn run(cluster: &Cluster, args: &Args) -> Result<Value, Failure> {
    let room = cluster.create_room(0).await?;
    let join = |index: usize| async move {
        let mut client = Client::connect(&cluster.node(index).url, &cluster.token(index)?).await?;
        client.join(room).await?;
        Ok::<_, Failure>(client)
    };
    let listeners: Vec<Client> =
        stream::iter(0..args.listeners).map(join).buffer_unordered(32).try_collect().await?;
    let mut speaker = join(args.listeners).await?;

    let nodes = cluster.all_node_processes();
    let tasks = Tasks::new();
    let heard = Arc::new(AtomicU64::new(0));
    for listener in listeners {
        tasks.spawn("listener", listen(listener, args.events, heard.clone()));
    }
    let (cpu_before, start) = (process::cpu(&nodes)?, Instant::now());
    speak(&mut speaker, room, args).await?;
    drop(tasks.ended(QUIET + Duration::from_secs(5)).await);
    let elapsed = start.elapsed();
    let cpu = process::cpu(&nodes)? - cpu_before;
    let delivered = heard.load(Ordering::Relaxed);
    Ok(json!({
        "listeners": args.listeners,
        "nodes": cluster.nodes.len(),
        "events": args.events,
        "events_per_second_asked": args.rate,
        "seconds": (elapsed.as_secs_f64() * 100.0).round() / 100.0,
        "delivered": delivered,
        "missing": args.events * args.listeners as u64 - delivered,
        "delivered_per_second": (delivered as f64 / elapsed.as_secs_f64()).round(),
        "node_cpu_us_per_delivered_event": (cpu.as_secs_f64() * 1e8 / delivered.max(1) as f64).round() / 100.0,
        "node_cpus_used": (cpu.as_secs_f64() / elapsed.as_secs_f64() * 100.0).round() / 100.0,
    }))
}

async fn speak(speaker: &mut Client, room: u64, args: &Args) -> Result<(), Failure> {
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / args.rate.max(1)));
    let (mut sent, mut answered) = (0, 0);
    while answered < args.events {
        tokio::select! {
            _ = tick.tick(), if sent < args.events => {
                speaker.say(&json!({
                    "type": "submit", "room": room, "op": format!("s{sent}"), "kind": "shape.put",
                    "shape": { "id": format!("s{}", sent % 200), "type": "pencil", "stroke": "#1e1e1e",
                               "points": [[10, 10], [12.5, 14.25], [19.75, 20.5], [30, 31], [44.5, 40]] },
                })).await?;
                sent += 1;
            }
            heard = speaker.hear() => {
                answered += heard?.iter().filter(|heard| heard.message_type == "ack").count() as u64;
            }
        }
    }
    Ok(())
}

/// Counts without parsing: five hundred parsers would be the bottleneck.
async fn listen(mut listener: Client, events: u64, heard: Arc<AtomicU64>) {
    let mut count = 0;
    while count < events {
        let Ok(Ok(text)) = tokio::time::timeout(QUIET, listener.text()).await else { return };
        let here = text.matches("{\"type\":\"event\"").count() as u64;
        count += here;
        heard.fetch_add(here, Ordering::Relaxed);
    }
}
