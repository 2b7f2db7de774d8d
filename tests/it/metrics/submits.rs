//! What becomes of submits, and of the statements and transactions behind them.

use roomgate::dev::Admin;
use serde_json::{Value, json};

use super::watch::Watch;
use crate::client::{Client, rect, submit};
use crate::session::small_world;

pub const SUBMITS: &[&str] = &[
    "roomgate_submits_total{outcome=\"accepted\"}",
    "roomgate_submits_total{outcome=\"duplicate\"}",
    "roomgate_submits_total{outcome=\"rejected\"}",
    "roomgate_submits_total{outcome=\"refused\"}",
    "roomgate_submits_total{outcome=\"unknown\"}",
    "roomgate_submit_seconds",
    "roomgate_append_batch_size",
    "roomgate_disconnects_total{code=\"4002\"}",
    "db_transactions_total{outcome=\"committed\"}",
    "db_transactions_total{outcome=\"empty\"}",
    "db_transactions_total{outcome=\"rolled_back\"}",
    "db_transactions_total{outcome=\"unknown\"}",
    "db_transaction_retries_total{class=\"not_claimed\"}",
    "db_query_duration_seconds{role=\"primary\"}",
    "db_slow_queries_total",
    "db_pool_wait_seconds",
    "db_connection_held_seconds",
];

#[tokio::test]
async fn every_outcome_of_a_submit_and_of_its_transaction_is_counted() {
    let world = small_world(|options| options.set("writes.failover_wait_ms", 4000)).await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let admin = &world.primaries().await[0];
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let add = json!({"kind": "shape.add", "shape": rect("r", 1)});
    let committed = [
        "roomgate_submits_total{outcome=\"accepted\"}",
        "roomgate_submit_seconds",
        "roomgate_append_batch_size",
        "db_transactions_total{outcome=\"committed\"}",
        "db_query_duration_seconds{role=\"primary\"}",
        "db_pool_wait_seconds",
        "db_connection_held_seconds",
    ];
    watch.moves(&committed, client.submit(room, "one", &add)).await;
    let empty = "db_transactions_total{outcome=\"empty\"}";
    let duplicate = "roomgate_submits_total{outcome=\"duplicate\"}";
    watch.moves(&[duplicate, empty], client.submit(room, "one", &add)).await;
    let rejected = "roomgate_submits_total{outcome=\"rejected\"}";
    watch.moves(&[rejected, empty], client.submit(room, "two", &add)).await;

    on_event(admin, "slow", "PERFORM pg_sleep(0.2)").await;
    watch.moves(&["db_slow_queries_total"], client.submit(room, "slow", &says(1))).await;
    admin.batch_execute("UPDATE shard_claim SET timeline = 9").await.unwrap();
    let refused = [
        "roomgate_submits_total{outcome=\"refused\"}",
        "db_transactions_total{outcome=\"rolled_back\"}",
        "db_transaction_retries_total{class=\"not_claimed\"}",
    ];
    watch.moves(&refused, client.submit(room, "unclaimed", &says(1))).await;
    admin.batch_execute("UPDATE shard_claim SET timeline = 1").await.unwrap();

    cut_commits_of(admin, "lost").await;
    let unknown = [
        "roomgate_submits_total{outcome=\"unknown\"}",
        "db_transactions_total{outcome=\"unknown\"}",
        "roomgate_disconnects_total{code=\"4002\"}",
    ];
    let lost = async {
        client.send(&submit(room, "lost", &says(1))).await;
        assert_eq!(client.ends().await, Some(4002));
    };
    watch.moves(&unknown, lost).await;
    watch.all(SUBMITS);
}

