//! A process that is meant to run: it can be asked whether it answers, and
//! started again after it was killed.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::process::last_words;
use super::{Error, Process, Spec, connect};

/// Dropping it ends the process at once, as a crash would.
#[derive(Debug)]
pub struct Service {
    spec: Spec,
    probe: Probe,
    current: watch::Sender<Arc<Process>>,
    /// It was ended on purpose; nobody need be told.
    stopped: AtomicBool,
}

/// How to tell that it answers.
#[derive(Debug, Clone)]
pub enum Probe {
    /// A connection can be made to this DSN.
    Sql(String),
    /// PING is answered on this port.
    Redis(u16),
    /// GET is answered with 200.
    Http { port: u16, path: &'static str },
}

impl Service {
    /// Starts it without waiting.
    pub fn launch(spec: Spec, probe: Probe) -> Result<Self, Error> {
        let current = watch::Sender::new(Arc::new(Process::start(&spec)?));
        Ok(Self { spec, probe, current, stopped: AtomicBool::new(false) })
    }

    /// Waits until it answers.
    pub async fn ready(&self) -> Result<(), Error> {
        let process = self.process();
        let answers = async {
            while !self.probe.answers().await {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::select! {
            status = process.ended() => Err(Error::Ended {
                name: self.spec.name.clone(),
                status: status.to_string(),
                log: last_words(&self.spec.log),
            }),
            answered = tokio::time::timeout(READY_WAIT, answers) => answered.map_err(|_| self.not_ready()),
        }
    }

    /// Starts it again, after ending it in order if it still runs.
    pub async fn restart(&self) -> Result<(), Error> {
        self.stop().await;
        let mut tries = 0;
        loop {
            self.current.send_replace(Arc::new(Process::start(&self.spec)?));
            match self.ready().await {
                // The children of a killed PostgreSQL hold its memory for a moment.
                Err(Error::Ended { .. }) if tries < 20 => tries += 1,
                Err(error) => return Err(error),
                Ok(()) => break,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.stopped.store(false, Ordering::SeqCst);
        // Tells once more, for whoever looks only at what is meant to run.
        self.current.send_modify(|_| ());
        Ok(())
    }

    /// Ends it in order, or by force if that takes too long.
    pub async fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.process().stop(self.spec.stop_with, STOP_WAIT).await;
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&self) -> ExitStatus {
        self.signal(Signal::SIGKILL);
        self.process().ended().await
    }

    /// As [`Service::kill`], but on purpose: it is not brought back.
    pub async fn kill_for_good(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.kill().await;
    }

    /// Ends it at once without waiting in async code; for `Drop`.
    pub(super) fn kill_blocking(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.process().kill_blocking();
    }

    /// Freezes it with all its children: connections stay open and nothing is
    /// answered.
    pub fn pause(&self) {
        self.process().signal_family(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.process().signal_family(Signal::SIGCONT);
    }

    pub fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn pid(&self) -> i32 {
        self.process().pid()
    }

    pub fn log(&self) -> &Path {
        &self.spec.log
    }

    pub fn is_running(&self) -> bool {
        self.process().exit().is_none()
    }

    /// Whether it has ended because [`Service::stop`] was called.
    pub fn was_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// The process of the moment: another one after a restart.
    pub fn process(&self) -> Arc<Process> {
        self.current.borrow().clone()
    }

    /// Changes when it is started again.
    pub fn starts(&self) -> watch::Receiver<Arc<Process>> {
        self.current.subscribe()
    }

    pub(super) fn not_ready(&self) -> Error {
        Error::NotReady { name: self.spec.name.clone(), waited: READY_WAIT, log: last_words(&self.spec.log) }
    }
}

pub(super) const POLL: Duration = Duration::from_millis(20);
pub(super) const READY_WAIT: Duration = Duration::from_secs(120);
const STOP_WAIT: Duration = Duration::from_secs(10);

impl Probe {
    async fn answers(&self) -> bool {
        let asked = async {
            match self {
                Self::Sql(dsn) => connect(dsn).await.is_ok(),
                Self::Redis(port) => starts_with(*port, "PING\r\n", "+PONG").await,
                Self::Http { port, path } => {
                    let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
                    starts_with(*port, &get, "HTTP/1.1 200").await
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(2), asked).await.unwrap_or(false)
    }
}

async fn starts_with(port: u16, question: &str, expected: &str) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.write_all(question.as_bytes()).await?;
        let mut answer = vec![0; expected.len()];
        socket.read_exact(&mut answer).await?;
        Ok::<bool, std::io::Error>(answer == expected.as_bytes())
    };
    ask.await.unwrap_or(false)
}
