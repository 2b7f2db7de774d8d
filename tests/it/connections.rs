//! More connections than a node takes.

use std::time::Duration;

use roomgate::dev::Options;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::session::small_world;
use crate::world::{Person, World};

const MOST: usize = 30;

async fn connect(world: &World) -> TcpStream {
    let url = world.cluster().nodes()[0].url();
    TcpStream::connect(url.trim_start_matches("http://")).await.unwrap()
}

/// Whether the node closes a new connection at once.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0; 1];
    let read = tokio::time::timeout(Duration::from_millis(500), stream.read(&mut byte)).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_at_once() {
    let world = small_world(|options| options.set("limits.connections", MOST)).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let mut silent = Vec::new();
    for _ in 0..2 * MOST {
        silent.push(connect(&world).await);
    }
    assert!(is_closed(silent.last_mut().unwrap()).await);
    let closed = world.counted_on(0, "roomgate_rate_limited_total", "action").await["connection"];
    assert!(closed >= MOST as f64, "{closed} closed");
    // A session that is there goes on, and so does what the pools do for it.
    let ack = client.submit(room, "op", &json!({"kind": "message", "data": 1})).await;
    assert_eq!(ack["type"], "ack", "{ack}");
    // Places come back with the end of their connections.
    drop(silent);
    let enters = async { while is_closed(&mut connect(&world).await).await {} };
    tokio::time::timeout(Duration::from_secs(10), enters).await.expect("there is a place");
}

/// Asks for a session from an address behind a balancer. Returns the answer's status and
/// the connection.
async fn session(world: &World, person: &Person, from: &str, room: Option<u64>) -> (u16, TcpStream) {
    let mut stream = connect(world).await;
    let what = match room {
        Some(room) => format!("GET /v1/rooms/{room}/live HTTP/1.1\r\nAuthorization: Bearer {}", person.token),
        None => "GET /v1/ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Protocol: roomgate.v1"
            .to_owned(),
    };
    let request = format!("{what}\r\nHost: localhost\r\nX-Forwarded-For: {from}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    (std::str::from_utf8(&status[9..]).unwrap().parse().unwrap(), stream)
}

#[tokio::test]
async fn sessions_behind_a_balancer_count_to_their_address() {
    let world = small_world(|options: Options| options.set("limits.connections_per_address", 2)).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    // Sessions of the first kind may still be closing: the second has its own addresses.
    for (kind, opened, net) in [(None, 101, "192.0.2"), (Some(room), 200, "198.51.100")] {
        let (one, another) = (format!("{net}.1"), format!("{net}.2"));
        let (status, first) = session(&world, &alice, &one, kind).await;
        assert_eq!(status, opened);
        let (status, _second) = session(&world, &alice, &one, kind).await;
        assert_eq!(status, opened);
        for other in [None, Some(room)] {
            assert_eq!(session(&world, &alice, &one, other).await.0, 429, "{other:?}");
        }
        let (status, _other) = session(&world, &alice, &another, kind).await;
        assert_eq!(status, opened);
        drop(first);
        let opens = async { while session(&world, &alice, &one, kind).await.0 != opened {} };
        tokio::time::timeout(Duration::from_secs(10), opens).await.expect("its place comes back");
    }
}
