//! On real servers.

use std::sync::Mutex;

use super::*;
use crate::config::Config;
use crate::dev::{Admin, Postgres, Scratch};
use crate::tasks::Tasks;

/// A server that is both the directory and the shard `a`.
struct World {
    _scratch: Scratch,
    server: Postgres,
    targets: Vec<Target>,
    config: Config,
}

fn configuration(servers: &[&Postgres]) -> Config {
    let mut config = Config::parse(include_str!("../../../config/roomgate.toml")).unwrap();
    config.migrations.user = Some("roomgate_owner".to_owned());
    config.directory.endpoints = vec![servers[0].endpoint()];
    let shard = config.shards.remove(0);
    for (server, name) in servers.iter().zip(["a", "b"]) {
        let mut shard = shard.clone();
        shard.name = crate::ids::ShardName::new(name).unwrap();
        shard.endpoints = vec![server.endpoint()];
        config.shards.push(shard);
    }
    config
}

async fn world(name: &str) -> World {
    let scratch = Scratch::new(name).unwrap();
    let server = Postgres::primary(&scratch.path().join("a"), "a-1").await.unwrap();
    let config = configuration(&[&server]);
    let targets = targets(&config, &Tasks::new());
    World { _scratch: scratch, server, targets, config }
}

async fn up_all(targets: &[Target]) -> usize {
    let all = futures_util::future::try_join_all(targets.iter().map(|target| up(target, &|_| ())));
    all.await.unwrap().into_iter().sum()
}

/// Tables, columns, constraints, indexes, functions and triggers as text.
async fn shape_of(admin: &Admin) -> String {
    let rows = admin
        .query(
            "SELECT format('%s.%s.%s %s %s %s', table_schema, table_name, column_name, data_type, is_nullable,
                           column_default)
               FROM information_schema.columns WHERE table_schema IN ('public', 'directory')
             UNION ALL
             SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
              WHERE connamespace IN ('public'::regnamespace, 'directory'::regnamespace)
             UNION ALL
             SELECT indexdef FROM pg_indexes WHERE schemaname IN ('public', 'directory')
             UNION ALL
             SELECT pg_get_functiondef(oid) FROM pg_proc
              WHERE pronamespace IN ('public'::regnamespace, 'directory'::regnamespace)
             UNION ALL
             SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
             UNION ALL
             SELECT format('%s %s', c.oid::regclass, c.relacl) FROM pg_class c
              WHERE relnamespace IN ('public'::regnamespace, 'directory'::regnamespace)
             ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn up_down_up_leaves_an_equal_schema() {
    let world = world("migrate-updown").await;
    let admin = world.server.admin().await.unwrap();
    let steps = Mutex::new(Vec::new());
    for target in &world.targets {
        let note = |step: Progress<'_>| {
            steps.lock().unwrap().push((step.target.to_owned(), step.migration.version, step.done, step.of));
        };
        up(target, &note).await.unwrap();
    }
    assert_eq!(steps.lock().unwrap().first().unwrap().1, 1);
    let first = shape_of(&admin).await;
    assert!(
        first.contains("public.room_event.body json") && first.contains("directory.account.email"),
        "{first}"
    );
    assert_eq!(up_all(&world.targets).await, 0, "nothing is applied twice");

    for target in &world.targets {
        assert_eq!(down(target, usize::MAX, &|_| ()).await.unwrap(), target.schema.migrations().len());
    }
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'directory')
                   AND tablename <> 'schema_migration'";
    assert_eq!(admin.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 0);
    up_all(&world.targets).await;
    assert_eq!(shape_of(&admin).await, first);
    a_default_role_of_owner_becomes_editor(&world, &admin).await;
    assert_eq!(shape_of(&admin).await, first);
}

