//! Clients that ask for much and take nothing: the memory of the node, and the time of
//! the reads that a client beside them makes.

use std::time::{Duration, Instant};

use roomgate::dev::Options;

use crate::convergence::FROM_PRIMARY;
use crate::history::export::fill;
use crate::history::world::shard;
use crate::memory::{asks_and_takes_nothing, draw, joins_and_takes_nothing};
use crate::world::{Person, World};

async fn world() -> World {
    World::start(|mut options| {
        options.env.retain(|(name, _)| !name.starts_with("ROOMGATE__LIMITS__"));
        Options { nodes: 1, shards: 1, replicas: 0, ..options }
    })
    .await
}

fn resident_mib(world: &World) -> f64 {
    let pid = world.cluster().nodes()[0].service().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// The most memory within 20 s.
async fn peak(world: &World) -> f64 {
    let (mut most, until) = (0.0_f64, Instant::now() + Duration::from_secs(20));
    while Instant::now() < until {
        most = most.max(resident_mib(world));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    most
}

async fn took(world: &World, person: &Person, path: &str) -> String {
    let begun = Instant::now();
    let answer = world.api_of(0, person).get(path).await.unwrap();
    format!("{} in {} ms", answer.status.as_u16(), begun.elapsed().as_millis())
}

#[tokio::test]
#[ignore = "an attack, with figures: `make attacks`"]
async fn clients_that_ask_for_much_and_take_nothing() {
    let world = world().await;
    let [alice, eve] = ["alice", "eve"].map(|name| world.person(name));
    let room = world.room(&alice, "open").await;
    let start = resident_mib(&world);
    draw(&world, &alice, room, 1000).await;
    println!("a room of 1000 events of 60 kB: {start:.0} -> {:.0} MiB", resident_mib(&world));

    let base = resident_mib(&world);
    let events = format!("/v1/rooms/{room}/events?limit=1000&{FROM_PRIMARY}");
    let mut sockets = Vec::new();
    for _ in 0..60 {
        sockets.push(asks_and_takes_nothing(&world, &eve, &events).await);
    }
    println!("60 sockets of one user ask for 1000 events each: {base:.0} -> {:.0} MiB", peak(&world).await);
    println!("  another user's page meanwhile: {}", took(&world, &alice, &events).await);
    drop(sockets);

    let base = resident_mib(&world);
    let mut joiners = Vec::new();
    for n in 0..12 {
        joiners.push(joins_and_takes_nothing(&world, &world.person(&format!("slow-{n}")), room).await);
    }
    println!("12 slow clients join the room of 60 MB: {base:.0} -> {:.0} MiB", peak(&world).await);
    drop(joiners);

    let large = world.room(&alice, "open").await;
    let admin = shard(&world, large).await;
    fill(&admin, large, 500).await;
    let more = format!(
        "INSERT INTO shape (room_id, shape_id, version, type, data, last_seq)
           SELECT {large}, 't' || n, 1, 'rect', '{{\"id\":\"t\",\"type\":\"rect\"}}', 1 FROM generate_series(1, 60000) AS n;
         UPDATE room_head SET live_shapes = 60500, live_bytes = 2000000 WHERE room_id = {large}"
    );
    admin.batch_execute(&more).await.unwrap();
    let shapes = format!("/v1/rooms/{large}/shapes?limit=10&{FROM_PRIMARY}");
    for _ in 0..3 {
        println!("10 of 60 500 shapes: {}", took(&world, &alice, &shapes).await);
    }
}
