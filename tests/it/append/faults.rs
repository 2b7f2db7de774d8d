//! Connections that break in the middle, and what is then true.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use roomgate::config::Writes;
use roomgate::protocol::Code;

use super::proxy::Proxy;
use super::world::{Node, World, delete, message, put, writes};
use crate::world::seed;

#[tokio::test]
async fn commit_cut_has_exactly_one_effect() {
    let seed = seed();
    println!("seed {seed}; to draw the same cuts: ROOMGATE_SEED={seed}");
    let world = World::start().await;
    let proxy = Proxy::start(world.server.port(), seed).await;
    let endpoint = roomgate::config::Endpoint { port: proxy.address.port(), ..world.server.endpoint() };
    let node = Node::start(&[endpoint], writes()).await;
    let rooms = world.rooms(6).await;
    proxy.cut(40);
    let mut seq_of: HashMap<String, u64> = HashMap::new();
    let mut sent = 0;
    while proxy.cuts().iter().sum::<usize>() < 1000 {
        let pending: Vec<_> = (0..12)
            .map(|_| {
                sent += 1;
                let op = format!("op{sent}");
                let submit = put(rooms[sent % rooms.len()], &op, &format!("s{}", sent % 5), sent as u64);
                (op, node.submit(submit))
            })
            .collect();
        for (op, pending) in pending {
            let ack = pending.ack().await;
            assert!(!ack.duplicate, "{op} was sent once");
            seq_of.insert(op, ack.position.seq.0);
        }
    }
    let mut effects: HashMap<String, usize> = HashMap::new();
    for room in &rooms {
        let log = world.log(*room).await;
        for (at, (_, op)) in log.iter().enumerate() {
            assert_eq!(seq_of.get(op), Some(&(at as u64 + 1)), "{op} is where its ack says");
            *effects.entry(op.clone()).or_default() += 1;
        }
        let expected: BTreeMap<u64, String> =
            log.into_iter().enumerate().map(|(at, (_, op))| (at as u64 + 1, op)).collect();
        assert_eq!(node.heard.log_of(*room), expected, "everything is announced");
        let announced: Vec<u64> = node.heard.by_room()[room].iter().map(|(seq, _)| *seq).collect();
        assert!(announced.is_sorted(), "in order");
        assert_eq!(announced.len(), expected.len(), "once");
    }
    let lost = seq_of.keys().filter(|op| !effects.contains_key(*op)).count();
    let doubled = effects.values().filter(|count| **count > 1).count();
    let [before, after, answer] = proxy.cuts();
    println!(
        "commits cut before the server {before}, after {after}, of their answer {answer}; \
         submits {sent}, acked {}, lost {lost}, doubled {doubled}",
        seq_of.len()
    );
    assert_eq!((seq_of.len(), lost, doubled), (sent, 0, 0), "one effect each");
    assert!(before.min(after).min(answer) > 200, "every kind of cut was met often");
}

/// What a lost COMMIT had rejected would be accepted now, since somebody made the
/// shape meanwhile: but then it would come behind what its session sent later.
#[tokio::test]
async fn a_submit_that_a_lost_commit_rejected_does_not_come_behind_later_ones() {
    let seed = seed();
    println!("seed {seed}; to draw the same cuts: ROOMGATE_SEED={seed}");
    let world = World::start().await;
    let proxy = Proxy::start(world.server.port(), seed).await;
    let endpoint = roomgate::config::Endpoint { port: proxy.address.port(), ..world.server.endpoint() };
    let node = Node::start(&[endpoint], Writes { lanes: 1, ..writes() }).await;
    // As if somebody else had been quick, each time "later" is written.
    world
        .sql(
            "CREATE FUNCTION makes() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN
                  INSERT INTO shape (room_id, shape_id, version, type, data, last_seq)
                    VALUES (NEW.room_id, 'made', 1, 'rect', '{\"id\":\"made\",\"type\":\"rect\"}', NEW.seq);
                  RETURN NULL;
                END $$;
             CREATE TRIGGER makes AFTER INSERT ON room_event FOR EACH ROW
               WHEN (NEW.op_id = 'later') EXECUTE FUNCTION makes();",
        )
        .await;
    proxy.cut(60);
    let mut rooms = 0;
    // Every kind of cut is to be met.
    while rooms < 60 || proxy.cuts().iter().any(|met| *met <= 10) {
        rooms += 1;
        assert!(rooms <= 600, "of each kind of cut: {:?}", proxy.cuts());
        let room = world.room().await;
        // The first one is alone in its transaction; the others share the next.
        let first = node.submit(message(room, "first", "x"));
        let rejected = node.submit(delete(room, "early", "made"));
        let later = node.submit(message(room, "later", "x"));
        assert_eq!(first.ack().await.position.seq.0, 1);
        assert_eq!(rejected.rejection().await.refusal.code, Code::ShapeUnknown);
        assert_eq!(later.ack().await.position.seq.0, 2);
    }
    println!("rooms {rooms}, of each kind of cut: {:?}", proxy.cuts());
}

#[tokio::test]
async fn a_commit_that_stays_unknown_is_not_answered_as_refused() {
    let world = World::start().await;
    let proxy = Proxy::start(world.server.port(), 1).await;
    let endpoint = roomgate::config::Endpoint { port: proxy.address.port(), ..world.server.endpoint() };
    let node = Node::start(&[endpoint], writes()).await;
    let room = world.room().await;
    // Every COMMIT is cut, so the deadline comes first.
    proxy.cut(100);
    for n in 0..5 {
        let op = format!("op{n}");
        let limit = Duration::from_millis(300);
        match node.submit_within(put(room, &op, "s", n), limit).answer().await {
            Err(_) => {}
            // Resolved between two cuts: then it must be true.
            Ok(outcome) => {
                let accepted = matches!(outcome, roomgate::log::Outcome::Accepted(_));
                let logged = world.log(room).await.iter().any(|(_, logged)| *logged == op);
                assert_eq!(accepted, logged, "{op}: {outcome:?}");
            }
        }
    }
    proxy.cut(0);
    for n in 0..5 {
        node.submit(put(room, &format!("op{n}"), "s", n)).ack().await;
    }
    assert_eq!(world.log(room).await.len(), 5, "resubmitting gives one effect each");
}

