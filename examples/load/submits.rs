//! Many rooms that are drawn in: what a durable submit costs and how long it
//! takes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::Failure;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::process;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rooms
    #[arg(long, value_name = "N", default_value_t = 50)]
    rooms: usize,
    /// Clients that draw in each room
    #[arg(long, value_name = "N", default_value_t = 1)]
    writers: usize,
    /// Submits that each client keeps unanswered
    #[arg(long, value_name = "N", default_value_t = 32)]
    window: usize,
    /// How long they draw
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u64,
    /// Shapes that a client draws before it changes old ones
    #[arg(long, value_name = "N", default_value_t = 500)]
    shapes: u64,
}

pub async fn run(cluster: &Cluster, args: &Args) -> Result<Value, Failure> {
    let mut clients = Vec::new();
    for index in 0..args.rooms {
        let room = cluster.create_room(index).await?;
        for writer in 0..args.writers {
            let user = index * args.writers + writer;
            let mut client = Client::connect(&cluster.node(user).url, &cluster.token(user)?).await?;
            client.join(room).await?;
            clients.push((client, room, user));
        }
    }
    let (nodes, primaries) = (cluster.all_node_processes(), cluster.primaries());
    let (node_cpu, database_cpu) = (process::cpu(&nodes)?, process::cpu_with_children(&primaries)?);
    let start = Instant::now();
    let until = start + Duration::from_secs(args.seconds);
    let drawing = clients.into_iter().map(|(client, room, user)| async move {
        Writer { client, room, user, next: 0, waiting: HashMap::new(), latencies: Vec::new() }
            .draw(args, until)
            .await
    });
    let mut latencies = Vec::new();
    for drawn in join_all(drawing).await {
        latencies.extend(drawn?);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let node_cpu = process::cpu(&nodes)? - node_cpu;
    let database_cpu = process::cpu_with_children(&primaries)? - database_cpu;
    latencies.sort_unstable();
    let count = latencies.len();
    let at = |share: f64| {
        let index = ((count as f64 * share) as usize).min(count.saturating_sub(1));
        latencies.get(index).map_or(0.0, |latency| (latency.as_secs_f64() * 1e5).round() / 100.0)
    };
    let each = |cpu: Duration| (cpu.as_secs_f64() * 1e7 / count.max(1) as f64).round() / 10.0;
    Ok(json!({
        "rooms": args.rooms,
        "writers": args.rooms * args.writers,
        "window": args.window,
        "nodes": cluster.nodes.len(),
        "acked": count,
        "acked_per_second": (count as f64 / elapsed).round(),
        "ack_p50_ms": at(0.50),
        "ack_p99_ms": at(0.99),
        "ack_max_ms": at(1.0),
        "node_cpu_us_per_submit": each(node_cpu),
        "postgres_cpu_us_per_submit": each(database_cpu),
    }))
}

struct Writer {
    client: Client,
    room: u64,
    user: usize,
    next: u64,
    /// When each unanswered op was sent.
    waiting: HashMap<String, Instant>,
    latencies: Vec<Duration>,
}

impl Writer {
    async fn draw(mut self, args: &Args, until: Instant) -> Result<Vec<Duration>, Failure> {
        while Instant::now() < until || !self.waiting.is_empty() {
            if Instant::now() < until && self.waiting.len() < args.window {
                self.submit(args).await?;
            }
            for heard in self.client.hear().await? {
                match heard.message_type.as_str() {
                    "ack" => {
                        let sent = heard.op.and_then(|op| self.waiting.remove(&op));
                        self.latencies.extend(sent.map(|sent| sent.elapsed()));
                    }
                    "reject" | "error" => {
                        return Err(format!("refused: {:?} {:?}", heard.code, heard.message).into());
                    }
                    _ => {}
                }
            }
        }
        Ok(self.latencies)
    }

    /// Fills the window, in one frame.
    async fn submit(&mut self, args: &Args) -> Result<(), Failure> {
        let mut frame = Vec::new();
        while self.waiting.len() < args.window && frame.len() < 256 {
            let (n, user) = (self.next, self.user);
            self.next += 1;
            let op = format!("{user}-{n}");
            frame.push(json!({
                "type": "submit", "room": self.room, "op": op, "kind": "shape.put",
                "shape": { "id": format!("{user}-{}", n % args.shapes.max(1)), "type": "rect", "x": n, "y": 7.25,
                           "width": 120, "height": 80.5, "stroke": "#1e1e1e", "fill": "transparent", "angle": 0,
                           "seed": 1_968_410_350_u64, "locked": false, "link": null },
            }));
            self.waiting.insert(op, Instant::now());
        }
        self.client.say(&Value::Array(frame)).await
    }
}
