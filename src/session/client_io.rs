//! A client's connection for as long as HTTP is spoken on it.
//!
//! Guarantees: a client that does not take its answer, or takes it at less than
//! [`SLOWEST_BYTES`] in [`WINDOW`], loses its connection, and with it the memory of
//! the answer is free.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// A client that stands still for so long is given up.
const WINDOW: Duration = Duration::from_secs(30);
/// 1 KiB a second.
const SLOWEST_BYTES: usize = 30 << 10;

/// The bytes that the kernel may hold unsent: a client that takes any then shows it soon.
const KERNEL_UNSENT: u32 = 64 << 10;

pub struct ClientIo {
    tcp: TokioIo<TcpStream>,
    /// Since the client did not take all that there was.
    stalled: Option<Stalled>,
}

struct Stalled {
    window: Pin<Box<Sleep>>,
    /// Within the window.
    sent: usize,
}

impl ClientIo {
    pub fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        socket2::SockRef::from(&tcp).set_tcp_notsent_lowat(KERNEL_UNSENT)?;
        Ok(Self { tcp: TokioIo::new(tcp), stalled: None })
    }

    pub fn into_tcp(self) -> TcpStream {
        self.tcp.into_inner()
    }

    fn wrote(&mut self, sent: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match sent {
            Poll::Ready(Ok(sent)) => {
                if let Some(stalled) = &mut self.stalled {
                    stalled.sent += sent;
                }
                Poll::Ready(Ok(sent))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.wait(context).map(Err),
        }
    }

    /// Ready once the client is too slow.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let begin = || Stalled { window: Box::pin(sleep(WINDOW)), sent: 0 };
        let stalled = self.stalled.get_or_insert_with(begin);
        while stalled.window.as_mut().poll(context).is_ready() {
            if stalled.sent < SLOWEST_BYTES {
                let error =
                    io::Error::new(io::ErrorKind::TimedOut, "the client took too little of its answer");
                return Poll::Ready(error);
            }
            *stalled = begin();
        }
        Poll::Pending
    }
}

impl Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl Write for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.tcp).poll_write(context, bytes);
        self.wrote(sent, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.tcp).poll_write_vectored(context, slices);
        self.wrote(sent, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    /// hyper flushes once it has written all that it has.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stalled = None;
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    /// Writes until the client is given up; after how long that was, and how much it took.
    async fn writes(read: impl AsyncFn(&mut TcpStream)) -> (io::Error, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut io = ClientIo::new(listener.accept().await.unwrap().0).unwrap();
        let begun = Instant::now();
        let bytes = vec![0; 1 << 20];
        let write = async {
            loop {
                let sent =
                    std::future::poll_fn(|context| Pin::new(&mut io).poll_write(context, &bytes)).await;
                if let Err(error) = sent {
                    return error;
                }
            }
        };
        let reading = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                read(&mut client).await;
            }
        };
        tokio::select! {
            error = write => (error, begun.elapsed()),
            () = reading => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_after_the_window() {
        let (error, after) = writes(async |_| {}).await;
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // In the first window the client's kernel may take bytes that the client does not.
        assert!(after >= WINDOW && after <= 2 * WINDOW, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_at_a_quarter_of_the_slowest_rate_is_given_up() {
        let read = async |client: &mut TcpStream| {
            let mut taken = [0; SLOWEST_BYTES / 30 / 4];
            client.read_exact(&mut taken).await.unwrap();
        };
        let (error, _) = writes(read).await;
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_that_takes_enough_keeps_its_connection() {
        let begun = Instant::now();
        let read = async |client: &mut TcpStream| {
            let mut taken = vec![0; 64 << 10];
            client.read_exact(&mut taken).await.unwrap();
            assert!(begun.elapsed() < 20 * WINDOW, "it is served");
        };
        let served = std::panic::AssertUnwindSafe(writes(read));
        assert!(futures_util::FutureExt::catch_unwind(served).await.is_err());
    }
}
