//! A change of who may be in a room, and as what, reaches the sessions that are
//! in it: on every node within 5 s, with Redis or without.
//!
//! Rights are changed by the room's owner over HTTP.

use std::time::Duration;

use roomgate::dev::Options;
use serde_json::{Value, json};

use crate::client::Client;
use crate::stopwatch::Stopwatch;
use crate::world::{Person, World};

/// The promise: a kick reaches every node within 5 s.
const PROMISED: Duration = Duration::from_secs(5);

/// Two nodes, and a replica for the periodic checks to read from.
async fn two_nodes() -> World {
    World::start(|options| Options { nodes: 2, shards: 1, replicas: 1, ..options }).await
}

async fn send(world: &World, person: &Person, method: &str, path: &str, body: Option<Value>) {
    let body = body.map(|body| body.to_string());
    let answer = world.api_of(0, person).send(method.parse().unwrap(), path, body).await.unwrap();
    assert!(answer.status.is_success(), "{}", answer.text);
}

/// The owner gives a role, or takes out whom they call `removed`.
async fn set_role(world: &World, owner: &Person, room: u64, person: &Person, role: &str) {
    let path = format!("/v1/rooms/{room}/members/{}", person.user);
    match role {
        "removed" => send(world, owner, "DELETE", &path, None).await,
        role => send(world, owner, "PUT", &path, Some(json!({"role": role}))).await,
    }
}

/// One session on each node.
async fn on_both(world: &World, person: &Person, room: u64) -> [Client; 2] {
    let mut clients = [world.client(0, person).await, world.client(1, person).await];
    for client in &mut clients {
        client.join(room).await;
    }
    clients
}

async fn is_in(client: &mut Client, room: u64, op: &str) {
    let ack = client.submit(room, op, &json!({"kind": "message", "data": op})).await;
    assert_eq!(ack["type"], "ack", "{ack}");
    client.catches_up(room, ack["seq"].as_u64().unwrap()).await;
}

#[tokio::test]
async fn who_is_removed_is_closed_on_every_node_within_5_s_with_redis_and_without() {
    let world = two_nodes().await;
    let [owner, bob, carol, dave] = ["owner", "bob", "carol", "dave"].map(|name| world.person(name));
    let room = world.room(&owner, "open").await;
    let mut stays = on_both(&world, &carol, room).await;
    let mut bobs = on_both(&world, &bob, room).await;
    let mut daves = on_both(&world, &dave, room).await;

    set_role(&world, &owner, room, &bob, "removed").await;
    closed_as_kicked(&mut bobs).await;
    for client in &mut stays {
        client.wait(|m| m["type"] == "presence" && m["count"] == 4).await;
    }

    world.cluster().redis().service().kill_for_good().await;
    set_role(&world, &owner, room, &dave, "removed").await;
    closed_as_kicked(&mut daves).await;
    let [near, far] = &mut stays;
    is_in(near, room, "near").await;
    is_in(far, room, "far").await;
    let mut again = world.client(1, &dave).await;
    let refused = again.refused(&json!({"type": "join", "room": room}).to_string()).await;
    assert_eq!(refused["code"], "forbidden", "{refused}");
}

async fn closed_as_kicked(clients: &mut [Client; 2]) {
    let removed = Stopwatch::start();
    for client in clients {
        assert_eq!(client.ends().await, Some(4102));
        let took = removed.elapsed();
        assert!(took < PROMISED, "{took:?}");
        assert_eq!(client.wait(|m| m["type"] == "goodbye").await["reason"], "kicked");
    }
}

#[tokio::test]
async fn a_demoted_editor_may_not_write_and_is_shown_as_a_viewer_within_5_s() {
    let world = two_nodes().await;
    let (owner, bob) = (world.person("owner"), world.person("bob"));
    let room = world.room(&owner, "open").await;
    let mut owners = on_both(&world, &owner, room).await;
    let mut demoted = world.client(1, &bob).await;
    demoted.join(room).await;
    is_in(&mut demoted, room, "as-editor").await;
    for client in &mut owners {
        let joined = client.wait(|m| presence_of(m, &bob).is_some()).await;
        assert_eq!(presence_of(&joined, &bob).unwrap()["role"], "editor");
    }

    set_role(&world, &owner, room, &bob, "viewer").await;
    let changed = Stopwatch::start();
    let reject = demoted.submit(room, "as-viewer", &json!({"kind": "message", "data": 1})).await;
    assert_eq!((&reject["type"], &reject["code"]), (&json!("reject"), &json!("forbidden")));
    for client in &mut owners {
        let told = client.wait(|m| presence_of(m, &bob).is_some()).await;
        assert_eq!(presence_of(&told, &bob).unwrap()["role"], "viewer");
        assert_eq!(told["count"], 3, "nobody came or went");
        let took = changed.elapsed();
        assert!(took < PROMISED, "{took:?}");
    }
    for node in 0..2 {
        let joined = world.client(node, &owner).await.join(room).await;
        let roles: Vec<_> = joined["members"].as_array().unwrap().iter().map(|m| &m["role"]).collect();
        assert_eq!(roles.iter().filter(|role| ***role == "viewer").count(), 1, "{joined}");
    }
    is_in(&mut owners[0], room, "by-owner").await;
    demoted.catches_up(room, owners[0].rooms[&room].seq).await;
}

