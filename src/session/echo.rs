//! Sends back what it hears, through the framing of every session: what
//! conformance tests of RFC 6455 speak to.

use std::io;
use std::time::Duration;

use super::conversation::Arrival;
use super::decoder::{Decoder, Incoming, ReadError};
use super::frame::DataFrame;
use super::socket::Socket;
use crate::protocol::{CloseCode, Json};

const NO_LIMIT: usize = 0;
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// Returns when the connection is closed.
pub async fn run(arrival: Arrival) {
    let Ok(socket) = Socket::new(arrival.tcp) else { return };
    let mut decoder = Decoder::new(arrival.read);
    if let Ok(close) = converse(&socket, &mut decoder).await {
        socket.finish(close, FAREWELL_LIMIT).await;
    }
}

/// The close frame to end with, unless the client's has its answer already.
async fn converse(socket: &Socket, decoder: &mut Decoder) -> io::Result<Option<CloseCode>> {
    loop {
        let incoming = decoder.next(socket, || NO_LIMIT).await;
        // Pongs to what came before it.
        socket.send_control().await?;
        match incoming {
            Ok(Incoming::Text(text)) => {
                let mut frame = DataFrame::new(vec![Json::one(text.to_string())]);
                socket.send(&mut frame, |_| {}).await?;
            }
            Ok(Incoming::Alive | Incoming::Partial) => {}
            Ok(Incoming::Close) => return Ok(None),
            Err(ReadError::Violation(code)) => return Ok(Some(code)),
            Err(ReadError::Gone) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
