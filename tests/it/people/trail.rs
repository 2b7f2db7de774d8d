//! The audit trail: its readers, and the role that can only add to it.

use std::time::Duration;

use roomgate::dev::{Api, connect};
use serde_json::{Value, json};

use crate::stopwatch::Stopwatch;
use crate::world::{Person, World, refused};

/// All pages of a trail, the newest note first.
async fn pages(api: &Api, path: &str) -> Vec<Value> {
    let (mut notes, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = api.get(&format!("{path}?limit=2{cursor}")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        let page = answer.json();
        let items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()), "{page}");
        notes.extend(items.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return notes,
        }
    }
}

fn operators(world: &World) -> Api {
    Api::new(&world.cluster().report().nodes[0].admin_url)
}

async fn send(world: &World, person: &Person, method: &str, path: &str, body: Value) -> Value {
    let body = (!body.is_null()).then(|| body.to_string());
    let answer = world.api(person).send(method.parse().unwrap(), path, body).await.unwrap();
    assert!(answer.status.is_success(), "{method} {path}: {}", answer.text);
    if answer.text.is_empty() { Value::Null } else { answer.json() }
}

#[tokio::test]
async fn owners_and_operators_read_the_trail_of_a_room() {
    let world = World::shared();
    let [olga, bob] = ["olga", "bob"].map(|name| world.person(name));
    let room = world.room(&olga, "open").await;
    let path = format!("/v1/rooms/{room}");
    // The slot may have been on another shard when the first deed was done.
    let here = world.shard_of(room).await;
    for (shard, admin) in world.primaries().await.iter().enumerate() {
        let note = "INSERT INTO audit (at, id, actor, action, target) VALUES
                    (now() - interval '1 hour', gen_random_uuid(), 'olga', 'leave', $1)";
        let target = if shard == here { "room 1".to_owned() } else { format!("room {room}") };
        admin.execute(note, &[&target]).await.unwrap();
    }
    send(world, &olga, "PUT", &format!("{path}/members/{}", bob.user), json!({"role": "editor"})).await;
    let invite = send(world, &olga, "POST", &format!("{path}/invites"), json!({"role": "viewer"})).await;
    send(world, &olga, "PATCH", &path, json!({"access": "invite"})).await;
    refused(&world.api(&bob).get(&format!("{path}/audit")).await.unwrap(), 403, "forbidden");
    send(world, &olga, "DELETE", &path, Value::Null).await;

    let mut trail = pages(&world.api(&olga), &format!("{path}/audit")).await;
    assert_eq!(pages(&operators(world), &format!("/admin/rooms/{room}/audit")).await, trail);
    let times: Vec<i64> = trail.iter().map(|note| note["at"].as_i64().unwrap()).collect();
    assert!(times.is_sorted_by(|later, earlier| later >= earlier), "{times:?}");
    trail.iter_mut().for_each(|note| drop(note.as_object_mut().unwrap().remove("at")));
    let actor = &olga.user;
    let expected = json!([
        {"actor": actor, "action": "archive"},
        {"actor": actor, "action": "access"},
        {"actor": actor, "action": "invite.made", "invite": invite["id"]},
        {"actor": actor, "action": "role.editor", "user": bob.user},
        {"actor": "olga", "action": "leave"},
    ]);
    assert_eq!(json!(trail), expected);
    for cursor in ["x", "1", "1.x", "-1.00000000-0000-0000-0000-000000000000"] {
        let answer = world.api(&olga).get(&format!("{path}/audit?cursor={cursor}")).await.unwrap();
        refused(&answer, 400, "bad_message");
    }
    let by_slug = operators(world).get("/admin/rooms/some-slug/audit").await.unwrap();
    refused(&by_slug, 400, "bad_message");
}

/// The gateway's role may be stolen with a node. It can't cover its tracks.
#[tokio::test]
async fn the_gateways_role_adds_notes_and_trims_only_old_ones() {
    let world = World::shared();
    let shard = &world.cluster().shards()[0];
    let admin = connect(&shard.primary().admin_dsn()).await.unwrap();
    let gateway = connect(&shard.primary().dsn("roomgate")).await.unwrap();
    for table in ["public.audit", "directory.audit"] {
        let statements = ["SELECT FROM", "DELETE FROM", "TRUNCATE"].map(|verb| format!("{verb} {table}"));
        for statement in statements.into_iter().chain([format!("UPDATE {table} SET actor = 'nobody'")]) {
            let error = gateway.batch_execute(&statement).await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), "42501", "{statement}");
        }
        let schema = table.split('.').next().unwrap();
        let old = format!(
            "INSERT INTO {table} (at, id, actor, action, target)
             SELECT now() - days * interval '1 day', gen_random_uuid(), 'trimmed', 'leave', 'room 2'
               FROM unnest(ARRAY[1, 29, 31]) AS days"
        );
        gateway.batch_execute(&old).await.unwrap();
        // The last 30 days stay at every request.
        gateway.batch_execute(&format!("SELECT {schema}.audit_trim(interval '0', 1000)")).await.unwrap();
        let left = format!("SELECT count(*) FROM {table} WHERE actor = 'trimmed'");
        assert_eq!(admin.query_one(&left, &[]).await.unwrap().get::<_, i64>(0), 2, "{table}");
    }
    notes_older_than_the_configured_age_are_trimmed(world).await;
}

/// By the janitor, which trims by `jobs.audit_keep_ms`.
async fn notes_older_than_the_configured_age_are_trimmed(world: &World) {
    let admins = world.primaries().await;
    for table in ["audit", "directory.audit"] {
        let admin = &admins[0];
        let insert = format!(
            "INSERT INTO {table} (at, id, actor, action, target)
             SELECT now() - days * interval '1 day', gen_random_uuid(), 'aged', 'leave', 'room 3'
               FROM unnest(ARRAY[399, 401]) AS days"
        );
        admin.batch_execute(&insert).await.unwrap();
        let count = format!("SELECT count(*) FROM {table} WHERE actor = 'aged'");
        let since = Stopwatch::start();
        loop {
            match admin.query_one(&count, &[]).await.unwrap().get::<_, i64>(0) {
                2 => assert!(since.elapsed() < Duration::from_secs(60), "{table} is trimmed"),
                left => break assert_eq!(left, 1, "{table}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
