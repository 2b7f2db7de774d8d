//! Clients that break WebSocket itself: each is closed with the code of RFC
//! 6455, and nobody beside them notices.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::rect;
use crate::world::{Person, World};

/// A signed-in connection on which anything can be sent.
struct Raw {
    tcp: TcpStream,
}

impl Raw {
    async fn open(world: &World, person: &Person) -> Self {
        let address = world.cluster().nodes()[0].url().replace("http://", "");
        let mut tcp = TcpStream::connect(&address).await.unwrap();
        let request = format!(
            "GET /v1/ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: roomgate.v1, bearer.{}\r\n\r\n",
            person.token
        );
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(tcp.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        Self { tcp }
    }

    /// Sends until the other side has had enough.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.tcp.write_all(bytes).await.is_ok()
    }

    /// The code of the close frame, `None` if the connection ends without one.
    async fn close_code(&mut self) -> Option<u16> {
        loop {
            let (opcode, payload) = tokio::time::timeout(Duration::from_secs(60), self.frame())
                .await
                .expect("the server answers")?;
            if opcode == 8 {
                return payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
            }
        }
    }

    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let opcode = self.tcp.read_u8().await.ok()? & 0x0f;
        let length = match self.tcp.read_u8().await.ok()? {
            126 => u64::from(self.tcp.read_u16().await.ok()?),
            127 => self.tcp.read_u64().await.ok()?,
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.tcp.read_exact(&mut payload).await.ok()?;
        Some((opcode, payload))
    }
}

/// A frame masked with zeros, which leave the payload as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
        long => {
            frame.push(0xff);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// The header of a masked text frame that claims to be so long.
fn claims(length: u64) -> Vec<u8> {
    [&[0x81, 0xff], &length.to_be_bytes()[..], &[0; 4]].concat()
}

#[tokio::test]
async fn broken_frames_close_their_own_connection_and_nobody_elses() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut bystander = world.client(0, &alice).await;
    bystander.join(room).await;
    let eve = world.person("eve");
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("binary", frame(0x82, b"{}"), &[1003]),
        ("invalid UTF-8", frame(0x81, b"\"\xff\xfe\""), &[1007]),
        ("a surrogate as UTF-8", frame(0x81, b"\"\xed\xa0\x80\""), &[1007]),
        ("UTF-8 that stays unfinished", [frame(0x01, b"\"\xf0\x9f"), frame(0x80, b"\"")].concat(), &[1007]),
        ("not masked", b"\x81\x02{}".to_vec(), &[1002]),
        ("reserved bit 1", frame(0xc1, b"{}"), &[1002]),
        ("reserved bit 3", frame(0x91, b"{}"), &[1002]),
        ("reserved data opcode", frame(0x83, b"{}"), &[1002]),
        ("reserved control opcode", frame(0x8b, b""), &[1002]),
        ("a ping in fragments", frame(0x09, b"x"), &[1002]),
        ("a ping too long", frame(0x89, &[0; 126]), &[1002]),
        ("a continuation of nothing", frame(0x80, b"{}"), &[1002]),
        ("a message within a message", [frame(0x01, b"{"), frame(0x81, b"{}")].concat(), &[1002]),
        ("half a close code", frame(0x88, b"\x03"), &[1002]),
        ("a close code nobody may send", frame(0x88, &1005_u16.to_be_bytes()), &[1002]),
        ("a length of 2^63", claims(1 << 63), &[1002, 1009]),
        ("a length of 2^62", claims(1 << 62), &[1009]),
        ("more than frame_bytes", claims(1024 * 1024 + 1), &[1009]),
    ];
    for (name, bytes, codes) in cases {
        let mut raw = Raw::open(world, &eve).await;
        raw.send(&bytes).await;
        let code = raw.close_code().await;
        assert!(code.is_some_and(|code| codes.contains(&code)), "{name}: closed with {code:?}");
    }
    let ack = bystander.submit(room, "o", &json!({"kind": "shape.add", "shape": rect("a", 1)})).await;
    assert_eq!(ack["seq"], 1, "{ack}");
}

#[tokio::test]
async fn endless_fragments_end_at_the_frame_limit() {
    let world = World::shared();
    let eve = world.person("eve");
    let mut raw = Raw::open(world, &eve).await;
    let piece = [b' '; 64 * 1024];
    let mut sent = 0;
    let mut goes_on = raw.send(&frame(0x01, &piece)).await;
    while goes_on && sent < 64 {
        goes_on = raw.send(&frame(0x00, &piece)).await;
        sent += 1;
    }
    let code = raw.close_code().await;
    assert!(matches!(code, Some(1009) | None), "closed with {code:?}");
    assert!(code.is_some() || !goes_on, "it went on reading");
}

#[tokio::test]
async fn a_flood_of_pings_hurts_nobody_else() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut bystander = world.client(0, &alice).await;
    bystander.join(room).await;
    let mut raw = Raw::open(world, &world.person("eve")).await;
    let pings = frame(0x89, b"x").repeat(5_000);
    for round in 0..10 {
        raw.send(&pings).await;
        let op = format!("o{round}");
        let body = json!({"kind": "shape.put", "shape": rect("a", round)});
        assert_eq!(bystander.submit(room, &op, &body).await["type"], "ack");
    }
}
