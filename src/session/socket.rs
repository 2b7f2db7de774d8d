//! The socket of one client: WebSocket framing over a non-blocking TCP stream.
//!
//! What leaves is framed here: a server's frame is a short header before bytes
//! that exist already, so one `writev` sends an event that is shared by hundreds
//! of sessions without copying it, and no session keeps a write buffer. Reader
//! and writer share the socket by reference; there is one of each.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::frame::{CONTROL_FRAME_MAX, DataFrame, close_frame};
use crate::protocol::CloseCode;

/// Pongs that wait for the socket; when they don't fit, older ones are dropped.
pub(super) const CONTROL_MAX: usize = 4 * CONTROL_FRAME_MAX;

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

impl Socket {
    pub fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        socket2::SockRef::from(&tcp).set_tcp_notsent_lowat(KERNEL_UNSENT)?;
        Ok(Self { tcp, control: Mutex::default(), control_waits: Notify::new() })
    }

    /// A client that acknowledges nothing for so long is gone. For one that is
    /// not asked for a sign of life.
    pub fn gone_after(&self, time: Duration) -> io::Result<()> {
        socket2::SockRef::from(&self.tcp).set_tcp_user_timeout(Some(time))
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

    /// Takes what has arrived; `WouldBlock` if nothing has.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.try_read(buffer)
    }

    /// Waits for something to arrive. Cancel-safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.tcp.readable().await
    }

    /// Waits until the client resets the connection. Cancel-safe.
    pub async fn is_reset(&self) {
        // An error means that there is nothing left to wait for.
        if self.tcp.ready(Interest::ERROR).await.is_err() {}
    }

    /// False if too many wait already.
    pub fn queue_control(&self, frame: &[u8]) -> bool {
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

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
