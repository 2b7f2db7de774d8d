//! Clients that end their side of the connection once they have asked, as `nc -N`
//! does.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::server::address;
use crate::client::rect;
use crate::convergence::{FROM_PRIMARY, whole_log};
use crate::stopwatch::Stopwatch;
use crate::world::{Person, World};

/// The answer to `request`, after which the client ends its side.
async fn last_words(address: &str, request: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(60), tcp.read_to_string(&mut answer)).await;
    read.expect("the server closes").unwrap();
    answer
}

fn head(person: &Person, request_line: &str, headers: &str) -> String {
    format!("{request_line}\r\nHost: gate.test\r\nAuthorization: Bearer {}\r\n{headers}\r\n", person.token)
}

fn with_body(person: &Person, request_line: &str, media_type: &str, body: &str) -> String {
    let headers = format!("Content-Type: {media_type}\r\nContent-Length: {}\r\n", body.len());
    head(person, request_line, &headers) + body
}

#[tokio::test]
async fn a_half_closed_client_gets_its_answer_and_its_effect() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let at = |rest: &str| format!("/v1/rooms/{room}{rest} HTTP/1.1");
    let submit =
        json!({"items": [{"op": "posted", "kind": "shape.add", "shape": rect("posted", 1)}]}).to_string();
    let lines: String = (0..3000).map(|n| format!("{}\n", rect(&format!("i{n}"), n))).collect();
    let password = json!({"email": "nobody@x.test", "password": "correct horse"}).to_string();
    let chunked = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let message = json!({"items": [{"op": "chunked", "kind": "message", "data": 1}]}).to_string();
    for (request, status) in [
        (head(&alice, "GET /health HTTP/1.1", ""), 200),
        (head(&alice, "GET /health HTTP/1.0", ""), 200),
        (head(&alice, "HEAD /health HTTP/1.1", ""), 200),
        (head(&alice, "GET / HTTP/1.1", ""), 200),
        (head(&alice, "GET /nothing HTTP/1.1", ""), 404),
        (head(&alice, &format!("GET {}", at("")), ""), 200),
        (head(&alice, &format!("GET {}", at("/events?freshness=primary")), ""), 200),
        (head(&alice, &format!("GET {}", at("/events?stream=ndjson")), ""), 200),
        // A hash of a password takes a while.
        (with_body(&alice, "POST /v1/signin HTTP/1.1", "application/json", &password), 401),
        (with_body(&alice, &format!("POST {}", at("/events")), "application/json", &submit), 200),
        (
            head(&alice, &format!("POST {}", at("/events")), chunked)
                + &format!("{:x}\r\n{message}\r\n0\r\n\r\n", message.len()),
            200,
        ),
        (with_body(&alice, &format!("POST {}", at("/import?op=i")), "application/x-ndjson", &lines), 200),
    ] {
        for _ in 0..5 {
            let answer = last_words(&address(world), &request).await;
            let line = request.lines().next().unwrap_or_default();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}"))
                    || answer.starts_with(&format!("HTTP/1.0 {status}")),
                "{line}: {answer}"
            );
        }
    }
    let log = whole_log(world, &alice, room, FROM_PRIMARY).await;
    assert_eq!(log.len(), 3002);
    let two = head(&alice, "GET /health HTTP/1.1", "") + &head(&alice, &format!("GET {}", at("")), "");
    let answer = last_words(&address(world), &two).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
}

/// How often a stream is written to at least, which finds out that its client is gone.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_half_closed_stream_goes_on_and_a_closed_one_ends() {
    let world = World::shared();
    let [alice, bob] = ["alice", "bob"].map(|name| world.person(name));
    let room = world.room(&alice, "open").await;
    let mut writer = world.client(0, &alice).await;
    writer.join(room).await;
    let mut tcp = TcpStream::connect(address(world)).await.unwrap();
    let request = head(&bob, &format!("GET /v1/rooms/{room}/live HTTP/1.1"), "");
    tcp.write_all(request.as_bytes()).await.unwrap();
    tcp.shutdown().await.unwrap();
    writer.wait(|m| m["type"] == "presence" && m["count"] == 2).await;
    let mut told = Vec::new();
    for n in 0..3 {
        let said = json!({"kind": "message", "data": format!("word {n}")});
        assert_eq!(writer.submit(room, &format!("op{n}"), &said).await["type"], "ack");
        let heard = async {
            while !String::from_utf8_lossy(&told).contains(&format!("word {n}")) {
                assert_ne!(tcp.read_buf(&mut told).await.unwrap(), 0, "the stream ended");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), heard).await.expect("what was said is told");
    }
    drop(tcp);
    writer.wait(|m| m["type"] == "presence" && m["count"] == 1).await;

    let mut tcp = TcpStream::connect(address(world)).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    writer.wait(|m| m["type"] == "presence" && m["count"] == 2).await;
    let closed = Stopwatch::start();
    drop(tcp);
    writer.wait(|m| m["type"] == "presence" && m["count"] == 1).await;
    assert!(closed.elapsed() < COMMENT_EVERY / 3, "{:?}", closed.elapsed());
}

#[tokio::test]
async fn a_body_that_ends_early_has_no_effect() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let submit = json!({"items": [{"op": "cut", "kind": "message", "data": 1}]}).to_string();
    let lines: String = (0..3000).map(|n| format!("{}\n", rect(&format!("i{n}"), n))).collect();
    for (path, media_type, body) in
        [("events", "application/json", &submit), ("import?op=cut", "application/x-ndjson", &lines)]
    {
        let line = format!("POST /v1/rooms/{room}/{path} HTTP/1.1");
        let short = with_body(&alice, &line, media_type, body);
        let answer = last_words(&address(world), &short[..short.len() - 1]).await;
        let text = answer.split_once("\r\n\r\n").map_or("", |(_, text)| text);
        let refused: Value = serde_json::from_str(text).unwrap_or_default();
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
        assert_eq!(refused["error"]["code"], "bad_message", "{path}: {answer}");
        let chunks = format!("Content-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n");
        let unended = head(&alice, &line, &chunks) + &format!("{:x}\r\n{body}\r\n", body.len());
        let answer = last_words(&address(world), &unended).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{path} in chunks: {answer}");
    }
    assert_eq!(whole_log(world, &alice, room, FROM_PRIMARY).await.len(), 0);
}
