use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WireCode;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::super::decoder::{Decoder, Incoming, LARGE, ReadError};
use super::super::dialect::Dialect;
use super::super::vitals::Vitals;
use super::super::writer::Writer;
use super::*;
use crate::protocol::Json;
use crate::room::Outbox;

const FRAME_BYTES: usize = 4096;

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, client)
}

/// Both ends of an upgraded connection.
async fn pair() -> (Socket, Decoder, WebSocketStream<TcpStream>) {
    let (server, client) = connection().await;
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    (Socket::new(server).unwrap(), Decoder::new(Bytes::new()), client)
}

/// What the decoder makes of `bytes`, after the first text if there is one.
async fn outcome_of(bytes: &[u8]) -> Result<Incoming, ReadError> {
    let (server, mut client) = connection().await;
    let socket = Socket::new(server).unwrap();
    let mut decoder = Decoder::new(Bytes::new());
    client.write_all(bytes).await.unwrap();
    decoder.next(&socket, || FRAME_BYTES).await
}

/// A client's frame with the mask 0, so that its bytes are as written.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn text_is_read_whole_however_it_is_fragmented() {
    assert_eq!(outcome_of(&masked(0x81, b"{}")).await, Ok(Incoming::Text("{}".into())));
    let fragments = [masked(0x01, b"{\"a\":"), masked(0x00, b""), masked(0x80, b"1}")].concat();
    assert_eq!(outcome_of(&fragments).await, Ok(Incoming::Text("{\"a\":1}".into())));
    let large = "x".repeat(FRAME_BYTES);
    let read = outcome_of(&masked(0x81, large.as_bytes())).await;
    assert_eq!(read, Ok(Incoming::Text(large.into())));
}

#[tokio::test]
async fn each_violation_has_its_close_code() {
    let half = vec![b'x'; FRAME_BYTES / 2 + 1];
    let huge_declared = [&[0x81, 0xff][..], &(1u64 << 63).to_be_bytes(), &[0; 4]].concat();
    let cases: [(&str, Vec<u8>, CloseCode); 11] = [
        ("binary", masked(0x82, b"{}"), CloseCode::Unsupported),
        ("invalid UTF-8", masked(0x81, b"\xff\xfe"), CloseCode::InvalidPayload),
        ("a cut character", masked(0x81, b"\xf0\x9f"), CloseCode::InvalidPayload),
        ("too long", masked(0x81, &[b'x'; FRAME_BYTES + 1]), CloseCode::TooBig),
        ("2^63 declared", huge_declared, CloseCode::TooBig),
        ("too long in fragments", [masked(0x01, &half), masked(0x80, &half)].concat(), CloseCode::TooBig),
        ("unmasked", vec![0x81, 2, b'{', b'}'], CloseCode::ProtocolError),
        ("a reserved bit", masked(0xc1, b"{}"), CloseCode::ProtocolError),
        ("a reserved opcode", masked(0x83, b"{}"), CloseCode::ProtocolError),
        ("nothing to continue", masked(0x80, b"{}"), CloseCode::ProtocolError),
        ("a fragmented ping", masked(0x09, b""), CloseCode::ProtocolError),
    ];
    for (what, bytes, code) in cases {
        assert_eq!(outcome_of(&bytes).await, Err(ReadError::Violation(code)), "{what}");
    }
}

#[tokio::test]
async fn bytes_that_came_with_the_upgrade_are_read_first() {
    let (server, mut client) = connection().await;
    let socket = Socket::new(server).unwrap();
    let whole = masked(0x81, b"{\"first\":1}");
    let mut decoder = Decoder::new(Bytes::copy_from_slice(&whole[..5]));
    client.write_all(&whole[5..]).await.unwrap();
    assert_eq!(decoder.next(&socket, || FRAME_BYTES).await, Ok(Incoming::Text("{\"first\":1}".into())));
}

#[tokio::test]
async fn the_buffer_of_a_large_message_is_given_back_and_no_byte_is_lost() {
    let (server, mut client) = connection().await;
    let socket = Socket::new(server).unwrap();
    let mut decoder = Decoder::new(Bytes::new());
    let large = "x".repeat(2 * LARGE);
    let small = masked(0x81, b"{}");
    let (now, later) = small.split_at(3);
    let grown = [&masked(0x81, large.as_bytes()), now].concat();
    client.write_all(&grown).await.unwrap();
    assert_eq!(decoder.next(&socket, || 1 << 20).await, Ok(Incoming::Text(large.clone().into())));
    let (rest, ()) = futures_util::future::join(decoder.next(&socket, || 1 << 20), async {
        tokio::task::yield_now().await;
        client.write_all(later).await.unwrap();
    })
    .await;
    assert_eq!(rest, Ok(Incoming::Text("{}".into())));
    assert!(decoder.is_grown(), "part of a message was in it");
    let (next, ()) = futures_util::future::join(decoder.next(&socket, || 1 << 20), async {
        tokio::task::yield_now().await;
        client.write_all(&small).await.unwrap();
    })
    .await;
    assert_eq!(next, Ok(Incoming::Text("{}".into())));
    assert!(!decoder.is_grown());
}

