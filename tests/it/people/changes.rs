//! A room is changed and archived by its owners.

use std::time::Duration;

use roomgate::dev::{Answer, Options};
use serde_json::{Value, json};

use crate::client::rect;
use crate::stopwatch::Stopwatch;
use crate::world::{Person, World, refused};

fn wish(rest: Value) -> Value {
    let mut wish = json!({"slug": format!("change-{:016x}", rand::random::<u64>()), "schema": "open"});
    rest.as_object().unwrap().iter().for_each(|(key, value)| wish[key] = value.clone());
    wish
}

async fn room(world: &World, owner: &Person, rest: Value) -> Value {
    let made = world.api(owner).post("/v1/rooms", &wish(rest)).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    made.json()
}

async fn send(world: &World, person: &Person, method: &str, path: &str, body: Option<Value>) -> Answer {
    let body = body.map(|body| body.to_string());
    world.api(person).send(method.parse().unwrap(), path, body).await.unwrap()
}

fn path(room: &Value, rest: &str) -> String {
    format!("/v1/rooms/{}{rest}", room["room"])
}

async fn notes(world: &World, room: &Value) -> Vec<String> {
    let id = room["room"].as_u64().unwrap();
    let shard = &world.primaries().await[world.shard_of(id).await];
    let notes = "SELECT action FROM audit WHERE target = $1 ORDER BY at, id";
    let rows = shard.query(notes, &[&format!("room {id}")]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_change_is_a_merge_patch_and_is_seen_by_id_and_slug_on_every_node() {
    let world = World::shared();
    let olga = world.person("olga");
    let metadata = json!({"team": {"name": "blue", "size": 3}, "tags": [1, 2], "old": true});
    let made = room(world, &olga, json!({"name": "Before", "metadata": metadata})).await;
    let patch = json!({
        "name": "After <b>'; --",
        "metadata": {"team": {"size": null, "floor": 1.5}, "old": null, "tags": [3]},
        "default_role": "viewer",
        "retention_ms": 86_400_000,
    });
    let changed = send(world, &olga, "PATCH", &path(&made, ""), Some(patch)).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    let mut expected = made.clone();
    expected["name"] = json!("After <b>'; --");
    expected["metadata"] = json!({"team": {"name": "blue", "floor": 1.5}, "tags": [3]});
    expected["default_role"] = json!("viewer");
    expected["retention_ms"] = json!(86_400_000);
    let mut told = changed.json();
    assert!(told["updated_at"].as_u64() > made["updated_at"].as_u64(), "{told}");
    expected["updated_at"] = told["updated_at"].clone();
    assert_eq!(told, expected);
    for node in 0..3 {
        for name in [&made["slug"], &made["room"]] {
            let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
            let path = format!("/v1/rooms/{name}?freshness=primary");
            told = world.api_of(node, &olga).get(&path).await.unwrap().json();
            assert_eq!(told, expected, "node {node}, {name}");
        }
    }
    let reset = json!({"name": null, "metadata": null, "default_role": null, "retention_ms": null});
    let reset = send(world, &olga, "PATCH", &path(&made, ""), Some(reset)).await.json();
    for (field, value) in [
        ("name", made["slug"].clone()),
        ("metadata", json!({})),
        ("default_role", json!("editor")),
        ("retention_ms", Value::Null),
    ] {
        assert_eq!(reset[field], value, "{field}");
    }
    let nothing = send(world, &olga, "PATCH", &path(&made, ""), Some(json!({}))).await;
    assert_eq!((nothing.status.as_u16(), &nothing.json()["name"]), (200, &made["slug"]));
}

#[tokio::test]
async fn changes_that_are_none_and_those_of_others_are_refused_and_have_no_effect() {
    let world = World::shared();
    let [olga, bob] = ["olga", "bob"].map(|name| world.person(name));
    let made = room(world, &olga, json!({"metadata": {"x": "y".repeat(10_000)}})).await;
    for (patch, status, code) in [
        (json!({"slug": "another-slug"}), 400, "bad_message"),
        (json!({"slug": null}), 400, "bad_message"),
        (json!({"owner": bob.user}), 400, "bad_message"),
        (json!({"schema": "drawing"}), 400, "bad_message"),
        (json!({"name": ""}), 400, "bad_message"),
        (json!({"name": 7}), 400, "bad_message"),
        (json!({"metadata": [1]}), 400, "bad_message"),
        (json!({"metadata": {"z": "y".repeat(10_000)}}), 413, "too_large"),
        (json!({"access": "club"}), 400, "bad_message"),
        (json!({"access": "password"}), 400, "bad_message"),
        (json!({"access": "password", "password": null}), 400, "bad_message"),
        (json!({"access": "invite", "password": "long enough"}), 400, "bad_message"),
        (json!({"password": "short"}), 400, "bad_message"),
        (json!({"default_role": "owner"}), 400, "bad_message"),
        (json!({"retention_ms": -1}), 400, "bad_message"),
        (json!({"retention_ms": 1.5}), 400, "bad_message"),
    ] {
        refused(&send(world, &olga, "PATCH", &path(&made, ""), Some(patch)).await, status, code);
    }
    for method in ["PATCH", "DELETE"] {
        let body = (method == "PATCH").then(|| json!({"name": "Mine"}));
        refused(&send(world, &bob, method, &path(&made, ""), body).await, 403, "forbidden");
    }
    let now = world.api(&olga).get(&path(&made, "?freshness=primary")).await.unwrap().json();
    assert_eq!(now, made);
    assert!(notes(world, &made).await.is_empty());
}

#[tokio::test]
async fn a_new_door_or_password_is_for_newcomers_and_members_stay() {
    let world = World::shared();
    let [olga, bob] = ["olga", "bob"].map(|name| world.person(name));
    let made = room(world, &olga, json!({"password": "open sesame"})).await;
    let change = async |patch: Value| {
        let answer = send(world, &olga, "PATCH", &path(&made, ""), Some(patch)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(!answer.text.contains("argon2"), "{}", answer.text);
        answer.json()
    };
    let enter = async |person: &Person, password: &str| {
        let body = json!({"password": password});
        send(world, person, "PUT", &path(&made, "/members/me"), Some(body)).await
    };
    assert_eq!(enter(&bob, "open sesame").await.status, 200);
    assert_eq!(change(json!({"password": "open barley"})).await["has_password"], true);
    refused(&enter(&world.person("late"), "open sesame").await, 403, "bad_password");
    assert_eq!(enter(&world.person("new"), "open barley").await.status, 200);
    let closed = change(json!({"access": "invite"})).await;
    assert_eq!((&closed["access"], &closed["has_password"]), (&json!("invite"), &json!(false)));
    // A door may rest on an answer that is a second old; nobody becomes a member by it.
    refused(&enter(&world.person("late"), "open barley").await, 403, "forbidden");
    assert_eq!(enter(&bob, "").await.status, 200, "a member");
    assert_eq!(change(json!({"password": "open rice"})).await["access"], "password");
    let open = change(json!({"password": null})).await;
    assert_eq!((&open["access"], &open["has_password"]), (&json!("public"), &json!(false)));
    assert_eq!(enter(&world.person("guest"), "").await.status, 200);
    assert_eq!(change(json!({"name": "Ours"})).await["access"], "public");
    assert_eq!(notes(world, &made).await, ["access", "access", "access", "access"]);
}

#[tokio::test]
async fn an_archived_room_takes_nothing_and_is_entered_by_nobody() {
    let world = World::shared();
    let [olga, bob] = ["olga", "bob"].map(|name| world.person(name));
    let made = room(world, &olga, json!({})).await;
    let slug = made["slug"].as_str().unwrap();
    for _ in 0..2 {
        assert_eq!(send(world, &olga, "DELETE", &format!("/v1/rooms/{slug}"), None).await.status, 204);
    }
    assert_eq!(notes(world, &made).await, ["archive"]);
    let role = json!({"role": "editor"});
    for (method, rest, body) in [
        ("PATCH", "", Some(json!({"name": "New"}))),
        ("PUT", "/members/me", None),
        ("PUT", "/members/somebody", Some(role.clone())),
        ("POST", "/invites", Some(role)),
    ] {
        refused(&send(world, &olga, method, &path(&made, rest), body).await, 410, "room_archived");
    }
    for node in 0..3 {
        let archived = Stopwatch::start();
        for by in [slug, &made["room"].to_string()] {
            loop {
                let events = format!("/v1/rooms/{by}/events");
                let answer = world.api_of(node, &bob).get(&events).await.unwrap();
                if answer.status != 200 {
                    break refused(&answer, 410, "room_archived");
                }
                assert!(archived.elapsed() < Duration::from_secs(5), "node {node}, {by}");
            }
        }
        let mut client = world.client(node, &bob).await;
        let error = client.refused(&json!({"type": "join", "slug": slug}).to_string()).await;
        assert_eq!(error["code"], "room_archived", "{error}");
        // That it was, and is archived, may be known.
        let known = world.api_of(node, &bob).get(&format!("/v1/rooms/{slug}")).await.unwrap();
        assert!(known.json()["archived_at"].is_u64(), "{}", known.text);
    }
}

#[tokio::test]
async fn an_owner_opens_an_archived_room_again() {
    let world = World::shared();
    let [olga, bob, eve] = ["olga", "bob", "eve"].map(|name| world.person(name));
    let made = room(world, &olga, json!({})).await;
    let id = made["room"].as_u64().unwrap();
    let mut drawing = world.client(0, &bob).await;
    drawing.join(id).await;
    let ack = drawing.submit(id, "op-1", &json!({"kind": "shape.add", "shape": rect("a", 1)})).await;
    assert_eq!(ack["type"], "ack", "{ack}");
    let here = path(&made, "");
    assert_eq!(send(world, &olga, "DELETE", &here, None).await.status, 204);
    drawing.wait(|message| message["code"] == "room_archived").await;
    let open = json!({"archived": false});
    for person in [&bob, &eve] {
        refused(&send(world, person, "PATCH", &here, Some(open.clone())).await, 403, "forbidden");
    }
    let again = send(world, &olga, "PATCH", &here, Some(json!({"archived": true}))).await;
    refused(&again, 400, "bad_message");
    for _ in 0..2 {
        let opened = send(world, &olga, "PATCH", &here, Some(open.clone())).await;
        assert_eq!(
            (opened.status.as_u16(), &opened.json()["archived_at"]),
            (200, &json!(null)),
            "{}",
            opened.text
        );
    }
    assert_eq!(notes(world, &made).await, ["archive", "unarchive"]);
    for node in 0..3 {
        let mut client = world.client(node, &bob).await;
        client.join(id).await;
        client.catches_up(id, ack["seq"].as_u64().unwrap()).await;
        assert!(client.rooms[&id].shapes.contains_key("a"), "node {node} lost the drawing");
        let op = format!("op-again-{node}");
        let ack = client.submit(id, &op, &json!({"kind": "message", "data": 1})).await;
        assert_eq!(ack["type"], "ack", "{ack}");
    }
}

/// What nodes keep of rooms: names, states, who may read.
#[tokio::test]
async fn no_node_goes_on_with_what_it_knew_of_a_room_for_long_with_redis_and_without() {
    let world = World::start(|options| Options { nodes: 2, shards: 1, replicas: 1, ..options }).await;
    let [olga, bob] = ["olga", "bob"].map(|name| world.person(name));
    for redis in [true, false] {
        let made = room(&world, &olga, json!({})).await;
        if !redis {
            world.cluster().redis().service().kill_for_good().await;
        }
        let by_slug = format!("/v1/rooms/{}", made["slug"].as_str().unwrap());
        let mut clients = [world.client(0, &bob).await, world.client(1, &bob).await];
        for (node, client) in clients.iter_mut().enumerate() {
            client.ask(&json!({"type": "join", "slug": made["slug"]}), "joined").await;
            let read = world.api_of(node, &bob).get(&format!("{by_slug}/shapes")).await.unwrap();
            assert_eq!(read.status, 200, "{}", read.text);
        }
        let until = async |what: &str, is_so: &dyn Fn(&Answer) -> bool, rest: &str| {
            let since = Stopwatch::start();
            for node in 0..2 {
                while !is_so(&world.api_of(node, &bob).get(&format!("{by_slug}{rest}")).await.unwrap()) {
                    assert!(since.elapsed() < Duration::from_secs(5), "node {node} doesn't know: {what}");
                }
            }
        };
        send(&world, &olga, "PATCH", &by_slug, Some(json!({"name": "New"}))).await;
        until("the name", &|answer| answer.json()["name"] == "New", "").await;
        send(&world, &olga, "PATCH", &by_slug, Some(json!({"access": "invite"}))).await;
        until("the door", &|answer| answer.json()["error"]["code"] == "forbidden", "/shapes").await;
        send(&world, &olga, "PATCH", &by_slug, Some(json!({"access": "public"}))).await;
        until("the door", &|answer| answer.status == 200, "/shapes").await;
        assert_eq!(send(&world, &olga, "DELETE", &by_slug, None).await.status, 204);
        until("the archive", &|answer| answer.json()["error"]["code"] == "room_archived", "/shapes").await;
    }
}