pub const ERRORS: &[&str] = &[
    "db_errors_total{class=\"serialization\"}",
    "db_errors_total{class=\"deadlock\"}",
    "db_errors_total{class=\"lock_timeout\"}",
    "db_errors_total{class=\"cancelled\"}",
    "db_errors_total{class=\"connection\"}",
    "db_errors_total{class=\"too_many_connections\"}",
    "db_errors_total{class=\"read_only\"}",
    "db_errors_total{class=\"storage\"}",
    "db_errors_total{class=\"out_of_memory\"}",
    "db_errors_total{class=\"unique_violation\"}",
    "db_errors_total{class=\"bad_input\"}",
    "db_errors_total{class=\"stale\"}",
    "db_errors_total{class=\"misconfigured\"}",
    "db_errors_total{class=\"other\"}",
    "db_transaction_retries_total{class=\"serialization\"}",
    "db_transaction_retries_total{class=\"deadlock\"}",
    "db_transaction_retries_total{class=\"lock_timeout\"}",
    "db_transaction_retries_total{class=\"cancelled\"}",
    "db_transaction_retries_total{class=\"connection\"}",
    "db_transaction_retries_total{class=\"too_many_connections\"}",
    "db_transaction_retries_total{class=\"read_only\"}",
    "db_transaction_retries_total{class=\"storage\"}",
    "db_transaction_retries_total{class=\"out_of_memory\"}",
    "db_transaction_retries_total{class=\"unique_violation\"}",
    "db_transaction_retries_total{class=\"bad_input\"}",
    "db_transaction_retries_total{class=\"stale\"}",
    "db_transaction_retries_total{class=\"misconfigured\"}",
    "db_transaction_retries_total{class=\"other\"}",
    "db_deadlocks_total",
];

/// What a trigger in the middle of an append meets, by its class.
const PROVOKED: [(&str, &str); 14] = [
    ("serialization", "RAISE SQLSTATE '40001'"),
    ("deadlock", "RAISE SQLSTATE '40P01'"),
    ("lock_timeout", "RAISE SQLSTATE '55P03'"),
    ("cancelled", "PERFORM pg_cancel_backend(pg_backend_pid()), pg_sleep(5)"),
    ("connection", "PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(5)"),
    ("too_many_connections", "RAISE SQLSTATE '53300'"),
    ("read_only", "RAISE SQLSTATE '25006'"),
    ("storage", "RAISE SQLSTATE '53100'"),
    ("out_of_memory", "RAISE SQLSTATE '53200'"),
    ("unique_violation", "RAISE unique_violation USING CONSTRAINT = 'room_event_op'"),
    ("bad_input", "PERFORM 1 / 0"),
    ("stale", "RAISE SQLSTATE '26000'"),
    ("misconfigured", "RAISE SQLSTATE '42501'"),
    ("other", "RAISE SQLSTATE 'XX000'"),
];

#[tokio::test]
async fn every_class_of_errors_and_what_is_run_again_for_it_is_counted() {
    let world = small_world(|options| options.set("writes.lanes", 1)).await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let admin = &world.primaries().await[0];
    admin.batch_execute("CREATE SEQUENCE met; GRANT USAGE ON SEQUENCE met TO roomgate").await.unwrap();
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    for (class, provoke) in PROVOKED {
        let of = |series: &&&'static str| series.contains(&format!("\"{class}\""));
        let mut series: Vec<&str> = ERRORS.iter().filter(of).copied().collect();
        if class == "deadlock" {
            series.push("db_deadlocks_total");
        }
        // Once; a sequence isn't rolled back.
        let once = format!("IF nextval('met') = 1 THEN {provoke}; END IF");
        admin.batch_execute("SELECT setval('met', 1, false)").await.unwrap();
        on_event(admin, &format!("{class}-2"), &once).await;
        watch.moves(&series, three(&mut client, room, class)).await;
    }
    watch.all(ERRORS);
}

/// The second shares its transaction with others, since that of the first is
/// under way when it comes; so even what is at fault itself is run again.
async fn three(client: &mut Client, room: u64, class: &str) {
    let put = |n| submit(room, &format!("{class}-{n}"), &says(n));
    client.send(&Value::Array((1..=3).map(put).collect())).await;
    for n in 1..=3 {
        client.answer(room, &format!("{class}-{n}")).await;
    }
}

fn says(what: u32) -> Value {
    json!({"kind": "message", "data": what})
}

/// Whoever inserts the event of `op` meets this.
pub async fn on_event(admin: &Admin, op: &str, what: &str) {
    let trigger = format!(
        "CREATE OR REPLACE FUNCTION provokes() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN {what}; RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER provokes BEFORE INSERT ON room_event FOR EACH ROW
           WHEN (NEW.op_id = '{op}') EXECUTE FUNCTION provokes();"
    );
    admin.batch_execute(&trigger).await.unwrap();
}

/// The server ends the connection while it works on COMMIT.
async fn cut_commits_of(admin: &Admin, op: &str) {
    let trigger = format!(
        "CREATE FUNCTION cuts() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(5); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER cuts AFTER INSERT ON room_event DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
           WHEN (NEW.op_id = '{op}') EXECUTE FUNCTION cuts();"
    );
    admin.batch_execute(&trigger).await.unwrap();
}
