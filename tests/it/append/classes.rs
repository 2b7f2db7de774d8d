//! What follows each class of errors: the table of `docs/architecture.md`, with
//! errors of a real server in the middle of a real append.

use std::time::Duration;

use roomgate::config::Writes;
use roomgate::protocol::Code;

use super::world::{World, message, writes};

/// An error that passes.
struct Passing {
    state: &'static str,
    /// What the trigger does, to whoever inserts the culprit.
    provoke: &'static str,
    times: i64,
}

/// Where PostgreSQL gives the error for the asking it is asked; the others are
/// raised with their SQLSTATE.
const PASSING: [Passing; 13] = [
    Passing { state: "40001", provoke: "RAISE SQLSTATE '40001'", times: 5 },
    Passing { state: "40P01", provoke: "RAISE SQLSTATE '40P01'", times: 5 },
    Passing { state: "55P03", provoke: "RAISE SQLSTATE '55P03'", times: 1 },
    Passing { state: "57014", provoke: "PERFORM pg_cancel_backend(pg_backend_pid()), pg_sleep(5)", times: 1 },
    Passing {
        state: "57P01",
        provoke: "PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(5)",
        times: 3,
    },
    Passing {
        state: "25006",
        provoke: "PERFORM set_config('transaction_read_only', 'on', true); INSERT INTO once VALUES (2)",
        times: 2,
    },
    Passing { state: "26000", provoke: "RAISE SQLSTATE '26000'", times: 3 },
    Passing { state: "08006", provoke: "RAISE SQLSTATE '08006'", times: 2 },
    Passing { state: "53300", provoke: "RAISE SQLSTATE '53300'", times: 3 },
    Passing { state: "53100", provoke: "RAISE SQLSTATE '53100'", times: 3 },
    Passing { state: "58030", provoke: "RAISE SQLSTATE '58030'", times: 3 },
    Passing { state: "53200", provoke: "RAISE SQLSTATE '53200'", times: 2 },
    Passing {
        state: "23505",
        provoke: "RAISE unique_violation USING CONSTRAINT = 'room_event_op'",
        times: 1,
    },
];

/// Errors that won't pass: the statement, or what was submitted, is at fault.
const LASTING: [(&str, &str, Code); 6] = [
    ("22012", "PERFORM 1 / 0", Code::Internal),
    ("23514", "INSERT INTO never VALUES (1)", Code::Internal),
    ("23505", "INSERT INTO once VALUES (1)", Code::Internal),
    ("42P01", "PERFORM FROM nowhere", Code::ShardUnavailable),
    ("42501", "RAISE SQLSTATE '42501'", Code::ShardUnavailable),
    ("XX000", "RAISE SQLSTATE 'XX000'", Code::Internal),
];

const TABLES: &str = "CREATE TABLE never (n int CHECK (n > 1)); CREATE TABLE once (n int PRIMARY KEY);
                      INSERT INTO once VALUES (1); GRANT ALL ON never, once TO roomgate;
                      CREATE SEQUENCE provoked; GRANT USAGE ON SEQUENCE provoked TO roomgate;";

/// The first `times` who insert the event of op "culprit" meet an error. A
/// sequence counts them: it isn't rolled back.
async fn provoke(world: &World, what: &str, times: i64) {
    let trigger = format!(
        "DROP TRIGGER IF EXISTS provokes ON room_event; SELECT setval('provoked', 1, false);
         CREATE OR REPLACE FUNCTION provokes() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN IF nextval('provoked') <= {times} THEN {what}; END IF; RETURN NEW; END $$;
         CREATE TRIGGER provokes BEFORE INSERT ON room_event FOR EACH ROW
           WHEN (NEW.op_id = 'culprit') EXECUTE FUNCTION provokes();"
    );
    world.sql(&trigger).await;
}

async fn provoked(world: &World) -> i64 {
    world.admin.query_one("SELECT last_value FROM provoked", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn an_error_that_passes_costs_time_and_each_submit_has_one_effect() {
    let world = World::start().await;
    world.sql(TABLES).await;
    for Passing { state, provoke: what, times } in PASSING {
        // A lane of its own, without the breaker of the case before.
        let node = world.node_with(Writes { lanes: 1, ..writes() }).await;
        let room = world.room().await;
        provoke(&world, what, times).await;
        let pending: Vec<_> =
            ["before", "culprit", "after"].map(|op| node.submit(message(room, op, "x"))).into();
        for (at, pending) in pending.into_iter().enumerate() {
            let ack = pending.ack().await;
            assert_eq!((ack.position.seq.0, ack.duplicate), (at as u64 + 1, false), "{state}");
        }
        assert!(provoked(&world).await > times, "{state} was met {times} times and then not");
        assert_eq!(world.log(room).await.len(), 3, "{state}");
    }
}

#[tokio::test]
async fn an_error_that_lasts_is_the_culprits_alone() {
    let world = World::start().await;
    world.sql(TABLES).await;
    let node = world.node_with(Writes { lanes: 1, ..writes() }).await;
    for (state, what, code) in LASTING {
        let room = world.room().await;
        provoke(&world, what, i64::MAX).await;
        let [before, culprit, after] =
            ["before", "culprit", "after"].map(|op| node.submit(message(room, op, "x")));
        assert_eq!(before.ack().await.position.seq.0, 1, "{state}");
        assert_eq!(culprit.rejection().await.refusal.code, code, "{state}");
        assert_eq!(after.ack().await.position.seq.0, 2, "{state}");
        let log: Vec<String> = world.log(room).await.into_iter().map(|(_, op)| op).collect();
        assert_eq!(log, ["before", "after"], "{state}");
    }
}

#[tokio::test]
async fn an_error_that_should_pass_and_does_not_is_refused_without_effect() {
    let world = World::start().await;
    world.sql(TABLES).await;
    let node = world.node_with(Writes { lanes: 1, failover_wait: Duration::from_secs(10), ..writes() }).await;
    let room = world.room().await;
    provoke(&world, "RAISE SQLSTATE '40001'", i64::MAX).await;
    let rejection = node.submit(message(room, "culprit", "x")).rejection().await;
    assert_eq!(rejection.refusal.code, Code::ShardUnavailable);
    assert!(rejection.refusal.retry_after_ms.is_some());
    assert!(provoked(&world).await > 5, "it was tried again");
    assert_eq!(world.log(room).await.len(), 0);
}

/// 53300 as a server gives it by itself.
#[tokio::test]
async fn writes_wait_for_a_connection_slot() {
    let world = World::start().await;
    let (node, room) = (world.node().await, world.room().await);
    node.submit(message(room, "before", "x")).ack().await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'roomgate'";

    world.sql("ALTER ROLE roomgate CONNECTION LIMIT 0").await;
    world.sql(kill).await;
    let full = node.submit(message(room, "full", "x"));
    refused_with(&world, "too many connections for role").await;
    world.sql("ALTER ROLE roomgate CONNECTION LIMIT -1").await;
    assert_eq!(full.ack().await.position.seq.0, 2);
    assert_eq!(world.log(room).await.len(), 2);
}

/// Waits until the server has said so in its log.
async fn refused_with(world: &World, text: &str) {
    let log = world.scratch.path().join("a-1/server.log");
    let met = async {
        while !std::fs::read_to_string(&log).unwrap_or_default().contains(text) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::world::PATIENCE, met)
        .await
        .unwrap_or_else(|_| panic!("no {text:?} in its log"));
}
