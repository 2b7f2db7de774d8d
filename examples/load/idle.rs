//! Connections that do nothing.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::Failure;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::process;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    connections: usize,
    /// Connections that are being made at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    at_a_time: usize,
    /// Let them join so many rooms, in turn; 0 = none
    #[arg(long, value_name = "N", default_value_t = 0)]
    rooms: usize,
    /// How long they stay, answering pings, before memory is read
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    stay: u64,
}

pub async fn run(cluster: &Cluster, args: &Args) -> Result<Value, Failure> {
    let nodes = cluster.node_processes();
    let mut rooms = Vec::new();
    for index in 0..args.rooms {
        rooms.push(cluster.create_room(index).await?);
    }
    // What a node allocates once is no cost of a connection.
    for index in 0..nodes.len() * 16 {
        drop(Client::connect(&cluster.node(index).url, &cluster.token(index)?).await?);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;

    let (memory_before, cpu_before) = (process::memory(&nodes)?, process::cpu(&nodes)?);
    let start = Instant::now();
    let connect = |index: usize| {
        let rooms = &rooms;
        async move {
            let mut client = Client::connect(&cluster.node(index).url, &cluster.token(index / 50)?).await?;
            if let Some(room) = rooms.get(index % rooms.len().max(1)) {
                client.join(*room).await?;
            }
            Ok::<_, Failure>(client)
        }
    };
    let connecting = stream::iter(0..args.connections).map(connect).buffer_unordered(args.at_a_time);
    let mut clients: Vec<Client> = connecting.try_collect().await?;
    let elapsed = start.elapsed();
    let cpu = process::cpu(&nodes)? - cpu_before;

    let stay = stream::iter(clients.iter_mut()).for_each_concurrent(None, async |client| {
        // Reading is what answers pings.
        while client.text().await.is_ok() {}
    });
    let stayed = tokio::time::timeout(Duration::from_secs(args.stay), stay).await;
    if stayed.is_ok() {
        return Err("the server closed all connections".into());
    }
    let memory = process::memory(&nodes)?.saturating_sub(memory_before);
    let count = args.connections as f64;
    Ok(json!({
        "connections": args.connections,
        "nodes": nodes.len(),
        "rooms": args.rooms,
        "connections_per_second": (count / elapsed.as_secs_f64()).round(),
        "node_cpu_us_per_connection": (cpu.as_secs_f64() * 1e6 / count).round(),
        "node_memory_bytes_per_connection": (memory as f64 / count).round(),
    }))
}
