//! Bodies as clients send them: compressed, of other media types, with marks that
//! belong to no text.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::server::raw;
use crate::client::rect;
use crate::world::{Person, World};

/// A request of its own connection. Its length is announced, unless it is chunked.
struct Sent<'a> {
    method: &'static str,
    path: String,
    media_type: &'a str,
    /// Further header lines.
    headers: &'a str,
    body: Vec<u8>,
}

impl Sent<'_> {
    async fn by(&self, world: &World, person: &Person) -> (u16, Value) {
        let Self { method, path, media_type, headers, body } = self;
        let is_chunked = headers.to_lowercase().contains("transfer-encoding");
        let length = format!("Content-Length: {}\r\n", body.len());
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: {media_type}\r\n{headers}{}\r\n",
            person.token,
            if is_chunked { "" } else { &length }
        )
        .into_bytes();
        if is_chunked {
            for piece in body.chunks(7) {
                write!(request, "{:x}\r\n", piece.len()).unwrap();
                request.extend_from_slice(piece);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\n\r\n");
        } else {
            request.extend_from_slice(body);
        }
        let answer = raw(world, &request).await;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let text = answer.split_once("\r\n\r\n").map_or("", |(_, text)| text);
        (status.unwrap_or_else(|| panic!("{answer}")), serde_json::from_str(text).unwrap_or(Value::Null))
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn fresh(name: &str) -> String {
    format!("{name}-{:016x}", rand::random::<u64>())
}

const LINES: &str = "application/x-ndjson";
const JSON: &str = "application/json";

/// A request of each route that takes a body; all of them succeed, each time.
async fn of_every_route(world: &World, person: &Person, room: u64) -> Vec<Sent<'static>> {
    let at = |rest: &str| format!("/v1/rooms/{room}{rest}");
    let account =
        json!({"email": format!("{}@x.test", fresh("ann")), "password": "correct horse", "name": "Ann"});
    let api = world.api(person);
    let refresh = async || {
        let wish =
            json!({"email": format!("{}@x.test", fresh("bob")), "password": "correct horse", "name": "Bob"});
        api.post("/v1/signup", &wish).await.unwrap().json()["refresh_token"].clone()
    };
    let shape = rect(&fresh("s"), 1);
    let submit = json!({"items": [{"op": fresh("op"), "kind": "shape.add", "shape": rect(&fresh("s"), 1)}]});
    let routes = [
        ("POST", "/v1/signup".to_owned(), account),
        ("POST", "/v1/token/refresh".to_owned(), json!({"refresh_token": refresh().await})),
        ("POST", "/v1/signout".to_owned(), json!({"refresh_token": refresh().await})),
        ("POST", "/v1/rooms".to_owned(), json!({"slug": fresh("body")})),
        ("PATCH", at(""), json!({"name": "renamed"})),
        ("PUT", at("/members/me"), json!({})),
        ("PUT", at("/members/carol"), json!({"role": "viewer"})),
        ("POST", at("/invites"), json!({"role": "viewer"})),
        ("POST", at("/events"), submit),
        ("POST", at(&format!("/import?op={}", fresh("op"))), shape),
    ];
    let sent = routes.into_iter().map(|(method, path, body)| Sent {
        method,
        media_type: if path.contains("/import") { LINES } else { JSON },
        path,
        headers: "",
        body: body.to_string().into_bytes(),
    });
    sent.collect()
}

#[tokio::test]
async fn every_route_reads_gzip_and_refuses_other_codings() {
    let world = World::shared();
    let olga = world.person("olga");
    let room = world.room(&olga, "drawing").await;
    for headers in [
        "",
        "Transfer-Encoding: chunked\r\n",
        "Content-Encoding: identity\r\n",
        "Content-Encoding:\r\n",
        "Content-Encoding: gzip\r\n",
        "Content-Encoding: X-GZip\r\nTransfer-Encoding: chunked\r\n",
        "Content-Encoding: identity, gzip\r\nIdempotency-Key: KEY\r\n",
    ] {
        let is_packed = headers.to_lowercase().contains("gzip");
        for sent in of_every_route(world, &olga, room).await {
            let body = if is_packed { gzip(&sent.body) } else { sent.body };
            let headers = headers.replace("KEY", &fresh("key"));
            let sent = Sent { body, headers: &headers, ..sent };
            let (status, answer) = sent.by(world, &olga).await;
            assert!(
                (200..300).contains(&status),
                "{} {} {headers}: {status} {answer}",
                sent.method,
                sent.path
            );
            if let Some(imported) = answer.get("imported") {
                assert_eq!(*imported, 1, "{headers}");
            }
        }
    }
    for headers in [
        "Content-Encoding: deflate\r\n",
        "Content-Encoding: br\r\n",
        "Content-Encoding: zstd\r\n",
        "Content-Encoding: compress\r\n",
        "Content-Encoding: nonsense\r\n",
        "Content-Encoding: gzip, gzip\r\n",
        "Content-Encoding: gzip\r\nContent-Encoding: br\r\n",
        "Content-Encoding: gzip\r\nIdempotency-Key: KEY\r\nContent-Encoding: br\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    ] {
        for sent in of_every_route(world, &olga, room).await {
            let headers = headers.replace("KEY", &fresh("key"));
            let refused = Sent { body: gzip(&sent.body), headers: &headers, ..sent };
            let (status, answer) = refused.by(world, &olga).await;
            let expected = (415, &json!("bad_message"));
            assert_eq!((status, &answer["error"]["code"]), expected, "{} {headers}", refused.path);
            // Nothing was spent: the same request succeeds without the coding.
            let (status, answer) = Sent { headers: "", body: sent.body, ..refused }.by(world, &olga).await;
            assert!((200..300).contains(&status), "{status} {answer}");
        }
    }
}

