//! The set-up of `deploy/patroni`, with its own files: etcd, three servers under
//! Patroni, nodes that know all three, and people who draw all the time.

mod filled;
mod guardian;
mod load;
mod node;
mod shard;

use std::time::Instant;

use roomgate::dev::{Redis, Scratch};

use load::{Load, holds, log_of};
use node::Node;
use shard::{Member, Shard, eventually};

/// Fields are dropped in the order of writing: who depends on others goes first.
struct World {
    nodes: Vec<Node>,
    _redis: Redis,
    shard: Shard,
    _scratch: Scratch,
}

impl World {
    async fn start() -> Self {
        let scratch = Scratch::new("patroni").unwrap();
        let shard = Shard::start(scratch.path()).await;
        let redis = Redis::start(&scratch.path().join("redis")).await.unwrap();
        let launch = |number| Node::launch(&scratch, number, &shard, &redis);
        let nodes: Vec<Node> = (1..=2).map(launch).collect();
        for node in &nodes {
            node.ready().await;
        }
        Self { nodes, _redis: redis, shard, _scratch: scratch }
    }

    /// What was acked until now is in the log of `member`.
    async fn nothing_acked_is_lost(&self, load: &Load, member: &Member) {
        let acks = load.diary().acks;
        let server = member.admin().await.unwrap();
        holds(&log_of(&server, load.room).await, &acks);
    }

    /// Every node has found the server `name` to be a replica, and reads from it.
    async fn is_read_from(&self, name: &str, load: &Load) {
        let reader = self.nodes[0].person("reader");
        let by = format!("replica/{name}");
        for node in &self.nodes {
            eventually("it is known as a replica", async || {
                let known = node.knows(name).await;
                known["role"] == "replica" && known["receiver"] == "streaming"
            })
            .await;
            eventually("it is read from", async || {
                node.read_by(&reader, load.room).await.as_ref() == Some(&by)
            })
            .await;
        }
    }
}

#[tokio::test]
async fn patroni_promotes_and_the_gateway_follows_without_losing_an_ack() {
    let began = Instant::now();
    let world = World::start().await;
    let load = Load::start(&world.nodes).await;
    let started = began.elapsed();
    grows(&load, 200).await;

    let (first, epoch) = (world.shard.primary().await.unwrap(), load.epoch());
    let killed = Instant::now();
    first.crash().await;
    let second = world.shard.primary_after(&first.name).await;
    let promoted = killed.elapsed();
    let first_ack = acked_after(&load, epoch).await - killed;
    grows(&load, 200).await;
    world.nothing_acked_is_lost(&load, second).await;
    let failover = load.diary().longest_wait(killed);

    first.starts();
    world.shard.is_whole().await;
    let rejoined = killed.elapsed();
    world.is_read_from(&first.name, &load).await;

    let (third, epoch, switched) = (world.shard.synchronous().await, load.epoch(), Instant::now());
    world.shard.switch_over(second, third).await;
    acked_after(&load, epoch).await;
    let switchover = load.diary().longest_wait(switched);
    world.shard.is_whole().await;
    world.is_read_from(&second.name, &load).await;

    assert_eq!(world.shard.primary().await.unwrap().name, third.name);
    let (room, (diary, clients)) = (load.room, load.ends().await);
    let log = log_of(&third.admin().await.unwrap(), room).await;
    holds(&log, &diary.acks);
    assert_eq!(log.len(), diary.acks.len(), "nothing else is in the log");
    let mut epochs: Vec<u64> = log.iter().map(|event| event.epoch).collect();
    epochs.dedup();
    assert_eq!(epochs.len(), 3, "one term under each primary");
    for mut client in clients {
        client.catches_up(room, log.len() as u64).await;
        let seen: Vec<&str> = client.rooms[&room].seen.iter().map(|e| e["op"].as_str().unwrap()).collect();
        assert!(log.iter().map(|event| event.op.as_str()).eq(seen), "everybody saw the log");
    }
    println!(
        "three servers and two nodes after {started:.1?}; primary killed: another one promoted after \
         {promoted:.1?}, first ack after {first_ack:.1?}, longest wait for an ack {failover:.1?}; the killed one \
         was started then, and all three in service after {rejoined:.1?}; switchover: longest wait \
         {switchover:.1?}; {} acked, lost 0; refused over HTTP {:?}",
        diary.acks.len(),
        diary.refusals,
    );
}

/// Waits until so many more are acked.
async fn grows(load: &Load, more: usize) {
    let goal = load.diary().acks.len() + more;
    eventually("people draw", async || load.diary().acks.len() >= goal).await;
}

async fn acked_after(load: &Load, epoch: u64) -> Instant {
    eventually("an ack under the new primary", async || load.diary().first_ack_after(epoch).is_some()).await;
    load.diary().first_ack_after(epoch).unwrap_or_else(Instant::now)
}