/// Rooms could have it before version 10.
async fn a_default_role_of_owner_becomes_editor(world: &World, admin: &Admin) {
    let shard = world.targets.iter().find(|target| target.schema == Schema::Shard).unwrap();
    let steps = shard.schema.migrations().iter().filter(|step| step.version >= 10).count();
    down(shard, steps, &|_| ()).await.unwrap();
    let room = "INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema)
                VALUES (1, 0, 'r', 'r', 'ann', 'public', 'owner', 'open')";
    admin.execute(room, &[]).await.unwrap();
    up(shard, &|_| ()).await.unwrap();
    let role = admin.query_one("SELECT default_role FROM room", &[]).await.unwrap();
    assert_eq!(role.get::<_, &str>(0), "editor");
    let owner = "UPDATE room SET default_role = 'owner'";
    let refused = admin.execute(owner, &[]).await.unwrap_err();
    assert_eq!(refused.as_db_error().unwrap().constraint(), Some("room_default_role_check"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_refused() {
    let world = world("migrate-changed").await;
    let target = &world.targets[1];
    up(target, &|_| ()).await.unwrap();
    let admin = world.server.admin().await.unwrap();
    admin.execute("UPDATE schema_migration SET checksum = 'other' WHERE version = 1", &[]).await.unwrap();
    let told = up(target, &|_| ()).await.unwrap_err().to_string();
    assert!(told.contains("a: migration 0001 rooms differs from what was applied"), "{told}");
    assert!(matches!(down(target, 1, &|_| ()).await, Err(MigrateError::Changed { .. })));
    assert_eq!(status(target).await.unwrap()[0].state, State::Changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_migrators_at_once_apply_everything_once() {
    let world = world("migrate-two").await;
    let others = targets(&world.config, &Tasks::new());
    let (ours, theirs) = futures_util::join!(up_all(&world.targets), up_all(&others));
    let all: usize = world.targets.iter().map(|target| target.schema.migrations().len()).sum();
    assert_eq!(ours + theirs, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migrator_waits_for_another_only_so_long() {
    let mut world = world("migrate-busy").await;
    let busy = world.server.admin().await.unwrap();
    let lock = "SELECT pg_advisory_lock(1935894637, hashtext('public'))";
    busy.query_one(lock, &[]).await.unwrap();
    world.targets[1].settings.wait = std::time::Duration::from_millis(100);
    assert!(matches!(up(&world.targets[1], &|_| ()).await, Err(MigrateError::Busy { .. })));
    drop(busy);
    world.targets[1].settings.wait = std::time::Duration::from_secs(30);
    up(&world.targets[1], &|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_migrated_side_by_side_and_a_schema_too_old_is_named() {
    let world = world("migrate-shards").await;
    let second = Postgres::primary(&world._scratch.path().join("b"), "b-1").await.unwrap();
    let tasks = Tasks::new();
    let targets = targets(&configuration(&[&world.server, &second]), &tasks);
    let connection = targets[2].primary().await.unwrap();
    let told = require(&connection, Schema::Shard, "b").await.unwrap_err().to_string();
    assert!(
        told.contains("b: the schema is at version 0") && told.contains("`roomgate migrate up`"),
        "{told}"
    );

    up_all(&targets).await;
    require(&connection, Schema::Shard, "b").await.unwrap();
    for target in &targets {
        assert!(status(target).await.unwrap().iter().all(|each| each.state == State::Applied));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_role_may_use_the_tables_and_no_more() {
    let world = world("migrate-grants").await;
    // Not by way of default privileges, which a server of an operator may lack.
    let admin = world.server.admin().await.unwrap();
    admin
        .batch_execute(
            "ALTER DEFAULT PRIVILEGES FOR ROLE roomgate_owner IN SCHEMA public, directory
                 REVOKE ALL ON TABLES FROM roomgate;
             REVOKE USAGE ON SCHEMA directory FROM roomgate;",
        )
        .await
        .unwrap();
    up_all(&world.targets).await;
    let gateway = crate::dev::connect(&world.server.dsn("roomgate")).await.unwrap();
    gateway
        .batch_execute("SELECT FROM room; DELETE FROM shape; SELECT FROM directory.account")
        .await
        .unwrap();
    for forbidden in ["DROP TABLE room", "CREATE TABLE public.mine ()", "DELETE FROM schema_migration"] {
        let error = gateway.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{forbidden}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_without_a_primary_is_named_with_what_was_tried() {
    let world = world("migrate-noprimary").await;
    world.server.service().stop().await;
    let told = up(&world.targets[1], &|_| ()).await.unwrap_err().to_string();
    assert!(told.starts_with("a: none of its endpoints is a primary that answers (a-1: connect:"), "{told}");
}
