//! The meaning of an ack, under settings that would change it.

use std::time::Duration;

use roomgate::config::Writes;
use roomgate::db::Sql;
use roomgate::dev::{Admin, Postgres, connect};
use roomgate::ids::RoomId;
use roomgate::log::Outcome;
use roomgate::placement::slot_of;
use roomgate::store::slots::SLOT_LOCKS;

use super::connector;
use crate::append::replication::{cancel_replication_waits, receiver};
use crate::append::world::{Node, PATIENCE, World, message, sync_writes, writes};

/// The three places where a setting may stand, as a statement's beginning.
const PLACES: [&str; 3] = ["ALTER ROLE roomgate", "ALTER DATABASE roomgate", "ALTER SYSTEM"];

async fn set(world: &World, place: &str, setting: &str) {
    world.sql(&format!("{place} SET {setting}")).await;
    world.sql("SELECT pg_reload_conf()").await;
}

/// Makes a commit without a wait reach the kernel late.
async fn make_the_wal_writer_slow(world: &World) {
    set(world, "ALTER SYSTEM", "wal_writer_delay = '10s'").await;
    set(world, "ALTER SYSTEM", "wal_writer_flush_after = '1GB'").await;
}

/// Some submits are acked, and PostgreSQL is killed.
async fn acked_events_survive_kill(world: World, node: Node, room: RoomId, context: &str) {
    let before = world.log(room).await.len();
    for n in 0..30 {
        node.submit(message(room, &format!("op{n}"), "x")).ack().await;
    }
    drop(node);
    world.server.service().kill().await;
    world.server.service().restart().await.unwrap();
    let world = World { admin: world.server.admin().await.unwrap(), ..world };
    assert_eq!(world.log(room).await.len(), before + 30, "{context}");
}

#[tokio::test]
async fn acked_events_survive_kill_when_commit_would_not_wait() {
    for place in PLACES {
        let world = World::start().await;
        make_the_wal_writer_slow(&world).await;
        set(&world, place, "synchronous_commit = off").await;
        let (node, room) = (world.node().await, world.room().await);
        acked_events_survive_kill(world, node, room, place).await;
    }
}

/// A running node keeps the settings of its sessions when the server's change.
#[tokio::test]
async fn acked_events_survive_kill_after_a_change_while_running() {
    let world = World::start().await;
    make_the_wal_writer_slow(&world).await;
    let (node, room) = (world.node().await, world.room().await);
    node.submit(message(room, "before", "x")).ack().await;
    set(&world, "ALTER SYSTEM", "synchronous_commit = off").await;
    acked_events_survive_kill(world, node, room, "while it runs").await;
}

#[tokio::test]
async fn remote_apply_stays_as_the_administrator_set_it() {
    let world = World::start().await;
    set(&world, "ALTER ROLE roomgate", "synchronous_commit = remote_apply").await;
    static SHOW: Sql = Sql { name: "show", text: "SELECT current_setting('synchronous_commit')" };
    let connection = connector(&world.server).connect().await.unwrap();
    assert_eq!(connection.query_one(&SHOW, &[]).await.unwrap().get::<_, String>(0), "remote_apply");
}

/// A submit waits for the lock of its room's slot while the slot moves away.
async fn moved_slot_takes_no_write(world: &World) {
    let few = Writes { failover_wait: Duration::from_secs(1), ..writes() };
    let (node, room) = (world.node_with(few).await, world.room().await);
    let slot = i32::from(slot_of(room).0);
    let mover = world.server.admin().await.unwrap();
    mover.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({SLOT_LOCKS}, {slot})")).await.unwrap();
    let pending = node.submit(message(room, "late", "x"));
    a_writer_waits(&world.admin).await;
    let moved = format!("UPDATE slot_owner SET state = 'moved', moved_to = 'b' WHERE slot = {slot}; COMMIT");
    mover.batch_execute(&moved).await.unwrap();
    let answer = pending.answer().await;
    assert!(!matches!(answer, Ok(Outcome::Accepted(_))), "acked by the old owner: {answer:?}");
    assert!(world.log(room).await.is_empty(), "written to the old owner");
    drop(node);
    world.sql(&format!("UPDATE slot_owner SET state = 'active', moved_to = NULL WHERE slot = {slot}")).await;
}

