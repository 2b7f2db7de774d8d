//! One connection to Redis, whichever client holds it at the moment.
//!
//! A client that has gone silent is replaced by a new one, never connected
//! again: what its aborted task was at is counted as waiting for ever, and a
//! client that believes that more is waiting doesn't flush.

use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::ConnectHandle;
use fred::types::config::Server;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout};

use super::client::COMMAND_TIMEOUT;
use super::command::{self, Command, Side};
use super::refusal::Refusal;

/// A connection that answered nothing for so long is replaced. The client's own
/// detection counts from the last write, so that pings keep it from ever acting,
/// and it does not run while a write to a full socket blocks.
const SILENT: Duration = Duration::from_secs(2);
/// The same for a client that is trying to connect, which takes its time.
const STUCK: Duration = Duration::from_secs(10);

/// A cheap handle.
#[derive(Clone)]
pub(super) struct Line {
    clients: watch::Receiver<Client>,
}

impl Line {
    pub fn client(&self) -> Client {
        self.clients.borrow().clone()
    }

    pub fn connections(&self) -> Connections {
        let mut clients = self.clients.clone();
        // Whoever is connected already counts as the first one.
        clients.mark_changed();
        let news = clients.borrow().reconnect_rx();
        Connections { clients, news, is_over: false }
    }
}

/// Every time that a line has got a connection.
pub(super) struct Connections {
    clients: watch::Receiver<Client>,
    news: broadcast::Receiver<Server>,
    /// `news` is of a client that was replaced.
    is_over: bool,
}

impl Connections {
    /// Resolves after each new connection, with its client; for ever pending once
    /// nobody guards the line any more. Sometimes twice for one. Cancel-safe.
    pub async fn next(&mut self) -> Client {
        loop {
            tokio::select! {
                changed = self.clients.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    let client = self.clients.borrow_and_update().clone();
                    (self.news, self.is_over) = (client.reconnect_rx(), false);
                    // It may have connected before it was looked at.
                    if client.is_connected() {
                        return client;
                    }
                }
                news = self.news.recv(), if !self.is_over => match news {
                    // A replaced client's last word; the new one is on its way.
                    Err(RecvError::Closed) => self.is_over = true,
                    // A lagged receiver has missed connections, which is one as well.
                    Ok(_) | Err(RecvError::Lagged(_)) => return self.clients.borrow().clone(),
                },
            }
        }
    }
}

/// The outcome of a look at a connection.
pub(super) enum Seen {
    Silent,
    /// Redis answers, and refuses these; an empty list: none.
    Refused(Vec<Refusal>),
}

/// Keeps a line alive: tries its client, and replaces it when it is silent.
pub(super) struct Guard {
    side: Side,
    line: watch::Sender<Client>,
    /// The client's task, which would go on for ever beside a new one's.
    running: ConnectHandle,
    errors: broadcast::Receiver<(Error, Option<Server>)>,
    /// Redis refused the last attempt to connect.
    turned_away: Option<Refusal>,
    /// Of the last answer, or of the last new start.
    well_at: Instant,
}

impl Guard {
    /// Starts connecting.
    pub fn start(client: Client, side: Side) -> (Self, Line) {
        let errors = client.error_rx();
        let running = client.connect();
        let (line, clients) = watch::channel(client);
        let turned_away = None;
        let guard = Self { side, line, running, errors, turned_away, well_at: Instant::now() };
        (guard, Line { clients })
    }

    /// Tries every command of this side.
    pub async fn check(&mut self) -> Seen {
        let client = self.line.borrow().clone();
        let connected = client.is_connected();
        self.note_errors();
        let answer = if connected {
            self.turned_away = None;
            timeout(COMMAND_TIMEOUT, command::refused(&client, self.side)).await.ok().flatten()
        } else {
            self.turned_away.clone().map(|refusal| vec![refusal])
        };
        let silence = self.well_at.elapsed();
        if let Some(refused) = answer {
            self.well_at = Instant::now();
            return Seen::Refused(refused);
        }
        if silence > if connected { SILENT } else { STUCK } {
            tracing::debug!(?silence, connected, "a new connection to Redis in place of one that is silent");
            self.running.abort();
            let new = client.clone_new();
            self.errors = new.error_rx();
            self.running = new.connect();
            self.line.send_replace(new);
            self.well_at = Instant::now();
        }
        Seen::Silent
    }

    /// The last error counts: a Redis that refused may be gone since.
    fn note_errors(&mut self) {
        loop {
            match self.errors.try_recv() {
                Ok((error, _)) => self.turned_away = Refusal::of(Command::Connect, &error),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// It has gone, or goes with the process.
    pub async fn end(self) {
        let client = self.line.borrow().clone();
        drop(timeout(COMMAND_TIMEOUT, client.quit()).await);
    }
}
