//! Which host a request is for, and which pages may send one.

use roomgate::dev::Options;

use super::server::{raw, raw_to};
use crate::world::World;

#[tokio::test]
async fn a_request_has_one_valid_host() {
    let world = World::shared();
    for (version, hosts, status) in [
        ("1.1", &["gate.test"][..], 200),
        ("1.1", &["GATE.test.:8080"], 200),
        ("1.1", &["[::1]:8080"], 200),
        ("1.1", &["192.0.2.7"], 200),
        ("1.1", &[""], 200),
        ("1.0", &[], 200),
        ("1.0", &["gate.test"], 200),
        ("1.1", &[], 400),
        ("1.1", &["gate.test", "gate.test"], 400),
        ("1.1", &["gate.test", "evil.test"], 400),
        ("1.0", &["gate.test", "evil.test"], 400),
        ("1.1", &["gate test"], 400),
        ("1.1", &["gate.test, evil.test"], 400),
        ("1.1", &["gate.test/path"], 400),
        ("1.1", &["user@gate.test"], 400),
        ("1.1", &["http://gate.test"], 400),
        ("1.1", &["gate.test:http"], 400),
        ("1.1", &["gäte.test"], 400),
        ("1.1", &["::1"], 400),
    ] {
        for path in ["/health", "/", "/v1/ws", "/nothing", "http://gate.test/health"] {
            let lines: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
            let request = format!("GET {path} HTTP/{version}\r\n{lines}Connection: close\r\n\r\n");
            let answer = raw(world, request.as_bytes()).await;
            let is_refused = answer.contains("a request has one header Host");
            assert_eq!(is_refused, status == 400, "{path} {version} {hosts:?}: {answer}");
            assert!(!is_refused || answer.contains(" 400 ") && answer.contains("bad_message"), "{answer}");
            assert!(path != "/health" || answer.contains(&format!(" {status} ")), "{hosts:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_preflight_names_the_headers_that_clients_send() {
    let world = World::shared();
    for (origin, is_own) in
        [("http://gate.test", true), ("https://gate.test", true), ("http://evil.test", false)]
    {
        let request = format!(
            "OPTIONS /v1/rooms HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: PATCH\r\n\
             Access-Control-Request-Headers: authorization,content-type,idempotency-key\r\n\r\n"
        );
        let answer = raw(world, request.as_bytes()).await.to_lowercase();
        let line = |name: &str| {
            let lines = answer.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).collect::<String>()
        };
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert_eq!(line("access-control-allow-origin"), if is_own { origin } else { "" });
        let headers = line("access-control-allow-headers");
        for name in [
            "authorization",
            "content-type",
            "content-encoding",
            "idempotency-key",
            "last-event-id",
            "roomgate-min-seq",
            "x-request-id",
            "*",
        ] {
            assert!(headers.split(',').any(|named| named.trim() == name), "{name} in {headers:?}");
        }
        let methods = line("access-control-allow-methods");
        for name in ["get", "head", "post", "put", "patch", "delete"] {
            assert!(methods.split(',').any(|named| named.trim() == name), "{name} in {methods:?}");
        }
    }
}

/// The balancer's word counts, and nobody else's.
#[tokio::test]
async fn a_page_of_the_host_that_a_trusted_balancer_names_is_own() {
    let one = |options| Options { nodes: 1, shards: 1, replicas: 0, ..options };
    let alone = World::start(|options| one(options).set("listen.trusted_proxies", "")).await;
    for (world, is_trusted) in [(World::shared(), true), (&alone, false)] {
        for (headers, is_own) in [
            ("Host: example.org\r\n", true),
            ("Host: example.org:443\r\n", true),
            ("Host: EXAMPLE.ORG.\r\n", true),
            ("Host: example.org:8080\r\n", false),
            ("Host: gateway:8080\r\n", false),
            ("Host: gateway:8080\r\nX-Forwarded-Host: example.org\r\n", is_trusted),
            ("Host: gateway:8080\r\nX-Forwarded-Host: example.org:443\r\n", is_trusted),
            ("Host: gateway:8080\r\nForwarded: for=192.0.2.7;host=example.org;proto=https\r\n", is_trusted),
            ("Host: gateway:8080\r\nX-Forwarded-Host: evil.test\r\n", false),
        ] {
            let origin = "Connection: close\r\nOrigin: https://example.org\r\n";
            let answer =
                raw(world, format!("GET /health HTTP/1.1\r\n{headers}{origin}\r\n").as_bytes()).await;
            let allows = answer.contains("access-control-allow-origin: https://example.org");
            assert_eq!(allows, is_own, "trusted: {is_trusted}, {headers}: {answer}");
            let upgrade = format!(
                "GET /v1/ws HTTP/1.1\r\n{headers}Origin: https://example.org\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            // The origin is looked at after the version, the subprotocol after the origin.
            let upgrade =
                upgrade.replace("Version: 8", "Version: 13").replace("Upgrade\r\n", "close, Upgrade\r\n");
            let answer = raw(world, upgrade.as_bytes()).await;
            let expected = if is_own { "offer the subprotocol" } else { "origin may not connect" };
            assert!(answer.contains(expected), "trusted: {is_trusted}, {headers}: {answer}");
        }
    }
}

#[tokio::test]
async fn operators_routes_refuse_names_that_a_page_could_have() {
    let world = World::shared();
    let admin = world.cluster().report().nodes[0].admin_url.clone();
    let address = admin.strip_prefix("http://").unwrap();
    for path in ["/metrics", "/health/live", "/health/ready", "/health/detailed", "/admin/erasures/x", "/x"] {
        for (host, is_refused) in
            [(address, false), ("localhost", false), ("node-1:9090", false), ("evil.example:9090", true)]
        {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = raw_to(address, request.as_bytes()).await;
            assert_eq!(answer.contains("admin_hosts"), is_refused, "{path}, {host}: {answer}");
            assert_eq!(answer.starts_with("HTTP/1.1 403"), is_refused, "{path}, {host}: {answer}");
        }
    }
}
