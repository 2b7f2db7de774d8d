//! An answer whose body is not hyper's to write: its head is made like any other
//! answer's, by handler and layers, and then the connection is a session's.
//!
//! So a stream is written by the writer that writes to WebSockets, with all that
//! it guarantees: what waits for a slow client waits in its outbox, and whoever
//! is to go is gone without being waited for.

use std::sync::{Arc, Mutex, PoisonError};

use axum::http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::response::Response;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::limits::ConnectionPlace;
use crate::session::Stream;

/// In an answer's extensions: who gets the connection.
#[derive(Clone)]
pub(super) struct TakeOver(Arc<Mutex<Option<Stream>>>);

/// A connection's next owner, and what it is to say first.
pub(super) struct Handover {
    stream: Stream,
    head: Bytes,
}

impl TakeOver {
    pub fn by(stream: Stream) -> Self {
        Self(Arc::new(Mutex::new(Some(stream))))
    }
}

impl Handover {
    pub fn begin(self, tcp: TcpStream, place: Option<Arc<ConnectionPlace>>) {
        self.stream.begin(tcp, self.head, place);
    }
}

/// The answer, if it is one for hyper to send. Else it is handed over, and this
/// ends with the connection's task.
pub(super) async fn divert(mut response: Response, to: &mpsc::Sender<Handover>) -> Response {
    let Some(TakeOver(stream)) = response.extensions_mut().remove() else { return response };
    let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
    let handover = stream.map(|stream| Handover { stream, head: head(&response) });
    if let Some(handover) = handover
        && to.send(handover).await.is_ok()
    {
        std::future::pending().await
    }
    response
}

/// Without a length: the stream ends with the connection.
fn head(response: &Response) -> Bytes {
    const FRAMING: [axum::http::HeaderName; 4] =
        [CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING];
    let mut head = format!("HTTP/1.1 {}\r\nconnection: close\r\n", response.status()).into_bytes();
    for (name, value) in response.headers().iter().filter(|(name, _)| !FRAMING.contains(name)) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}
