//! A Redis that answers and refuses, or that loses keys.

use roomgate::dev::{Api, Options};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stopwatch::Stopwatch;
use crate::world::{Person, World};

const PATIENCE: Duration = Duration::from_secs(60);
/// From the end of a refusal until presence is right again.
const HEALED_WITHIN: Duration = Duration::from_secs(10);

/// Sends one command as the user `admin`, which keeps every permission.
pub async fn redis(world: &World, command: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", world.cluster().redis().port())).await.unwrap();
    let mut ask = async |line: &str| {
        socket.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 64 * 1024];
        let length = socket.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    if ask("AUTH admin any").await.starts_with("-WRONGPASS") {
        ask("ACL SETUSER admin on nopass ~* &* +@all").await;
        ask("AUTH admin any").await;
    }
    let answer = ask(command).await;
    assert!(!answer.starts_with('-'), "{command}: {answer}");
    answer
}

async fn count(world: &World, node: usize, person: &Person, room: u64) -> u64 {
    let answer = world.api_of(node, person).get(&format!("/v1/rooms/{room}/presence")).await.unwrap();
    answer.json()["count"].as_u64().unwrap()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("{what}: not in {PATIENCE:?}"));
}

#[tokio::test]
async fn a_refusal_is_told_to_operators_and_presence_heals() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, replicas: 0, ..options }).await;
    let (ann, bob) = (world.person("ann"), world.person("bob"));
    let room = world.room(&ann, "open").await;
    let (mut first, mut second) = (world.client(0, &ann).await, world.client(1, &bob).await);
    first.join(room).await;
    second.join(room).await;
    let everybody =
        async || count(&world, 0, &ann, room).await == 2 && count(&world, 1, &bob, room).await == 2;
    until("both are known", everybody).await;
    let bus = async |node: usize| -> Value {
        let admin = world.cluster().nodes()[node].admin_url();
        Api::new(&admin).get("/health/detailed").await.unwrap().json()["bus"].clone()
    };
    for (refuse, told, lift) in [
        ("ACL SETUSER default resetchannels", "&roomgate:room:*", "ACL SETUSER default allchannels"),
        ("ACL SETUSER default resetkeys", "~roomgate:members:*", "ACL SETUSER default allkeys"),
        ("CONFIG SET maxmemory 1", "maxmemory-policy", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "REPLICAOF NO ONE"),
    ] {
        redis(&world, refuse).await;
        for node in 0..2 {
            until(refuse, async || {
                let bus = bus(node).await;
                bus["status"] == "warn" && bus["why"].to_string().contains(told)
            })
            .await;
            assert!(world.measured(node, "roomgate_bus_up").await == 0.0, "{refuse}");
            assert!(world.measured(node, "roomgate_bus_refused").await >= 1.0, "{refuse}");
        }
        let checked = world.roomgate(&["check-config"]);
        let words = String::from_utf8_lossy(&checked.stdout).into_owned();
        let line = words.lines().find(|line| line.starts_with("warn  redis: Redis refuses "));
        assert!(line.is_some_and(|line| line.contains(told)), "{refuse}: {words}");
        redis(&world, lift).await;
        let lifted = Stopwatch::start();
        until(lift, async || bus(0).await["status"] == "ok" && bus(1).await["status"] == "ok").await;
        until(lift, everybody).await;
        assert!(lifted.elapsed() < HEALED_WITHIN, "{lift}: {:?}", lifted.elapsed());
    }
    let checked = world.roomgate(&["check-config"]);
    let words = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(words.contains("ok    redis: "), "{words}");
}

/// The keys of the gateway, and the seconds after which each expires.
async fn expiring(world: &World) -> Vec<(String, i64)> {
    let listed = redis(world, "KEYS *").await;
    let mut keys = Vec::new();
    for key in listed.lines().filter(|line| line.starts_with("roomgate:")) {
        let ttl = redis(world, &format!("TTL {key}")).await;
        keys.push((key.to_owned(), ttl.trim().trim_start_matches(':').parse().unwrap()));
    }
    keys
}

#[tokio::test]
async fn lost_presence_keys_are_stored_again_and_all_keys_expire() {
    let world = World::start(|options| Options { nodes: 3, shards: 1, replicas: 0, ..options }).await;
    let (ann, bob) = (world.person("ann"), world.person("bob"));
    let room = world.room(&ann, "open").await;
    let (mut first, mut second) = (world.client(0, &ann).await, world.client(1, &bob).await);
    first.join(room).await;
    second.join(room).await;
    // Nobody is in the room on the third node, which therefore reads the list.
    let listed = async || count(&world, 2, &ann, room).await == 2;
    until("both are listed", listed).await;
    let members = format!("DEL roomgate:members:{room}");
    let field = format!("HDEL roomgate:members:{room} {}", second.session);
    for loss in [members.as_str(), field.as_str(), "DEL roomgate:nodes", "FLUSHALL"] {
        redis(&world, loss).await;
        let lost = Stopwatch::start();
        until(loss, listed).await;
        assert!(lost.elapsed() < HEALED_WITHIN, "{loss}: {:?}", lost.elapsed());
        let held = redis(&world, &format!("HLEN roomgate:members:{room}")).await;
        assert_eq!(held.trim(), ":2", "{loss}");
    }
    world.cluster().nodes()[1].service().kill_for_good().await;
    let keys = expiring(&world).await;
    assert!(keys.iter().any(|(key, _)| key.starts_with("roomgate:members:")), "{keys:?}");
    // -2 is a key that has expired since it was listed.
    assert!(keys.iter().all(|(_, ttl)| (0..=60).contains(ttl) || *ttl == -2), "{keys:?}");
}