#[tokio::test]
async fn a_large_frame_is_reported_once_before_its_end() {
    let (server, mut client) = connection().await;
    let socket = Socket::new(server).unwrap();
    let mut decoder = Decoder::new(Bytes::new());
    let large = "x".repeat(200 * 1024);
    // Masked with zeros.
    let header = [&[0x81, 0xff][..], &(large.len() as u64).to_be_bytes(), &[0; 4]].concat();
    let frame = [&header, large.as_bytes()].concat();
    for _ in 0..3 {
        let (first, last) = frame.split_at(100 * 1024);
        client.write_all(first).await.unwrap();
        assert_eq!(decoder.next(&socket, || 1 << 20).await, Ok(Incoming::Partial));
        let (message, ()) = futures_util::future::join(decoder.next(&socket, || 1 << 20), async {
            for piece in last.chunks(32 * 1024) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(message, Ok(Incoming::Text(large.clone().into())));
        client.write_all(&masked(0x81, b"{}")).await.unwrap();
        assert_eq!(decoder.next(&socket, || 1 << 20).await, Ok(Incoming::Text("{}".into())));
    }
}

#[tokio::test]
async fn pings_are_answered_and_a_close_is_returned() {
    let (socket, mut decoder, mut client) = pair().await;
    client.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(decoder.next(&socket, || FRAME_BYTES).await, Ok(Incoming::Alive));
    // The answer is queued with the next read.
    client.send(Message::Text("{}".into())).await.unwrap();
    assert_eq!(decoder.next(&socket, || FRAME_BYTES).await, Ok(Incoming::Text("{}".into())));
    socket.send_control().await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong("are you there".into()));

    client.close(None).await.unwrap();
    assert_eq!(decoder.next(&socket, || FRAME_BYTES).await, Ok(Incoming::Close));
    let finish = socket.finish(None, Duration::from_secs(5));
    // Dropping the client hangs up.
    let heard = async move { client.next().await };
    let (answer, ()) = futures_util::future::join(heard, finish).await;
    assert!(matches!(answer, Some(Ok(Message::Close(_)))), "{answer:?}");
}

#[tokio::test]
async fn a_ping_flood_costs_no_memory() {
    let (socket, mut decoder, mut client) = pair().await;
    for _ in 0..10_000 {
        client.feed(Message::Ping(vec![7; 125].into())).await.unwrap();
    }
    client.feed(Message::Text("{}".into())).await.unwrap();
    let flood = client.flush();
    let read = async {
        while decoder.next(&socket, || FRAME_BYTES).await.unwrap() == Incoming::Alive {
            assert!(socket.control().len() <= CONTROL_MAX);
        }
    };
    let (flushed, ()) = futures_util::future::join(flood, read).await;
    flushed.unwrap();
}

#[tokio::test]
async fn the_writer_sends_what_waits_in_one_array_and_then_the_close() {
    let (socket, _decoder, mut client) = pair().await;
    let outbox = Outbox::new(1 << 20);
    let (vitals, dialect) = (Vitals::new(tokio::time::Instant::now()), Dialect::V1);
    let mut writer = Writer::new(&outbox, &socket, &vitals, &dialect);
    for n in 0..3 {
        outbox.answer(Json::one(format!("{{\"n\":{n}}}")));
    }
    outbox.close(CloseCode::Kicked);
    assert_eq!(writer.run().await.unwrap(), CloseCode::Kicked);
    writer.finish(Some(Json::one("{\"type\":\"goodbye\"}".to_owned()))).await.unwrap();
    drop(writer);
    let finish = socket.finish(Some(CloseCode::Kicked), Duration::from_secs(5));
    let heard = async move {
        let mut texts = Vec::new();
        loop {
            match client.next().await.unwrap().unwrap() {
                Message::Text(text) => texts.push(text.to_string()),
                Message::Close(close) => return (texts, close.unwrap(), client.next().await.is_none()),
                other => panic!("{other:?}"),
            }
        }
    };
    let ((), (texts, close, is_end)) = futures_util::future::join(finish, heard).await;
    assert_eq!(texts, [r#"[{"n":0},{"n":1},{"n":2}]"#, r#"{"type":"goodbye"}"#]);
    assert_eq!((close.code, close.reason.as_str()), (WireCode::Library(4102), "kicked"));
    assert!(is_end);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_seen_as_stalled_and_gets_everything_later() {
    let (server, mut client) = connection().await;
    let socket = Arc::new(Socket::new(server).unwrap());
    let outbox = Outbox::new(1 << 30);
    let text = format!("{{\"x\":\"{}\"}}", "y".repeat(100_000));
    for _ in 0..200 {
        outbox.answer(Json::one(text.clone()));
    }
    outbox.close(CloseCode::Restart);
    let (vitals, dialect) = (Vitals::new(tokio::time::Instant::now()), Dialect::V1);
    let mut writer = Writer::new(&outbox, &socket, &vitals, &dialect);
    let write = writer.run();
    tokio::pin!(write);
    tokio::select! {
        biased;
        done = &mut write => panic!("took 20 MB without a reader: {done:?}"),
        () = async { while vitals.stalled_since().is_none() { vitals.changed.notified().await } } => {}
    }
    let read = async {
        let mut buffer = vec![0; 1 << 16];
        let mut total = 0;
        while total < 200 * text.len() {
            total += client.read(&mut buffer).await.unwrap();
        }
    };
    let (written, ()) = futures_util::future::join(write, read).await;
    assert_eq!(written.unwrap(), CloseCode::Restart);
    assert_eq!(vitals.stalled_since(), None);
}
