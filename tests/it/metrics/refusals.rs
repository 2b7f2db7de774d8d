//! No, in every way in which a client can be told so.

use roomgate::dev::{Api, connect};
use serde_json::{Value, json};

use super::submits::on_event;
use super::watch::Watch;
use crate::client::{Client, rect, submit};
use crate::session::small_world;
use crate::world::{Person, World, now};

pub const REFUSALS: &[&str] = &[
    "roomgate_rejects_total{code=\"bad_json\"}",
    "roomgate_rejects_total{code=\"bad_message\"}",
    "roomgate_rejects_total{code=\"too_large\"}",
    "roomgate_rejects_total{code=\"too_deep\"}",
    "roomgate_rejects_total{code=\"unknown_type\"}",
    "roomgate_rejects_total{code=\"unauthenticated\"}",
    "roomgate_rejects_total{code=\"token_expired\"}",
    "roomgate_rejects_total{code=\"forbidden\"}",
    "roomgate_rejects_total{code=\"password_required\"}",
    "roomgate_rejects_total{code=\"bad_password\"}",
    "roomgate_rejects_total{code=\"not_joined\"}",
    "roomgate_rejects_total{code=\"room_unknown\"}",
    "roomgate_rejects_total{code=\"room_archived\"}",
    "roomgate_rejects_total{code=\"op_reused\"}",
    "roomgate_rejects_total{code=\"shape_exists\"}",
    "roomgate_rejects_total{code=\"shape_unknown\"}",
    "roomgate_rejects_total{code=\"shape_deleted\"}",
    "roomgate_rejects_total{code=\"version_conflict\"}",
    "roomgate_rejects_total{code=\"invalid_shape\"}",
    "roomgate_rejects_total{code=\"read_only\"}",
    "roomgate_rejects_total{code=\"shard_unavailable\"}",
    "roomgate_rejects_total{code=\"overloaded\"}",
    "roomgate_rejects_total{code=\"unavailable\"}",
    "roomgate_rejects_total{code=\"email_taken\"}",
    "roomgate_rejects_total{code=\"slug_taken\"}",
    "roomgate_rejects_total{code=\"not_found\"}",
    "roomgate_rejects_total{code=\"position_lost\"}",
    "roomgate_rejects_total{code=\"ahead_of_log\"}",
    "roomgate_rejects_total{code=\"cursor_expired\"}",
    "roomgate_rejects_total{code=\"idempotency_mismatch\"}",
    "roomgate_rejects_total{code=\"internal\"}",
    "roomgate_submits_total{outcome=\"refused\"}",
    "http_requests_total",
    "http_request_duration_seconds",
];

#[tokio::test]
async fn every_refusal_is_counted_over_sockets_and_http() {
    let world = small_world(|options| {
        let one = options.set("writes.lanes", 1).set("writes.batch_max", 1).set("writes.lane_queue", 2);
        one.set("writes.failover_wait_ms", 4000)
    })
    .await;
    let watch = Watch::of(&world.cluster().nodes()[0]);
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    frames(&world, &watch, &alice, room).await;
    doors(&world, &watch, &alice, room).await;
    shapes(&world, &watch, &alice, room).await;
    databases(&world, &watch, &alice, room).await;
    requests(&world, &watch, &alice, room).await;
    watch.all(REFUSALS);
}

/// The series of one code.
fn told(code: &str) -> [&'static str; 1] {
    let series = format!("roomgate_rejects_total{{code=\"{code}\"}}");
    let listed = REFUSALS.iter().find(|listed| **listed == series);
    [listed.unwrap_or_else(|| panic!("{series} is not listed"))]
}