async fn import(
    world: &World,
    person: &Person,
    room: u64,
    op: &str,
    body: &[u8],
    headers: &str,
) -> (u16, Value) {
    let path = format!("/v1/rooms/{room}/import?op={op}");
    Sent { method: "POST", path, media_type: LINES, headers, body: body.to_vec() }.by(world, person).await
}

#[tokio::test]
async fn a_compressed_body_may_cost_no_more_than_a_plain_one() {
    let world = World::shared();
    let olga = world.person("olga");
    let room = world.room(&olga, "drawing").await;
    let spaces = gzip(&vec![b' '; 257 << 20]);
    assert!(spaces.len() < 1 << 20, "it is small: {}", spaces.len());
    for sent in of_every_route(world, &olga, room).await {
        let sent = Sent { body: spaces.clone(), headers: "Content-Encoding: gzip\r\n", ..sent };
        let (status, answer) = sent.by(world, &olga).await;
        assert_eq!((status, &answer["error"]["code"]), (413, &json!("too_large")), "{}", sent.path);
    }
}

#[tokio::test]
async fn a_broken_compressed_body_spends_no_op() {
    let world = World::shared();
    let olga = world.person("olga");
    let room = world.room(&olga, "drawing").await;
    let lines: String = (0..500).map(|n| format!("{}\n", rect(&format!("g{n}"), n))).collect();
    let whole = gzip(lines.as_bytes());
    let flipped = whole.iter().enumerate().map(|(n, byte)| if n == whole.len() - 6 { !byte } else { *byte });
    let coding = "Content-Encoding: gzip\r\n";
    for (name, body) in [
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("cut in the middle", whole[..whole.len() / 2].to_vec()),
        ("cut in its head", whole[..5].to_vec()),
        ("with another sum", flipped.collect()),
        ("plain", lines.clone().into_bytes()),
        ("with more behind it", [&whole[..], b"{}"].concat()),
    ] {
        let (status, answer) = import(world, &olga, room, "op", &body, coding).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("bad_message")), "{name}");
    }
    // Files of several members, as `cat a.gz b.gz` makes them, are whole.
    let two = [gzip(&lines.as_bytes()[..1000]), gzip(&lines.as_bytes()[1000..])].concat();
    let (status, answer) = import(world, &olga, room, "op", &two, coding).await;
    assert_eq!((status, &answer["imported"]), (200, &json!(500)), "{answer}");
    // The op is of the content, not of how it was packed.
    let again = import(world, &olga, room, "op", lines.as_bytes(), "").await;
    assert_eq!(again, (200, answer));
}

#[tokio::test]
async fn an_import_without_a_shape_leaves_its_op_unused() {
    let world = World::shared();
    let olga = world.person("olga");
    let room = world.room(&olga, "drawing").await;
    for (name, body, rejected) in [
        ("nothing", "", 0),
        ("empty lines", "\n\r\n \n", 0),
        ("a mark", "\u{feff}", 0),
        ("garbage", "\u{1f}\u{8}garbage\nmore\n", 2),
        ("other JSON", "[1]\n{\"id\":\"a\"}\n", 2),
    ] {
        let (status, answer) = import(world, &olga, room, "op", body.as_bytes(), "").await;
        assert_eq!((status, &answer["imported"]), (200, &json!(0)), "{name}: {answer}");
        assert_eq!(answer["rejected"].as_array().unwrap().len(), rejected, "{name}: {answer}");
    }
    let (status, answer) = import(world, &olga, room, "op", b"", "Content-Encoding: gzip\r\n").await;
    assert_eq!((status, &answer["imported"]), (200, &json!(0)), "{answer}");
    let line = rect("one", 1).to_string();
    let (_, answer) = import(world, &olga, room, "op", line.as_bytes(), "").await;
    assert_eq!(answer["imported"], 1, "{answer}");
    let (status, answer) = import(world, &olga, room, "op", b"", "").await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("op_reused")), "it is used now");
}

#[tokio::test]
async fn bodies_are_taken_by_all_names_of_their_type() {
    let world = World::shared();
    let olga = world.person("olga");
    let room = world.room(&olga, "drawing").await;
    for media_type in [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "Application/JSONL; charset=utf-8",
        "application/x-ndjson;charset=UTF-8",
    ] {
        let path = format!("/v1/rooms/{room}/import?op={}", fresh("op"));
        let body = format!("\u{feff}{}\r\n\r\n{}", rect(&fresh("s"), 1), rect(&fresh("s"), 2)).into_bytes();
        let sent = Sent { method: "POST", path, media_type, headers: "", body };
        let (status, answer) = sent.by(world, &olga).await;
        assert_eq!(
            (status, &answer["imported"], &answer["rejected"]),
            (200, &json!(2), &json!([])),
            "{media_type}"
        );
    }
    for sent in of_every_route(world, &olga, room).await {
        let marked = ["\u{feff}".as_bytes(), &sent.body].concat();
        let sent = Sent { body: marked, ..sent };
        let (status, answer) = sent.by(world, &olga).await;
        assert!((200..300).contains(&status), "{} after a mark: {status} {answer}", sent.path);
        for (media_type, is_taken) in [
            ("application/merge-patch+json", sent.method == "PATCH"),
            ("Application/Merge-Patch+JSON; charset=utf-8", sent.method == "PATCH"),
            ("application/json-patch+json", false),
            ("text/plain", false),
        ] {
            let expected = if is_taken { 200 } else { 415 };
            let sent = Sent { media_type, body: sent.body.clone(), path: sent.path.clone(), ..sent };
            let (status, answer) = sent.by(world, &olga).await;
            assert_eq!(status, expected, "{} {} {media_type}: {answer}", sent.method, sent.path);
        }
    }
}
