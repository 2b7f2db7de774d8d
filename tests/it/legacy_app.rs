//! The drawing app as its documents have it: its REST calls, and the shapes it
//! stores, in rooms that other clients use too.

use roomgate::dev::{Api, Options};
use serde_json::{Value, json};

use crate::client::rect;
use crate::legacy::OldClient;
use crate::world::{Person, World, refused};

/// Without a token.
fn app(world: &World, node: usize) -> Api {
    Api::new(&world.cluster().nodes()[node].url())
}

/// The shapes in the messages of `GET /chats/{room}`, asked as the app asks.
async fn chats(world: &World, node: usize, token: &str, room: &Value) -> Vec<Value> {
    let api = app(world, node).with("authorization", token);
    let answer = api.get(&format!("/chats/{room}?freshness=primary")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    let read = |message: &Value| {
        let text = message["message"].as_str().unwrap();
        serde_json::from_str::<Value>(text).unwrap()["shape"].clone()
    };
    answer.json()["messages"].as_array().unwrap().iter().map(read).collect()
}

#[tokio::test]
async fn the_app_signs_up_makes_a_room_and_draws() {
    let world = World::shared();
    let number = rand::random::<u64>();
    let (email, password) = (format!("app-{number:x}@example.test"), "correct horse");
    let signup = json!({"email": email, "password": password, "name": "Ann"});
    let signed_up = app(world, 0).post("/signup", &signup).await.unwrap();
    assert_eq!(signed_up.status, 201, "{}", signed_up.text);
    let user = signed_up.json()["userId"].clone();
    assert!(user.is_string() && signed_up.json()["token"].is_string(), "{}", signed_up.text);
    refused(&app(world, 0).post("/signup", &signup).await.unwrap(), 409, "email_taken");

    let credentials = json!({"username": email, "password": password});
    let signed_in = app(world, 1).post("/signin", &credentials).await.unwrap();
    assert_eq!((signed_in.status.as_u16(), &signed_in.json()["userId"]), (200, &user), "{}", signed_in.text);
    let token = signed_in.json()["token"].as_str().unwrap().to_owned();
    let wrong = json!({"username": email, "password": "wrong horse"});
    refused(&app(world, 1).post("/signin", &wrong).await.unwrap(), 401, "unauthenticated");

    let name = format!("My Room {number:x}");
    refused(&app(world, 0).post("/room", &json!({"name": name})).await.unwrap(), 401, "unauthenticated");
    let api = app(world, 0).with("authorization", &token);
    let made = api.post("/room", &json!({"name": name})).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    let room = made.json()["roomId"].clone();
    assert_eq!(made.json()["adminId"], user);
    refused(&api.post("/room", &json!({"name": name})).await.unwrap(), 409, "slug_taken");
    refused(&api.post("/room", &json!({})).await.unwrap(), 400, "bad_message");
    for called in [format!("my-room-{number:x}"), format!("My%20Room%20{number:x}"), room.to_string()] {
        let found = api.get(&format!("/room/{called}?freshness=primary")).await.unwrap();
        let found = found.json()["room"].clone();
        assert_eq!((&found["id"], &found["adminId"]), (&room, &user), "{called}: {found}");
        assert_eq!(found["name"], name.as_str());
    }
    refused(&api.get("/room/nowhere-at-all").await.unwrap(), 404, "room_unknown");

    assert_eq!(chats(world, 2, &token, &room).await, [] as [Value; 0]);
    let ann = Person { user: user.as_str().unwrap().to_owned(), token: token.clone() };
    let mut client = OldClient::joined(world, 1, &ann, &room).await;
    client.draw(&room, &rect("mine", 7)).await;
    assert_eq!(client.hears_shape().await.0, rect("mine", 7));
    assert_eq!(chats(world, 0, &token, &room).await, [rect("mine", 7)]);
}

/// Each kind that the app draws, as it stores it, and in the schema's form.
fn forms() -> Vec<(Value, Value)> {
    let form = |id: &str, app: Value, schema: Value| {
        let with_id = |mut shape: Value, added: &Value| {
            shape["id"] = json!(id);
            shape.as_object_mut().unwrap().extend(added.as_object().unwrap().clone());
            shape
        };
        (with_id(app.clone(), &json!({})), with_id(app, &schema))
    };
    vec![
        form("rect", json!({"type": "rect", "x": 1, "y": 2, "width": 3, "height": 4}), json!({})),
        form("text", json!({"type": "text", "x": 1, "y": 2, "text": "hello"}), json!({})),
        form("circle", json!({"type": "circle", "x": 1, "y": 2, "radius": 3}), json!({})),
        form("bare circle", json!({"type": "circle", "x": 1, "y": 2}), json!({"radius": 0.0})),
        form(
            "boxed circle",
            json!({"type": "circle", "x": 1, "y": 2, "width": 6, "height": -8}),
            json!({"radius": 4.0}),
        ),
        form(
            "centred circle",
            json!({"type": "circle", "centerX": 1, "centerY": 2, "radius": 3}),
            json!({"x": 1, "y": 2}),
        ),
        form("pairs", json!({"type": "pencil", "points": [[1, 2], [3, 4]]}), json!({})),
        form(
            "pencil",
            json!({"type": "pencil", "points": [{"x": 1, "y": 2}, {"x": 3.5, "y": -4}]}),
            json!({"points": [[1, 2], [3.5, -4]]}),
        ),
        form(
            "pressed pencil",
            json!({"type": "pencil", "points": [{"x": 1, "y": 2, "pressure": 0.5}]}),
            json!({"points": [[1, 2]]}),
        ),
        form(
            "straight pencil",
            json!({"type": "pencil", "startX": 1, "startY": 2, "endX": 3, "endY": 4}),
            json!({"points": [[1, 2], [3, 4]]}),
        ),
        form(
            "line",
            json!({"type": "line", "startX": 1, "startY": 2, "endX": 3, "endY": 4}),
            json!({"x": 1, "y": 2, "x2": 3, "y2": 4}),
        ),
        form(
            "arrow",
            json!({"type": "arrow", "points": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}),
            json!({"points": [[1, 2], [3, 4]]}),
        ),
    ]
}

fn without_form(shape: &Value) -> Value {
    let mut shape = shape.clone();
    shape.as_object_mut().unwrap().remove("app_form");
    shape
}

#[tokio::test]
async fn every_form_of_the_app_is_drawn_for_both_kinds_of_client() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "drawing").await;
    let name = json!(room);
    let mut new = world.client(1, &alice).await;
    new.join(room).await;
    let mut draws = OldClient::joined(world, 0, &bob, &name).await;
    let mut sees = OldClient::joined(world, 2, &alice, &name).await;
    draws.hears().await;
    for (app, _) in forms() {
        draws.draw(&name, &app).await;
        for client in [&mut draws, &mut sees] {
            assert_eq!(client.hears_shape().await.0, app, "the app sees it as it was sent");
        }
    }
    let said = 2;
    new.catches_up(room, said + forms().len() as u64).await;
    for (app, schema) in forms() {
        let (_, stored) = &new.rooms[&room].shapes[app["id"].as_str().unwrap()];
        assert_eq!(without_form(stored), schema, "other clients see the schema's form");
    }
    let drawn: Vec<Value> = forms().into_iter().map(|(app, _)| app).collect();
    assert_eq!(chats(world, 1, &bob.token, &name).await, drawn);

    // Other clients change it by the schema, and the app sees that in its form.
    for (id, patch) in [("boxed circle", json!({"radius": 5})), ("pencil", json!({"points": [[7, 8]]}))] {
        let update = json!({"kind": "shape.update", "shape_id": id, "patch": patch});
        assert_eq!(new.submit(room, id.split(' ').next().unwrap(), &update).await["type"], "ack");
    }
    let circle =
        json!({"id": "boxed circle", "type": "circle", "x": 1, "y": 2, "width": 10.0, "height": 10.0});
    let pencil = json!({"id": "pencil", "type": "pencil", "points": [{"x": 7, "y": 8}]});
    for shape in [circle, pencil] {
        assert_eq!(sees.hears_shape().await.0, shape);
    }
    // They are held to the schema, as ever.
    for (op, (app, schema)) in forms().into_iter().enumerate().filter(|(_, (app, schema))| app != schema) {
        let put = json!({"kind": "shape.put", "shape": app});
        let answer = new.submit(room, &format!("strict-{op}"), &put).await;
        assert_eq!(answer["code"], "invalid_shape", "{schema}: {answer}");
    }
}

