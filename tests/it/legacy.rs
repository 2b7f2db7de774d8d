//! The drawing app's first protocol, in the same rooms as `roomgate.v1`.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::client::rect;
use crate::world::{Person, World};

const PATIENCE: Duration = Duration::from_secs(60);

/// A client of the drawing app as it was before there was a gateway.
pub struct OldClient {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl OldClient {
    pub async fn connect(world: &World, node: usize, path: &str, token: &str) -> Self {
        let node = world.cluster().nodes()[node].url().replacen("http", "ws", 1);
        let (socket, answer) =
            tokio_tungstenite::connect_async(format!("{node}{path}?token={token}")).await.unwrap();
        assert_eq!(answer.headers().get("Sec-WebSocket-Protocol"), None);
        Self { socket }
    }

    /// In the room when this returns: it has heard itself there.
    pub async fn joined(world: &World, node: usize, person: &Person, room: &Value) -> Self {
        let mut client = Self::connect(world, node, "/", &person.token).await;
        client.say(&json!({"type": "join_room", "roomId": room})).await;
        client.say(&json!({"type": "chat", "roomId": room, "message": "here"})).await;
        assert_eq!(client.hears().await, json!({"type": "chat", "message": "here", "roomId": room}));
        client
    }

    pub async fn say(&mut self, message: &Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    pub async fn draw(&mut self, room: &Value, shape: &Value) {
        let message = json!({ "shape": shape }).to_string();
        self.say(&json!({"type": "chat", "roomId": room, "message": message})).await;
    }

    /// The next message. One frame holds one, never an array.
    pub async fn hears(&mut self) -> Value {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("something is said") {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next message, with the JSON inside its text read.
    pub async fn hears_shape(&mut self) -> (Value, Value) {
        let chat = self.hears().await;
        assert_eq!(chat["type"], "chat", "{chat}");
        let inner: Value = serde_json::from_str(chat["message"].as_str().unwrap()).unwrap();
        (inner["shape"].clone(), chat["roomId"].clone())
    }
}

#[tokio::test]
async fn old_and_new_clients_share_a_room_across_nodes() {
    let world = World::shared();
    let (alice, bob) = (world.person("alice"), world.person("bob"));
    let room = world.room(&alice, "drawing").await;
    let name = json!(room.to_string());
    let mut new = world.client(1, &alice).await;
    new.join(room).await;
    let mut old = OldClient::joined(world, 0, &bob, &name).await;

    // What the new one does, the old one sees, whole.
    for (op, body) in [
        ("add", json!({"kind": "shape.add", "shape": rect("a", 1)})),
        ("add2", json!({"kind": "shape.add", "shape": rect("b", 2)})),
        (
            "move",
            json!({"kind": "shape.update", "shape_id": "a", "patch": {"x": 9, "label": {"bold": true}}}),
        ),
        ("put", json!({"kind": "shape.put", "shape": rect("b", 3)})),
        ("del", json!({"kind": "shape.delete", "shape_id": "b"})),
        ("say", json!({"kind": "message", "data": {"text": "hello"}})),
        ("add3", json!({"kind": "shape.add", "shape": rect("c", 4)})),
        ("clear", json!({"kind": "room.clear"})),
    ] {
        let ack = new.submit(room, op, &body).await;
        assert_eq!(ack["type"], "ack", "{ack}");
    }
    let mut moved = rect("a", 9);
    moved["label"] = json!({"bold": true});
    for shape in [rect("a", 1), rect("b", 2), moved, rect("b", 3)] {
        assert_eq!(old.hears_shape().await, (shape, name.clone()));
    }
    let deleted = |id: &str| json!({"type": "delete_shape", "shapeId": id, "roomId": name});
    assert_eq!(old.hears().await, deleted("b"));
    assert_eq!(old.hears().await, json!({"type": "chat", "message": "hello", "roomId": name}));
    assert_eq!(old.hears_shape().await.0, rect("c", 4));
    assert_eq!((old.hears().await, old.hears().await), (deleted("a"), deleted("c")));

    // What the old one does, both see.
    let mut circle = json!({"type": "circle", "x": 1.5, "y": 2, "radius": 3});
    old.draw(&name, &circle).await;
    let (drawn, _) = old.hears_shape().await;
    let id = drawn["id"].as_str().unwrap().to_owned();
    circle["id"] = json!(id);
    assert_eq!(drawn, circle);
    old.say(&json!({"type": "delete_shape", "roomId": name, "shapeId": id})).await;
    assert_eq!(old.hears().await, deleted(&id));
    old.draw(&name, &rect("mine", 7)).await;
    assert_eq!(old.hears_shape().await.0, rect("mine", 7));
    new.catches_up(room, 12).await;
    let kinds: Vec<_> = new.rooms[&room].seen.iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds[9..], [json!("shape.put"), json!("shape.delete"), json!("shape.put")]);
    assert_eq!(new.rooms[&room].shapes.keys().collect::<Vec<_>>(), ["mine"]);
}

#[tokio::test]
async fn an_old_client_that_comes_later_sees_changes_of_what_was_there() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut new = world.client(0, &alice).await;
    new.join(room).await;
    new.submit(room, "add", &json!({"kind": "shape.add", "shape": rect("a", 1)})).await;
    let mut old = OldClient::joined(world, 1, &alice, &json!(room)).await;
    new.submit(room, "move", &json!({"kind": "shape.update", "shape_id": "a", "patch": {"y": 5}})).await;
    let mut moved = rect("a", 1);
    moved["y"] = json!(5);
    assert_eq!(old.hears_shape().await, (moved, json!(room)));
}

#[tokio::test]
async fn a_repeated_delete_counts_as_done() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut old = OldClient::joined(world, 0, &alice, &json!(room)).await;
    old.draw(&json!(room), &rect("a", 1)).await;
    old.hears_shape().await;
    for _ in 0..2 {
        old.say(&json!({"type": "delete_shape", "roomId": room, "shapeId": "a"})).await;
        assert_eq!(old.hears().await, json!({"type": "delete_shape", "shapeId": "a", "roomId": room}));
    }
}

#[tokio::test]
async fn an_old_client_is_refused_in_its_own_words() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut old = OldClient::connect(world, 0, "/ws", &alice.token).await;
    for (message, code, name) in [
        (json!({"type": "chat", "roomId": room, "message": "hi"}), "not_joined", json!(room)),
        (
            json!({"type": "delete_shape", "roomId": room.to_string(), "shapeId": "a"}),
            "not_joined",
            json!(room.to_string()),
        ),
        (json!({"type": "join_room", "roomId": "12345"}), "room_unknown", json!("12345")),
        (json!({"type": "join_room", "roomId": "my room"}), "bad_message", Value::Null),
        (json!({"type": "submit"}), "unknown_type", Value::Null),
        (json!([{"type": "chat"}]), "bad_message", Value::Null),
    ] {
        old.say(&message).await;
        let error = old.hears().await;
        assert_eq!(
            (&error["type"], &error["code"], &error["roomId"]),
            (&json!("error"), &json!(code), &name),
            "{message}"
        );
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()));
    }
    old.say(&json!({"type": "join_room", "roomId": room})).await;
    old.draw(&json!(room), &json!({"type": "fish", "x": 1, "y": 1})).await;
    assert_eq!(old.hears().await["code"], "invalid_shape");
    old.draw(&json!(room), &rect("a", 1)).await;
    assert_eq!(old.hears_shape().await.0, rect("a", 1));
    old.say(&json!({"type": "leave_room", "room": room})).await;
    old.draw(&json!(room), &rect("a", 2)).await;
    assert_eq!(old.hears().await["code"], "not_joined");
}

#[tokio::test]
async fn an_old_client_with_a_bad_token_is_closed() {
    let world = World::shared();
    let mut old = OldClient::connect(world, 0, "/", "a.b.c").await;
    assert_eq!(old.hears().await["code"], "unauthenticated");
    match tokio::time::timeout(PATIENCE, old.socket.next()).await.unwrap() {
        Some(Ok(Message::Close(Some(close)))) => assert_eq!(u16::from(close.code), 4100),
        other => panic!("{other:?}"),
    }
}
