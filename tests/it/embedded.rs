//! The embedded cluster itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use roomgate::dev::{Breaker, Cluster, Notice, Options, Scratch, report};
use serde_json::json;

use crate::client::rect;
use crate::world::{World, options};

#[tokio::test]
async fn two_clusters_run_side_by_side_and_a_killed_process_leaves_the_rest() {
    let small = |mut options: roomgate::dev::Options| {
        (options.shards, options.nodes) = (1, 2);
        options
    };
    let (one, other) = tokio::join!(World::start(small), World::start(small));
    let (here, there) = (one.cluster().report(), other.cluster().report());
    assert_ne!(here.lb, there.lb);

    let node = one.cluster().nodes()[0].service();
    for service in one.cluster().services() {
        if service.name() != "haproxy" && !service.name().ends_with("-1") {
            service.kill().await;
        }
    }
    // What is left of one: a primary, a node, the balancer. It still serves.
    let told = one.cluster().report().jwt.key_file.with_file_name("dev.json");
    for _ in 0..4 {
        node.kill().await;
        node.restart().await.unwrap();
        told_of(&told, node.pid()).await;
    }
    one.balanced().await;
    for world in [&one, &other] {
        let alice = world.person("alice");
        let room = world.room(&alice, "drawing").await;
        let mut client = world.client(0, &alice).await;
        client.join(room).await;
        let ack = client.submit(room, "op", &json!({"kind": "shape.add", "shape": rect("r", 1)})).await;
        assert_eq!(ack["type"], "ack", "{ack}");
    }
    let running = |world: &World| world.cluster().services().iter().filter(|s| s.is_running()).count();
    assert_eq!((running(&one), running(&other)), (3, 6));
}

/// Waits until the file says that the first node's pid is `pid`.
async fn told_of(file: &Path, pid: i32) {
    wait_for_pid(file, |told| told == pid).await;
}

async fn told_of_another(file: &Path, pid: i32) {
    wait_for_pid(file, |told| told != pid).await;
}

async fn wait_for_pid(file: &Path, fits: impl Fn(i32) -> bool) {
    let told = || {
        let report: report::Report = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        report.nodes[0].pid
    };
    let fits = async {
        while !fits(told()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), fits).await.expect("dev.json tells of the new process");
}

#[tokio::test]
async fn a_restart_finds_data_ports_and_people_again_and_brings_back_what_dies() {
    let scratch = Scratch::new("it-restart").unwrap();
    let mut options = options(&scratch);
    (options.shards, options.nodes, options.port, options.restart) = (1, 1, None, true);
    let first = World::with(&options, None).await;
    let alice = first.person("alice");
    let room = first.room(&alice, "drawing").await;
    let mut client = first.client(0, &alice).await;
    client.join(room).await;
    client.submit(room, "op", &json!({"kind": "shape.add", "shape": rect("r", 1)})).await;
    drop(client);
    let before = first.cluster().report();
    first.cluster().stop().await;
    drop(first);

    let again = World::with(&options, None).await;
    let after = again.cluster().report();
    assert_eq!(
        (before.lb, before.demo, before.jwt),
        (after.lb.clone(), after.demo.clone(), after.jwt.clone())
    );
    let mut client = again.client(0, &alice).await;
    client.join(room).await;
    client.catches_up(room, 1).await;
    assert_eq!(client.rooms[&room].shapes["r"], (1, rect("r", 1)));

    let service = again.cluster().nodes()[0].service();
    let pid = service.pid();
    service.kill().await;
    told_of_another(&options.data.join("dev.json"), pid).await;
    again.client(0, &alice).await.join(room).await;
}

#[tokio::test]
async fn drawing_goes_on_after_a_failover_and_nothing_acked_in_sync_is_lost() {
    let world = World::start(|mut options| {
        (options.shards, options.replicas, options.nodes, options.sync) = (1, 2, 2, true);
        options
    })
    .await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let bob = world.person("bob");
    let mut other = world.client(1, &bob).await;
    other.join(room).await;
    let draw = |i: i32| json!({"kind": "shape.add", "shape": rect(&format!("r{i}"), i)});
    for i in 0..20 {
        assert_eq!(client.submit(room, &format!("op-{i}"), &draw(i)).await["type"], "ack");
    }
    let promoted = world.cluster().fail_over(0).await.unwrap();
    assert_ne!(promoted, "a-1");
    for i in 20..25 {
        let ack = client.submit(room, &format!("op-{i}"), &draw(i)).await;
        assert_eq!((&ack["type"], &ack["seq"]), (&json!("ack"), &json!(i + 1)), "{ack}");
    }
    // By the node that has just written, and so knows the new primary.
    let mut new = world.client(0, &bob).await;
    new.join(room).await;
    for reader in [&mut other, &mut new] {
        reader.catches_up(room, 25).await;
        assert_eq!(reader.rooms[&room].shapes.len(), 25);
    }
}

#[tokio::test]
async fn keys_break_nodes_and_shards_each_in_their_turn_and_one_shard_at_a_time() {
    let scratch = Scratch::new("keys").unwrap();
    let options = Options { nodes: 2, ..options(&scratch) };
    let (tell, mut told) = tokio::sync::mpsc::channel(1024);
    let observer = Arc::new(move |notice: Notice| tell.try_send(notice.to_string()).unwrap());
    let cluster = Arc::new(Cluster::start(&options, observer.clone()).await.unwrap());
    let keys = Breaker::new(observer);
    let steps = [
        ("k", "node-1 (pid"),
        ("k", "node-1 is back"),
        ("f", "failing shard a over, away from a-1"),
        ("f", "the last failover is still going on"),
        ("", "shard a has a-2 as its primary now, and a-1 follows"),
        ("f", "shard b has b-2 as its primary now, and b-1 follows"),
        ("k", "node-2 (pid"),
    ];
    for (pressed, expected) in steps {
        for key in pressed.chars() {
            assert!(keys.press(key, &cluster));
        }
        let mut heard = Vec::new();
        while !heard.last().is_some_and(|line: &String| line.starts_with(expected)) {
            let next = tokio::time::timeout(Duration::from_secs(60), told.recv()).await;
            heard.push(next.unwrap_or_else(|_| panic!("not {expected} but {heard:?}")).unwrap());
        }
    }
    assert!(!keys.press('x', &cluster));
    cluster.stop().await;
}
