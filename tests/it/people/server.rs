//! The server loop: heads, methods, pages, health.

use std::time::{Duration, Instant};

use roomgate::dev::{Api, Options};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::World;

pub fn address(world: &World) -> String {
    world.cluster().nodes()[0].url().replace("http://", "")
}

/// Sends bytes and reads until the other side closes.
pub async fn raw(world: &World, request: &[u8]) -> String {
    raw_to(&address(world), request).await
}

pub async fn raw_to(address: &str, request: &[u8]) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has taken everything.
    tcp.write_all(request).await.ok();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), tcp.read_to_end(&mut answer)).await;
    read.expect("the server closes").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

#[tokio::test]
async fn oversized_and_slow_heads_are_cut_off() {
    let world = World::shared();
    let large = format!("X-Large: {}\r\n", "x".repeat(20 * 1024));
    let answer = raw(world, &get("/v1/me", &large)).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let answer = raw(world, &get("/v1/me", &many)).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");

    let started = Instant::now();
    let answer = raw(world, b"GET /v1/me HTTP/1.1\r\nHost: ga").await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    let waited = started.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(20)).contains(&waited), "{waited:?}");
}

#[tokio::test]
async fn a_declared_length_without_end_is_refused_before_it_is_read() {
    let world = World::shared();
    let head =
        "POST /v1/signin HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Type: application/json\r\n";
    for length in ["9223372036854775808", "1048576"] {
        let answer =
            raw(world, format!("{head}Content-Length: {length}\r\n\r\n{}", "x".repeat(70_000)).as_bytes())
                .await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{length}: {answer}");
    }
    let answer = raw(world, format!("{head}Content-Length: 18446744073709551617\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_hostile_ones_are_replaced() {
    let world = World::shared();
    let answer = raw(world, &get("/v1/me", "X-Request-Id: abc-123\r\n")).await;
    assert!(answer.contains("x-request-id: abc-123\r\n"), "{answer}");
    assert!(answer.contains("\"request_id\":\"abc-123\""), "{answer}");
    let answer = raw(world, &get("/v1/me", "X-Request-Id: <script>\r\n")).await;
    assert!(!answer.contains("<script>"), "{answer}");
    let api = Api::new(&world.cluster().nodes()[0].url());
    for path in ["/", "/health", "/nothing"] {
        assert!(api.get(path).await.unwrap().headers.contains_key("x-request-id"), "{path}");
    }
}

#[tokio::test]
async fn unknown_addresses_methods_and_types_have_their_status() {
    let world = World::shared();
    let alice = world.person("alice");
    let api = world.api_of(0, &alice);
    for (method, path, status, code) in [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/metrics", 404, "not_found"),
        ("GET", "/health/ready", 404, "not_found"),
        ("GET", "/admin", 404, "not_found"),
        ("GET", "/../Cargo.toml", 404, "not_found"),
        ("DELETE", "/v1/signup", 405, "bad_message"),
        ("PATCH", "/v1/rooms", 405, "bad_message"),
        ("POST", "/v1/signin", 415, "bad_message"),
        ("GET", "/v1/ws", 400, "bad_message"),
    ] {
        let answer = api.send(method.parse().unwrap(), path, None).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["code"]),
            (status, &json!(code)),
            "{method} {path}"
        );
    }
    let expired = world.sign(&json!({"sub": "alice", "exp": 1000}));
    let answer = Api::new(&world.cluster().url()).signed_in(&expired).get("/v1/me").await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (401, &json!("token_expired")));
}

#[tokio::test]
async fn the_page_is_served_from_the_binary_and_may_load_nothing_else() {
    let world = World::shared();
    let api = Api::new(&world.cluster().nodes()[0].url());
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/roomgate.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
    ] {
        let answer = api.get(path).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.headers["content-type"].to_str().unwrap()),
            (200, content_type)
        );
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        let etag = answer.headers["etag"].to_str().unwrap();
        let again = raw(world, &get(path, &format!("If-None-Match: {etag}\r\n"))).await;
        assert!(again.starts_with("HTTP/1.1 304"), "{again}");
    }
}

#[tokio::test]
async fn pages_of_other_sites_may_not_read_answers() {
    let world = World::shared();
    let foreign = raw(world, &get("/health", "Origin: https://evil.test\r\n")).await;
    assert!(!foreign.to_lowercase().contains("access-control-allow-origin"), "{foreign}");
    let own = raw(world, &get("/health", "Origin: http://gate.test\r\n")).await;
    assert!(own.contains("access-control-allow-origin: http://gate.test"), "{own}");
}

#[tokio::test]
async fn health_is_public_in_short_and_the_operators_have_the_rest() {
    let world = World::shared();
    let public = Api::new(&world.cluster().url()).get("/health").await.unwrap();
    assert_eq!((public.status.as_u16(), public.json()), (200, json!({"status": "ok", "database": "ok"})));
    let operators = Api::new(&world.cluster().nodes()[0].admin_url());
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(operators.get(path).await.unwrap().status, 200, "{path}");
    }
    let metrics = operators.get("/metrics").await.unwrap();
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert!(
        metrics.text.contains("http_requests_total{method=\"GET\",route=\"/health\",status=\"200\"}")
            || world.counted("http_requests_total", "route").await.contains_key("/health")
    );
    assert_eq!(operators.get("/v1/me").await.unwrap().status, 404);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let world = World::shared();
    let head =
        "POST /v1/signin HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let started = Instant::now();
    let answer = raw(world, format!("{head}Content-Length: 100\r\n\r\n{{\"email\"").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("bad_message"), "{answer}");
    let waited = started.elapsed();
    assert!((Duration::from_secs(25)..Duration::from_secs(50)).contains(&waited), "{waited:?}");
}

/// Whoever reads the log must not be lied to by those it tells of.
#[tokio::test]
async fn what_clients_write_stays_on_its_line_of_the_log_and_colours_nothing() {
    let world = World::start(|options| {
        Options { nodes: 1, shards: 1, replicas: 0, ..options }.set("log.filter", "trace")
    })
    .await;
    let hostile = "\u{1b}[31mx\r\nforged line";
    let alice = world.person("alice");
    let api = world.api_of(0, &alice);
    let user = world.sign(&json!({"sub": "mallory", "name": hostile, "exp": crate::world::now() + 60}));
    let mallory = Api::new(&world.cluster().nodes()[0].url()).signed_in(&user);
    for body in
        [json!({"slug": hostile}), json!({"slug": "s1x", "name": hostile}), json!({"access": hostile})]
    {
        mallory.post("/v1/rooms", &body).await.unwrap();
    }
    let sign_up = json!({"email": hostile, "password": hostile, "name": hostile});
    api.post("/v1/signup", &sign_up).await.unwrap();
    api.get("/v1/rooms/%1b%5b31mx%0d%0aforged").await.unwrap();
    let room = world.room(&alice, "open").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    for message in [
        json!({"type": hostile}),
        json!({"type": "join", "slug": hostile}),
        json!({"type": "submit", "room": room, "op": "1", "kind": hostile}),
        json!({"type": "hello", "token": hostile}),
    ] {
        client.send(&message).await;
    }
    client.send(&json!({"type": "ping"})).await;
    client.wait(|m| m["type"] == "pong").await;
    let log = std::fs::read_to_string(world.cluster().nodes()[0].service().log()).unwrap();
    assert!(log.contains("forged"), "nothing of it is logged: void");
    assert!(!log.contains('\u{1b}'), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("forged")), "{log}");
}
