//! The socket of one client: WebSocket framing over a non-blocking TCP stream.
//!
//! Tungstenite decodes what arrives and holds the client to RFC 6455. What
//! leaves is framed here: a server's frame is a short header before bytes that
//! exist already, so one `writev` sends an event that is shared by hundreds of
//! sessions without copying it, and no session keeps a write buffer. Reader and
//! writer share the socket by reference; there is one of each.

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite;
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Utf8Bytes};

use super::frame::{CONTROL_FRAME_MAX, DataFrame, close_frame, ping_frame};
use crate::protocol::CloseCode;

/// Allocated for every session, and what one `read` takes at most. Most
/// messages are far smaller; a large one costs a few more system calls.
const READ_BUFFER: usize = 2 * 1024;

/// Pongs that wait for the socket; when they don't fit, older ones are dropped.
const CONTROL_MAX: usize = 4 * CONTROL_FRAME_MAX;

/// What the kernel may hold unsent. The rest waits in the outbox, where it can
/// be shed, and a ping isn't stuck behind megabytes.
const KERNEL_UNSENT: u32 = 32 * 1024;

/// How much of what a closed client still sends is read and thrown away.
const DISCARD_MAX: usize = 4 << 20;

pub struct Socket {
    tcp: TcpStream,
    /// Whole control frames that must go out between data frames.
    control: Mutex<Vec<u8>>,
    control_waits: Notify,
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    Text(Utf8Bytes),
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

impl Socket {
    pub fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        socket2::SockRef::from(&tcp).set_tcp_notsent_lowat(KERNEL_UNSENT)?;
        Ok(Self { tcp, control: Mutex::default(), control_waits: Notify::new() })
    }

    /// Queues a ping; the writer sends it between two frames.
    pub fn ping(&self) {
        self.queue_control(&ping_frame());
    }

    /// Waits for a control frame to send. Cancel-safe.
    pub async fn control_waits(&self) {
        loop {
            let waits = self.control_waits.notified();
            if !self.control().is_empty() {
                return;
            }
            waits.await;
        }
    }

    /// Sends queued control frames. Cancel-safe: what is left of them stays first
    /// in the queue.
    pub async fn send_control(&self) -> io::Result<()> {
        while self.send_control_now()? {
            self.tcp.writable().await?;
        }
        Ok(())
    }

    /// True if the socket took less than there is.
    fn send_control_now(&self) -> io::Result<bool> {
        let mut control = self.control();
        while !control.is_empty() {
            match self.tcp.try_write(&control) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => drop(control.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Sends what is left of `frame`; `progress` is told after every write that
    /// got somewhere, and before a wait. Cancel-safe: the frame knows how much
    /// of it is gone.
    pub async fn send(&self, frame: &mut DataFrame, progress: impl Fn(Progress)) -> io::Result<()> {
        while !frame.is_sent() {
            match frame.write_some(|slices| self.tcp.try_write_vectored(slices)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => progress(Progress::Moved),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    progress(Progress::Stalled);
                    self.tcp.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a close frame if there is one to send, ends the connection and
    /// waits until the client has noticed, so that what was sent arrives.
    pub async fn finish(mut self, close: Option<CloseCode>, limit: Duration) {
        let closing = async {
            self.send_control().await?;
            if let Some(code) = close {
                self.write_all(&close_frame(code)).await?;
            }
            self.tcp.shutdown().await?;
            self.discard().await
        };
        // A client that doesn't take even this is cut off: dropping the socket
        // ends the connection.
        match tokio::time::timeout(limit, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::trace!(%error, "connection ended while closing"),
            Err(_) => tracing::trace!("client did not take the close in time"),
        }
    }

    /// Closing a socket with unread data resets the connection and takes the
    /// close frame with it; so read until the client hangs up.
    async fn discard(&self) -> io::Result<()> {
        let mut read = 0;
        let mut waste = [0u8; 1024];
        while read < DISCARD_MAX {
            match self.tcp.try_read(&mut waste) {
                Ok(0) => return Ok(()),
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.tcp.readable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.tcp.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.tcp.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn queue_control(&self, frame: &[u8]) -> bool {
        let mut control = self.control();
        let fits = control.len() + frame.len() <= CONTROL_MAX;
        if fits {
            control.extend_from_slice(frame);
            drop(control);
            self.control_waits.notify_one();
        }
        fits
    }

    fn control(&self) -> MutexGuard<'_, Vec<u8>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the client takes what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Moved,
    Stalled,
}

/// The reading half's state.
pub struct Decoder {
    context: Box<WebSocketContext>,
}

impl Decoder {
    /// `read` is what arrived together with the upgrade request.
    pub fn new(read: Bytes, frame_bytes: usize) -> Self {
        let limit = (frame_bytes > 0).then_some(frame_bytes);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(CONTROL_MAX)
            .max_message_size(limit)
            .max_frame_size(limit);
        let context = WebSocketContext::from_partially_read(read.into(), Role::Server, Some(config));
        Self { context: Box::new(context) }
    }

    /// The next thing the client says. Cancel-safe: what was read stays here.
    pub async fn next(&mut self, socket: &Socket) -> Result<Incoming, ReadError> {
        loop {
            match self.context.read(&mut Wire(socket)) {
                Ok(Message::Text(text)) => return Ok(Incoming::Text(text)),
                Ok(Message::Binary(_)) => return Err(ReadError::Violation(CloseCode::Unsupported)),
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => return Ok(Incoming::Alive),
                Ok(Message::Close(_)) => {
                    // Queues the answer, and then reports that all is said.
                    self.context.flush(&mut Wire(socket)).unwrap_or_default();
                    return Ok(Incoming::Close);
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.tcp.readable().await.map_err(|_| ReadError::Gone)?;
                }
                Err(error) => return Err(read_error(&error)),
            }
        }
    }
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
struct Wire<'a>(&'a Socket);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.tcp.try_read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        if self.0.queue_control(frame) { Ok(frame.len()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        slices.first().map_or(Ok(0), |slice| self.write(slice))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