/// The entry of a presence message that tells of a person.
fn presence_of<'a>(message: &'a Value, person: &Person) -> Option<&'a Value> {
    let joined = message["joined"].as_array().filter(|_| message["type"] == "presence")?;
    joined.iter().find(|member| member["user"] == person.user)
}

#[tokio::test]
async fn whom_a_closed_door_would_not_let_in_is_out_and_members_stay() {
    let world = two_nodes().await;
    let [owner, member, guest] = ["owner", "member", "guest"].map(|name| world.person(name));
    let room = world.room(&owner, "open").await;
    set_role(&world, &owner, room, &member, "editor").await;
    let mut stays = on_both(&world, &member, room).await;
    let mut guests = on_both(&world, &guest, room).await;
    let closed = Some(json!({"access": "invite"}));
    send(&world, &owner, "PATCH", &format!("/v1/rooms/{room}"), closed).await;
    closed_as_kicked(&mut guests).await;
    let [near, far] = &mut stays;
    is_in(near, room, "near").await;
    is_in(far, room, "far").await;
}

#[tokio::test]
async fn who_is_in_an_archived_room_is_told_and_out_of_it_within_5_s_with_redis_and_without() {
    let world = two_nodes().await;
    let (owner, guest) = (world.person("owner"), world.person("guest"));
    let rooms = [world.room(&owner, "open").await, world.room(&owner, "open").await];
    let stays = world.room(&owner, "open").await;
    let mut guests = on_both(&world, &guest, stays).await;
    for (n, room) in rooms.into_iter().enumerate() {
        for client in &mut guests {
            client.join(room).await;
        }
        is_in(&mut guests[0], room, "before").await;
        if n == 1 {
            world.cluster().redis().service().kill_for_good().await;
        }
        send(&world, &owner, "DELETE", &format!("/v1/rooms/{room}"), None).await;
        let archived = Stopwatch::start();
        for client in &mut guests {
            let told = client.wait(|m| m["type"] == "error").await;
            assert_eq!((&told["room"], &told["code"]), (&json!(room), &json!("room_archived")), "{told}");
            let took = archived.elapsed();
            assert!(took < PROMISED, "{took:?}");
            let reject = client.submit(room, "late", &json!({"kind": "message", "data": 1})).await;
            assert_eq!((&reject["type"], &reject["code"]), (&json!("reject"), &json!("room_archived")));
            let again = client.refused(&json!({"type": "join", "room": room}).to_string()).await;
            assert_eq!(again["code"], "room_archived", "{again}");
        }
        // Out of the room, not out of the gateway: it goes on in the others.
        is_in(&mut guests[0], stays, &format!("after-{n}")).await;
        let seq = guests[0].rooms[&stays].seq;
        guests[1].catches_up(stays, seq).await;
        // Without Redis a node takes a moment to forget whom it knew elsewhere.
        let api = world.api_of(1, &server(&world));
        loop {
            let here = api.get(&format!("/v1/rooms/{room}/presence")).await.unwrap();
            if here.json()["count"] == 0 {
                break;
            }
            assert!(archived.elapsed() < PROMISED, "{}", here.text);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn server(world: &World) -> Person {
    let claims = json!({"sub": "bot", "scope": "server", "exp": crate::world::now() + 600});
    Person { user: "bot".to_owned(), token: world.sign(&claims) }
}

#[tokio::test]
async fn who_takes_nothing_from_its_socket_is_closed_in_time_all_the_same() {
    let world = two_nodes().await;
    let (owner, bob) = (world.person("owner"), world.person("bob"));
    let room = world.room(&owner, "open").await;
    let mut stuck = world.client(1, &bob).await;
    stuck.join(room).await;
    let mut writer = world.client(1, &owner).await;
    writer.join(room).await;
    let text = "x".repeat(60_000);
    for n in 0..200 {
        // Twelve megabytes are more than two sockets hold.
        let ack = writer.submit(room, &format!("op{n}"), &json!({"kind": "message", "data": text})).await;
        assert_eq!(ack["type"], "ack", "{ack}");
    }
    set_role(&world, &owner, room, &bob, "removed").await;
    let removed = Stopwatch::start();
    while !world.counted("roomgate_disconnects_total", "code").await.contains_key("4102") {
        let took = removed.elapsed();
        assert!(took < PROMISED, "{took:?}");
        writer.ask(&json!({"type": "ping"}), "pong").await;
    }
    drop(stuck);
}
