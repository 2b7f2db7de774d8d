//! A way to a node that is as thin as one likes. Buffers on it are small, so that
//! the node soon feels how much its client takes.

use std::time::Duration;

use roomgate::tasks::{Stop, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

pub struct Straw {
    pub url: String,
    rate: watch::Sender<Rate>,
    tasks: Tasks,
}

#[derive(Debug, Clone, Copy)]
enum Rate {
    Unlimited,
    Nothing,
    BytesPerSecond(usize),
}

/// What a slow client's kernel holds.
const RECEIVE_BUFFER: u32 = 8 * 1024;
const STEP: Duration = Duration::from_millis(100);

impl Straw {
    /// To the node at `url`, unlimited at first.
    pub async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let straw = format!("http://{}", listener.local_addr().unwrap());
        let node = url.trim_start_matches("http://").parse().unwrap();
        let (rate, rates) = watch::channel(Rate::Unlimited);
        let tasks = Tasks::new();
        let (spawner, mut stop) = (tasks.clone(), tasks.stop_signal());
        tasks.spawn("straw", async move {
            loop {
                let (client, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = stop.wait() => return,
                };
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
                let node = socket.connect(node).await.unwrap();
                spawner.spawn("straw", pass(client, node, rates.clone(), spawner.stop_signal()));
            }
        });
        Self { url: straw, rate, tasks }
    }

    pub fn open(&self) {
        self.rate.send_replace(Rate::Unlimited);
    }

    /// The client takes nothing any more.
    pub fn close(&self) {
        self.rate.send_replace(Rate::Nothing);
    }

    pub fn bytes_per_second(&self, bytes: usize) {
        self.rate.send_replace(Rate::BytesPerSecond(bytes));
    }
}

impl Drop for Straw {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// Until either side ends.
async fn pass(client: TcpStream, node: TcpStream, rates: watch::Receiver<Rate>, mut stop: Stop) {
    let (mut said, heard) = client.into_split();
    let (answers, mut asked) = node.into_split();
    tokio::select! {
        _ = tokio::io::copy(&mut said, &mut asked) => {}
        () = sip(answers, heard, rates) => {}
        () = stop.wait() => {}
    }
}

async fn sip(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut rates: watch::Receiver<Rate>) {
    let mut buffer = vec![0; 64 * 1024];
    // By the clock, not by the length of sleeps: on a busy machine these are
    // longer, and the straw thinner than it is said to be.
    let mut due = Instant::now();
    loop {
        let rate = *rates.borrow_and_update();
        let (most, pause) = match rate {
            Rate::Unlimited => (buffer.len(), Duration::ZERO),
            Rate::BytesPerSecond(bytes) => (bytes / 10, STEP),
            Rate::Nothing => match rates.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let read = tokio::select! {
            read = from.read(&mut buffer[..most]) => read,
            _ = rates.changed() => {
                due = Instant::now();
                continue;
            }
        };
        let Ok(count @ 1..) = read else { return };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if !pause.is_zero() {
            due += pause;
            tokio::time::sleep_until(due).await;
        }
    }
}