async fn a_writer_waits(admin: &Admin) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    let waits = async {
        while admin.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect("a writer that waits for the slot");
}

#[tokio::test]
async fn moved_slot_takes_no_write_at_any_isolation_level() {
    let world = World::start().await;
    for place in PLACES {
        for level in ["repeatable read", "serializable"] {
            set(&world, place, &format!("default_transaction_isolation = '{level}'")).await;
            moved_slot_takes_no_write(&world).await;
        }
        world.sql(&format!("{place} RESET default_transaction_isolation")).await;
    }
}

#[tokio::test]
async fn replicas_answer_when_the_role_prefers_serializable() {
    let world = World::start().await;
    set(&world, "ALTER ROLE roomgate", "default_transaction_isolation = serializable").await;
    let replica = Postgres::replica(&world.scratch.path().join("a-2"), "a-2", &world.server).await.unwrap();
    static ROOMS: Sql = Sql { name: "rooms", text: "SELECT count(*) FROM room" };
    let connection = connector(&replica).connect().await.unwrap();
    assert_eq!(connection.query_one(&ROOMS, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn cancelled_wait_is_no_ack_when_warnings_are_hidden() {
    for place in PLACES {
        let world = World::start().await;
        set(&world, place, "client_min_messages = error").await;
        let standby =
            Postgres::replica(&world.scratch.path().join("a-2"), "a-2", &world.server).await.unwrap();
        world.server.set_synchronous(&["a-2"]).await.unwrap();
        let (node, room) = (world.node_with(sync_writes()).await, world.room().await);
        node.submit(message(room, "first", "x")).ack().await;
        receiver(&standby, nix::sys::signal::Signal::SIGSTOP).await;
        let lost = node.submit_within(message(room, "a", "x"), Duration::from_secs(3));
        cancel_replication_waits(&world).await;
        let answer = lost.answer().await;
        assert!(!matches!(answer, Ok(Outcome::Accepted(_))), "{place}: no standby has it: {answer:?}");
        receiver(&standby, nix::sys::signal::Signal::SIGCONT).await;
        assert!(node.submit(message(room, "a", "x")).ack().await.duplicate, "{place}");
    }
}

/// The processes of the node's connections on the server.
async fn backends(world: &World) -> Vec<i32> {
    let ask =
        "SELECT pid FROM pg_stat_activity WHERE usename = 'roomgate' AND application_name NOT LIKE '%monitor'
               ORDER BY pid";
    world.admin.query(ask, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn warning_of_a_trigger_costs_no_connection() {
    let world = World::start().await;
    let room = world.room().await;
    let triggers = "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS
          $$BEGIN RAISE WARNING 'canceling wait for synchronous replication due to user request'; RETURN NULL; END$$;
        CREATE TRIGGER warns AFTER INSERT ON room_event EXECUTE FUNCTION warn();
        CREATE CONSTRAINT TRIGGER warns_late AFTER INSERT ON room_event DEFERRABLE INITIALLY DEFERRED
          FOR EACH ROW EXECUTE FUNCTION warn();";
    world.sql(triggers).await;
    let node = world.node_with(Writes { lanes: 1, ..writes() }).await;
    node.submit(message(room, "first", "x")).ack().await;
    let before = backends(&world).await;
    for n in 0..20 {
        node.submit(message(room, &format!("op{n}"), "x")).ack().await;
    }
    assert_eq!(backends(&world).await, before);
}

#[tokio::test]
async fn warning_at_connect_costs_nothing() {
    let world = World::start().await;
    world.sql("UPDATE pg_database SET datcollversion = '0.1'").await;
    let told = connect(&world.server.dsn("roomgate")).await;
    assert!(told.is_ok());
    let (node, room) = (world.node().await, world.room().await);
    for n in 0..5 {
        node.submit(message(room, &format!("op{n}"), "x")).ack().await;
    }
    let before = backends(&world).await;
    Node::submit(&node, message(room, "last", "x")).ack().await;
    assert_eq!(backends(&world).await, before);
}