#[tokio::test]
async fn killed_backends_cost_nothing_but_time() {
    let world = World::start().await;
    let (node, rooms) = (world.node().await, world.rooms(4).await);
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE usename = 'roomgate' AND state <> 'idle' AND pid <> pg_backend_pid()";
    let mut killed = 0;
    let mut pending = Vec::new();
    for n in 0..2000 {
        pending.push(node.submit(message(rooms[n % 4], &format!("op{n}"), "x")));
        if n % 20 == 0 {
            killed += world.admin.query_one(kill, &[]).await.unwrap().get::<_, i64>(0);
        }
    }
    for pending in pending {
        assert!(!pending.ack().await.duplicate);
    }
    assert!(killed > 0, "no transaction was hit: the test is void");
    for room in rooms {
        let ops: Vec<_> = world.log(room).await;
        assert_eq!(ops.len(), 500);
    }
}

/// The COMMITs that were on their way arrive after their senders gave them up.
#[tokio::test]
async fn a_primary_whose_packets_are_lost_is_noticed_within_10_s_and_nothing_is_doubled() {
    let world = World::start().await;
    let proxy = Proxy::start(world.server.port(), 1).await;
    let endpoint = roomgate::config::Endpoint { port: proxy.address.port(), ..world.server.endpoint() };
    let (node, rooms) = (Node::start(&[endpoint], writes()).await, world.rooms(8).await);
    let submit = |n: usize| node.submit(message(rooms[n % 8], &format!("op{n}"), "x"));
    let mut pending: Vec<_> = (0..40).map(submit).collect();
    let lost_at = Instant::now();
    proxy.lose_packets(true);
    pending.extend((40..80).map(submit));
    while node.has_primary() {
        assert!(lost_at.elapsed() < Duration::from_secs(10), "not noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("noticed after {:?}", lost_at.elapsed());
    pending.extend((80..120).map(submit));
    proxy.lose_packets(false);
    for pending in pending {
        pending.ack().await;
    }
    for (r, room) in rooms.iter().enumerate() {
        let ops: Vec<String> = world.log(*room).await.into_iter().map(|(_, op)| op).collect();
        let sent: Vec<String> = (r..120).step_by(8).map(|n| format!("op{n}")).collect();
        assert_eq!(ops, sent, "each once, in the order of sending");
    }
}

#[tokio::test]
async fn writes_wait_for_a_server_that_comes_back() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    node.submit(message(room, "before", "x")).ack().await;
    // As `kill -9` of the postmaster.
    world.server.service().kill().await;
    let pending: Vec<_> = (0..50).map(|n| node.submit(message(room, &format!("op{n}"), "x"))).collect();
    world.server.service().restart().await.unwrap();
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.ack().await.position.seq.0, n as u64 + 2);
    }
}

#[tokio::test]
async fn without_a_primary_submits_are_refused_after_the_wait() {
    let world = World::start().await;
    let writes = Writes { failover_wait: Duration::from_secs(3), ..writes() };
    let (node, room) = (world.node_with(writes).await, world.room().await);
    world.server.service().stop().await;
    let rejection = node.submit(message(room, "a", "x")).rejection().await;
    assert_eq!(rejection.refusal.code, Code::ShardUnavailable);
    assert!(rejection.refusal.retry_after_ms.is_some());
}

#[tokio::test]
async fn a_server_on_an_unclaimed_timeline_is_read_only() {
    let world = World::start().await;
    let writes = Writes { failover_wait: Duration::from_secs(3), ..writes() };
    let (node, room) = (world.node_with(writes).await, world.room().await);
    world.sql("UPDATE shard_claim SET timeline = 2").await;
    let rejection = node.submit(message(room, "a", "x")).rejection().await;
    assert!(matches!(rejection.refusal.code, Code::ReadOnly | Code::ShardUnavailable), "{rejection:?}");
    assert_eq!(world.count("room_event").await, 0);
    world.sql("UPDATE shard_claim SET timeline = 1").await;
}

#[tokio::test]
async fn a_batch_too_large_for_the_server_is_halved() {
    let world = World::start().await;
    let node = world.node_with(Writes { lanes: 1, ..writes() }).await;
    let room = world.room().await;
    world
        .sql(
            "CREATE FUNCTION too_many() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN
                  IF (SELECT count(*) FROM added) > 10 THEN RAISE EXCEPTION 'out of memory' USING ERRCODE = '53200'; END IF;
                  RETURN NULL;
                END $$;
             CREATE TRIGGER too_many AFTER INSERT ON room_event REFERENCING NEW TABLE AS added
               FOR EACH STATEMENT EXECUTE FUNCTION too_many();",
        )
        .await;
    let pending: Vec<_> = (0..300).map(|n| node.submit(message(room, &format!("op{n}"), "x"))).collect();
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.ack().await.position.seq.0, n as u64 + 1);
    }
}

#[tokio::test]
async fn a_listener_that_panics_costs_its_batch_an_answer_and_nothing_else() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    node.heard.panic_next();
    assert!(node.submit(message(room, "a", "x")).answer().await.is_err(), "unknown");
    assert_eq!(node.submit(message(room, "b", "x")).ack().await.position.seq.0, 2);
    assert!(node.submit(message(room, "a", "x")).ack().await.duplicate);
}