async fn frames(world: &World, watch: &Watch<'_>, alice: &Person, room: u64) {
    let bob = world.person("bob");
    let mut silent = Client::silent(&watch.node.url(), alice).await;
    let join = json!({"type": "join", "room": room}).to_string();
    watch.moves(&told("unauthenticated"), silent.refused(&join)).await;
    let mut client = world.client(0, alice).await;
    let deep = format!(r#"{{"type":"ping","t":{}1{}}}"#, "[".repeat(40), "]".repeat(40));
    let large = json!({"type": "ping", "t": "x".repeat(66_000)}).to_string();
    let foreign = json!({"type": "refresh", "token": bob.token}).to_string();
    let expired = world.sign(&json!({"sub": alice.user, "exp": now() - 100}));
    let expired = json!({"type": "refresh", "token": expired}).to_string();
    let signal = json!({"type": "signal", "room": room, "data": 1}).to_string();
    let nowhere = json!({"type": "join", "room": 1}).to_string();
    for (code, frame) in [
        ("bad_json", "{"),
        ("bad_message", r#"{"type":"join"}"#),
        ("unknown_type", r#"{"type":"x"}"#),
        ("too_deep", &deep),
        ("too_large", &large),
        ("forbidden", &foreign),
        ("token_expired", &expired),
        ("not_joined", &signal),
        ("room_unknown", &nowhere),
    ] {
        let refused = watch.moves(&told(code), client.refused(frame)).await;
        assert_eq!(refused["code"], code, "{refused}");
    }
}

async fn doors(world: &World, watch: &Watch<'_>, alice: &Person, room: u64) {
    let (bob, api) = (world.person("bob"), world.api(alice));
    let wish = json!({"slug": "locked", "schema": "open", "password": "open sesame"});
    let locked = api.post("/v1/rooms", &wish).await.unwrap().json()["room"].as_u64().unwrap();
    let archived = world.room(alice, "open").await;
    let end = api.send("DELETE".parse().unwrap(), &format!("/v1/rooms/{archived}"), None).await;
    assert!(end.as_ref().unwrap().status.is_success(), "{end:?}");
    let mut client = world.client(0, &bob).await;
    for (code, join) in [
        ("password_required", json!({"type": "join", "room": locked})),
        ("bad_password", json!({"type": "join", "room": locked, "password": "open barley"})),
        ("room_archived", json!({"type": "join", "room": archived})),
    ] {
        let refused = watch.moves(&told(code), client.refused(&join.to_string())).await;
        assert_eq!(refused["code"], code, "{refused}");
    }
    client.join(room).await;
    // A submit that no lane ever sees.
    let refused = ["roomgate_submits_total{outcome=\"refused\"}", told("not_joined")[0]];
    watch.moves(&refused, client.submit(locked, "op", &json!({"kind": "message", "data": 1}))).await;
}

async fn shapes(world: &World, watch: &Watch<'_>, alice: &Person, room: u64) {
    let mut client = world.client(0, alice).await;
    client.join(room).await;
    let add = |id: &str, x| json!({"kind": "shape.add", "shape": rect(id, x)});
    let delete = |id: &str| json!({"kind": "shape.delete", "shape_id": id});
    for (op, body) in [("1", add("a", 1)), ("2", add("b", 1)), ("3", delete("b"))] {
        assert_eq!(client.submit(room, op, &body).await["type"], "ack");
    }
    let stale = json!({"kind": "shape.update", "shape_id": "a", "base": 9, "patch": {"x": 1}});
    let unfit = json!({"kind": "shape.add", "shape": {"id": "c", "type": "rect", "x": "left"}});
    let changed = json!({"kind": "shape.put", "shape": rect("b", 2)});
    for (code, op, body) in [
        ("op_reused", "1", add("a", 2)),
        ("shape_exists", "4", add("a", 1)),
        ("shape_unknown", "5", delete("nobody")),
        ("shape_deleted", "6", changed),
        ("version_conflict", "7", stale),
        ("invalid_shape", "8", unfit),
    ] {
        let refused = watch.moves(&told(code), client.submit(room, op, &body)).await;
        assert_eq!(refused["code"], code, "{refused}");
    }
}

async fn databases(world: &World, watch: &Watch<'_>, alice: &Person, room: u64) {
    let dsn = world.cluster().shards()[0].primary().admin_dsn();
    let (admin, other) = (connect(&dsn).await.unwrap(), connect(&dsn).await.unwrap());
    let says = json!({"kind": "message", "data": 1});
    let room_api = format!("/v1/rooms/{room}/events");
    let mut client = world.client(0, alice).await;
    client.join(room).await;
    on_event(&admin, "culprit", "PERFORM 1 / 0").await;
    watch.moves(&told("internal"), client.submit(room, "culprit", &says)).await;
    admin.batch_execute("UPDATE shard_claim SET timeline = 9").await.unwrap();
    watch.moves(&told("read_only"), client.submit(room, "unclaimed", &says)).await;
    admin.batch_execute("UPDATE shard_claim SET timeline = 1").await.unwrap();

    // While somebody holds the room, submits to it wait, and more fill the lane.
    let hold = format!("BEGIN; SELECT FROM room_head WHERE room_id = {room} FOR UPDATE");
    other.batch_execute(&hold).await.unwrap();
    let waiting = [told("shard_unavailable")[0], told("overloaded")[0]];
    let many = async {
        let put = |n: usize| submit(room, &format!("held-{n}"), &says);
        client.send(&Value::Array((0..20).map(put).collect())).await;
        for n in 0..20 {
            assert_eq!(client.answer(room, &format!("held-{n}")).await["type"], "reject");
        }
    };
    watch.moves(&waiting, many).await;
    let item = |n: usize| json!({"op": format!("http-{n}"), "kind": "message", "data": 1});
    let items = json!({"items": (0..20).map(item).collect::<Vec<_>>()});
    let refused = ["roomgate_submits_total{outcome=\"refused\"}", told("overloaded")[0]];
    watch.moves(&refused, world.api(alice).post(&room_api, &items)).await.unwrap();
    other.batch_execute("ROLLBACK").await.unwrap();

    admin.batch_execute("BEGIN; LOCK TABLE shape IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let read = async {
        let shapes = format!("/v1/rooms/{room}/shapes?freshness=primary");
        let answer = world.api(alice).get(&shapes).await.unwrap();
        assert_eq!(answer.json()["error"]["code"], "unavailable", "{}", answer.text);
    };
    watch.moves(&told("unavailable"), read).await;
    admin.batch_execute("ROLLBACK").await.unwrap();
}

async fn requests(world: &World, watch: &Watch<'_>, alice: &Person, room: u64) {
    let api = world.api(alice);
    let sign_up = json!({"email": "ann@example.test", "password": "correct horse", "name": "Ann"});
    let wish = json!({"slug": "taken", "schema": "open"});
    let (seen, again) = (&sign_up, &wish);
    for (path, body) in [("/v1/signup", seen), ("/v1/rooms", again)] {
        assert_eq!(api.post(path, body).await.unwrap().status, 201);
    }
    let answered = ["http_requests_total", "http_request_duration_seconds"];
    watch.moves(&answered, api.get("/v1/me")).await.unwrap();
    watch.moves(&told("email_taken"), api.post("/v1/signup", seen)).await.unwrap();
    watch.moves(&told("slug_taken"), api.post("/v1/rooms", again)).await.unwrap();
    let once = Api::new(&watch.node.url()).signed_in(&alice.token).with("Idempotency-Key", "once");
    let first = once.post("/v1/rooms", &json!({"slug": "first", "schema": "open"})).await.unwrap();
    assert_eq!(first.status, 201, "{}", first.text);
    let second = json!({"slug": "second", "schema": "open"});
    watch.moves(&told("idempotency_mismatch"), once.post("/v1/rooms", &second)).await.unwrap();
    let room = format!("/v1/rooms/{room}");
    for (code, path) in [
        ("not_found", "/v1/nothing".to_owned()),
        ("bad_message", format!("{room}/events?after=x")),
        ("position_lost", format!("{room}/events?min_seq=1.1")),
        ("ahead_of_log", format!("{room}/events?min_seq=1.999999")),
        ("cursor_expired", format!("{room}/shapes?cursor=1.1.0.61")),
    ] {
        let answer = watch.moves(&told(code), api.get(&path)).await.unwrap();
        assert_eq!(answer.json()["error"]["code"], code, "{}", answer.text);
    }
}
