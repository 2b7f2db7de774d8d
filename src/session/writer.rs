//! Takes what waits in a session's outbox to its socket: one message as it is,
//! several as an array, never more than the socket accepts.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use futures_util::FutureExt;

use super::dialect::Dialect;
use super::frame::{CHUNKS_PER_FRAME, DataFrame};
use super::socket::Socket;
use super::vitals::Vitals;
use crate::protocol::{CloseCode, Json};
use crate::room::{Batch, Outbox};

/// What is taken from the outbox at once; it counts as sent for the outbox, so
/// it is little compared with the outbox's limit.
const BATCH_BYTES: usize = 64 * 1024;

pub struct Writer<'a> {
    outbox: &'a Outbox,
    socket: &'a Socket,
    vitals: &'a Vitals,
    dialect: &'a Dialect,
    /// Taken from the outbox, translated, not yet in a frame.
    waiting: VecDeque<Json>,
    /// On its way.
    frame: Option<DataFrame>,
}

impl<'a> Writer<'a> {
    pub fn new(outbox: &'a Outbox, socket: &'a Socket, vitals: &'a Vitals, dialect: &'a Dialect) -> Self {
        Self { outbox, socket, vitals, dialect, waiting: VecDeque::new(), frame: None }
    }

    /// Before anything else.
    pub fn begin_with(&mut self, bytes: Bytes) {
        self.frame = Some(DataFrame::plain(bytes));
    }

    /// Writes until the outbox is closed; returns with what code. Cancel-safe:
    /// a frame that was begun is still in `self`.
    pub async fn run(&mut self) -> io::Result<CloseCode> {
        loop {
            self.write_waiting().await?;
            tokio::select! {
                biased;
                () = self.socket.control_waits() => {}
                batch = self.outbox.take(BATCH_BYTES) => {
                    let close = batch.close;
                    self.accept(batch);
                    if let Some(code) = close {
                        self.write_waiting().await?;
                        return Ok(code);
                    }
                }
            }
        }
    }

    /// Writes all that waits now, and then `last`. Not for use after an error.
    pub async fn finish(&mut self, last: Option<Json>) -> io::Result<()> {
        self.write_waiting().await?;
        while let Some(batch) = self.outbox.take(BATCH_BYTES).now_or_never()
            && !batch.messages.is_empty()
        {
            self.accept(batch);
            self.write_waiting().await?;
        }
        self.waiting.extend(last.and_then(|last| self.dialect.farewell(last)));
        self.write_waiting().await
    }

    /// Completes the frame that was begun, and starts no other.
    pub async fn finish_frame(&mut self) -> io::Result<()> {
        if let Some(frame) = self.frame.as_mut().filter(|frame| !frame.is_untouched()) {
            self.socket.send(frame, |progress| self.vitals.progress(progress)).await?;
        }
        self.frame = None;
        Ok(())
    }

    fn accept(&mut self, batch: Batch) {
        self.dialect.outgoing(batch.messages, &mut self.waiting);
    }

    async fn write_waiting(&mut self) -> io::Result<()> {
        loop {
            if let Some(frame) = &mut self.frame {
                self.socket.send(frame, |progress| self.vitals.progress(progress)).await?;
                self.frame = None;
            }
            self.socket.send_control().await?;
            if self.waiting.is_empty() {
                // A burst shouldn't cost memory for ever.
                self.waiting.shrink_to(8);
                return Ok(());
            }
            let chunks = self.waiting.len().min(if self.dialect.has_arrays() { CHUNKS_PER_FRAME } else { 1 });
            self.frame = Some(self.dialect.frame(self.waiting.drain(..chunks).collect()));
        }
    }
}
