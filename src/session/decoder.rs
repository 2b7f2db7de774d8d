//! What a client sends, decoded by tungstenite, which holds it to RFC 6455.

use std::io::{self, IoSlice, Read, Write};

use bytes::Bytes;
use tokio_tungstenite::tungstenite;
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Utf8Bytes};

use super::socket::{CONTROL_MAX, Socket};
use crate::protocol::CloseCode;

/// Allocated for every session, and what one `read` takes at most. Most
/// messages are far smaller; a large one costs a few more system calls.
const READ_BUFFER: usize = 2 * 1024;

/// A message that makes the buffer grow beyond what a session may keep.
pub(super) const LARGE: usize = 16 * 1024;

/// So much of an unfinished frame is held without a reservation.
const PARTIAL: u64 = 64 * 1024;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    Text(Utf8Bytes),
    /// More than [`PARTIAL`] of a frame has arrived, and not yet its end. Reported once
    /// for each frame, so that the caller reserves memory before it reads on.
    Partial,
    /// A ping or pong.
    Alive,
    /// The client wants to end the session; its answer is already queued.
    Close,
}

/// Nothing more can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// The client broke the WebSocket protocol.
    Violation(CloseCode),
    /// The connection is gone without a close.
    Gone,
}

/// The reading half's state.
pub struct Decoder {
    context: Box<WebSocketContext>,
    /// What its context is set to; 0 is no limit.
    frame_bytes: usize,
    /// Bytes that tungstenite took since its context was made.
    taken: u64,
    /// The least that the messages it returned can have taken of them.
    returned: u64,
    /// `taken` when the last message was returned.
    taken_before: u64,
    /// The message that arrives was reported as partial.
    is_partial: bool,
    /// Its buffer has grown for a large message, and would stay so.
    is_grown: bool,
}

impl Decoder {
    /// `read` is what arrived together with the upgrade request.
    pub fn new(read: Bytes) -> Self {
        let taken = read.len() as u64;
        Self {
            context: context(read),
            frame_bytes: 0,
            taken,
            returned: 0,
            taken_before: 0,
            is_partial: false,
            is_grown: false,
        }
    }

    /// The next thing the client says, in a frame of at most `frame_bytes`, where
    /// 0 means any. Cancel-safe: what was read stays here.
    pub async fn next(
        &mut self,
        socket: &Socket,
        frame_bytes: impl Fn() -> usize,
    ) -> Result<Incoming, ReadError> {
        loop {
            // It may change while the client is silent.
            self.limit(frame_bytes());
            match self.context.read(&mut Wire { socket, taken: &mut self.taken }) {
                Ok(message) => {
                    self.count(&message);
                    return self.incoming(message, socket);
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.shrink();
                    if !self.is_partial && self.taken - self.taken_before > PARTIAL {
                        self.is_partial = true;
                        return Ok(Incoming::Partial);
                    }
                    socket.readable().await.map_err(|_| ReadError::Gone)?;
                }
                Err(error) => return Err(read_error(&error)),
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_grown(&self) -> bool {
        self.is_grown
    }

    fn incoming(&mut self, message: Message, socket: &Socket) -> Result<Incoming, ReadError> {
        match message {
            Message::Text(text) => Ok(Incoming::Text(text)),
            Message::Binary(_) => Err(ReadError::Violation(CloseCode::Unsupported)),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(Incoming::Alive),
            Message::Close(_) => {
                // Queues the answer, and then reports that all is said.
                self.context.flush(&mut Wire { socket, taken: &mut self.taken }).unwrap_or_default();
                Ok(Incoming::Close)
            }
        }
    }

    fn count(&mut self, message: &Message) {
        let payload = message.len();
        let header = match payload {
            0..126 => 6,
            126..0x1_0000 => 8,
            _ => 14,
        };
        self.returned += header + payload as u64;
        (self.taken_before, self.is_partial) = (self.taken, false);
        self.is_grown |= payload > LARGE;
    }

    /// Gives a grown buffer back, where it is certain that nothing is in it: all
    /// bytes that were taken are those of whole messages.
    fn shrink(&mut self) {
        if self.is_grown && self.taken == self.returned {
            *self = Self::new(Bytes::new());
        }
    }

    fn limit(&mut self, frame_bytes: usize) {
        if frame_bytes != self.frame_bytes {
            self.frame_bytes = frame_bytes;
            let limit = (frame_bytes > 0).then_some(frame_bytes);
            self.context.set_config(|config| {
                *config = config.max_message_size(limit).max_frame_size(limit);
            });
        }
    }
}

fn context(read: Bytes) -> Box<WebSocketContext> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(CONTROL_MAX)
        .max_message_size(None)
        .max_frame_size(None);
    Box::new(WebSocketContext::from_partially_read(read.into(), Role::Server, Some(config)))
}

fn read_error(error: &Error) -> ReadError {
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    match error {
        Error::Capacity(_) => ReadError::Violation(CloseCode::TooBig),
        Error::Utf8(_) => ReadError::Violation(CloseCode::InvalidPayload),
        Error::Protocol(ResetWithoutClosingHandshake) => ReadError::Gone,
        Error::Protocol(_) => ReadError::Violation(CloseCode::ProtocolError),
        _ => ReadError::Gone,
    }
}

/// The socket as tungstenite sees it: it reads what is there, and what it wants
/// to write (pongs and close answers) is queued for the writer.
struct Wire<'a> {
    socket: &'a Socket,
    taken: &'a mut u64,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.socket.read_now(buffer)?;
        *self.taken += read as u64;
        Ok(read)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        if self.socket.queue_control(frame) { Ok(frame.len()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        slices.first().map_or(Ok(0), |slice| self.write(slice))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
