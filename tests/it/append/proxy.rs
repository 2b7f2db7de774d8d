//! A TCP proxy before PostgreSQL that knows where COMMIT is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use roomgate::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to a COMMIT on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    None,
    /// It never reaches the server.
    Before,
    /// It reaches the server, and the connection is gone.
    After,
    /// The server's answer is lost.
    Answer,
}

impl Cut {
    const ALL: [Self; 3] = [Self::Before, Self::After, Self::Answer];
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Tasks,
}

struct Shared {
    upstream: u16,
    rng: Mutex<SmallRng>,
    /// How many of 100 commits are cut.
    percent: AtomicUsize,
    /// By kind, in the order of [`Cut::ALL`].
    cuts: [AtomicUsize; 3],
    /// Nothing gets through, in either direction.
    lossy: watch::Sender<bool>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Proxy {
    pub async fn start(upstream: u16, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            rng: Mutex::new(SmallRng::seed_from_u64(seed)),
            percent: AtomicUsize::new(0),
            cuts: Default::default(),
            lossy: watch::Sender::new(false),
        });
        let tasks = Tasks::new();
        let (accepting, spawner, mut stop) = (shared.clone(), tasks.clone(), tasks.stop_signal());
        tasks.spawn("proxy", async move {
            loop {
                let (client, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = stop.wait() => return,
                };
                let (shared, mut stop) = (accepting.clone(), spawner.stop_signal());
                spawner.spawn("proxied", async move {
                    tokio::select! { () = serve(client, shared) => {}, () = stop.wait() => {} }
                });
            }
        });
        Self { address, shared, tasks }
    }

    pub fn cut(&self, percent: usize) {
        self.shared.percent.store(percent, Ordering::SeqCst);
    }

    /// As if every packet were lost: no end of a connection hears of it, and what
    /// was sent arrives late, when packets get through again.
    pub fn lose_packets(&self, lossy: bool) {
        self.shared.lossy.send_replace(lossy);
    }

    /// How many commits were cut: on their way, behind their back, and of their
    /// answer.
    pub fn cuts(&self) -> [usize; 3] {
        self.shared.cuts.each_ref().map(|count| count.load(Ordering::SeqCst))
    }
}

impl Shared {
    async fn passage(&self) {
        let mut lossy = self.lossy.subscribe();
        lossy.wait_for(|lossy| !lossy).await.expect("the sender lives as long as this");
    }

    fn draw(&self) -> Cut {
        let mut rng = self.rng.lock().unwrap();
        if rng.random_range(0..100) >= self.percent.load(Ordering::SeqCst) {
            return Cut::None;
        }
        let kind = rng.random_range(0..Cut::ALL.len());
        self.cuts[kind].fetch_add(1, Ordering::SeqCst);
        Cut::ALL[kind]
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.upstream)).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let silent = Arc::new(tokio::sync::Notify::new());
    // Either end's end is the end of both.
    tokio::select! {
        () = upwards(client_read, server_write, &shared, &silent) => {}
        () = downwards(server_read, client_write, &shared, &silent) => {}
    }
}

/// Frontend messages: the first without a type, the others with one.
async fn upwards(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    silent: &tokio::sync::Notify,
) {
    let mut buffer = Vec::new();
    let mut is_first = true;
    loop {
        while let Some(length) = message_length(&buffer, is_first) {
            let message: Vec<u8> = buffer.drain(..length).collect();
            is_first = false;
            let cut = if message.starts_with(b"Q") && message.ends_with(b"COMMIT\0") {
                shared.draw()
            } else {
                Cut::None
            };
            match cut {
                Cut::Before => return,
                Cut::Answer => {
                    silent.notify_one();
                    tokio::task::yield_now().await;
                }
                Cut::None | Cut::After => {}
            }
            shared.passage().await;
            if to.write_all(&message).await.is_err() || cut == Cut::After {
                return;
            }
        }
        if !matches!(from.read_buf(&mut buffer).await, Ok(1..)) {
            return;
        }
    }
}

fn message_length(buffer: &[u8], is_first: bool) -> Option<usize> {
    let start = usize::from(!is_first);
    let length = u32::from_be_bytes(buffer.get(start..start + 4)?.try_into().unwrap());
    let length = start + length as usize;
    (buffer.len() >= length).then_some(length)
}

/// Passes on what the server says; once silenced, cuts at its next word that
/// ends a COMMIT.
async fn downwards(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    silent: &tokio::sync::Notify,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut silenced = std::pin::pin!(silent.notified());
    let mut is_silent = false;
    loop {
        let read = tokio::select! {
            biased;
            () = &mut silenced, if !is_silent => { is_silent = true; continue; }
            read = from.read(&mut buffer) => read,
        };
        let Ok(count @ 1..) = read else { return };
        if is_silent {
            if buffer[..count].windows(7).any(|window| window == b"COMMIT\0") {
                return;
            }
            continue;
        }
        shared.passage().await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