fn lines() -> String {
    forms().iter().map(|(app, _)| format!("{app}\n")).collect()
}

async fn import(api: &Api, room: u64) -> Value {
    let api = api.clone().with("content-type", "application/x-ndjson");
    let path = format!("/v1/rooms/{room}/import?op=stored");
    let answer = api.send("POST".parse().unwrap(), &path, Some(lines())).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

#[tokio::test]
async fn every_form_that_the_app_stored_is_imported() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let done = import(&world.api_of(0, &alice), room).await;
    assert_eq!((&done["imported"], &done["rejected"]), (&json!(forms().len()), &json!([])), "{done}");
    let drawn: Vec<Value> = forms().into_iter().map(|(app, _)| app).collect();
    assert_eq!(chats(world, 1, &alice.token, &json!(room)).await, drawn);
    let mut new = world.client(2, &alice).await;
    new.join(room).await;
    new.catches_up(room, drawn.len() as u64).await;
    for (app, schema) in forms() {
        let (_, stored) = &new.rooms[&room].shapes[app["id"].as_str().unwrap()];
        assert_eq!(without_form(stored), schema);
    }
}

#[tokio::test]
async fn without_legacy_mode_the_app_is_unknown() {
    let world = World::start(|options| {
        let options = options.set("listen.legacy_protocol", "false");
        Options { shards: 1, replicas: 0, nodes: 1, ..options }
    })
    .await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let api = world.api(&alice);
    for path in ["/signup", "/signin", "/room"] {
        refused(&api.post(path, &json!({})).await.unwrap(), 404, "not_found");
    }
    for path in ["/room/demo".to_owned(), format!("/chats/{room}")] {
        refused(&api.get(&path).await.unwrap(), 404, "not_found");
    }
    let done = import(&api, room).await;
    let strict = forms().iter().filter(|(app, schema)| app == schema).count();
    assert_eq!(done["imported"], strict, "{done}");
}
