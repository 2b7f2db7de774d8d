//! A Redis of our own: without persistence, since nothing durable is kept in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::last_words;
use super::{Error, Port, Process, Spec, binary};

#[derive(Debug)]
pub struct Redis {
    port: Port,
    spec: Spec,
    process: Process,
}

impl Redis {
    /// Starts one that keeps its log in `folder`, and waits until it answers.
    pub async fn start(folder: &Path) -> Result<Self, Error> {
        Self::start_on(folder, Port::free()?).await
    }

    pub async fn start_on(folder: &Path, port: Port) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder.display().to_string()))?;
        let number = port.number().to_string();
        let args = ["--port", &number, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let spec = Spec {
            name: "redis".to_owned(),
            program: binary::find("redis-server", "redis-server")?,
            args: args.map(str::to_owned).to_vec(),
            env: Vec::new(),
            log: folder.join("redis.log"),
            folder: folder.to_owned(),
            user: None,
            kill_with: Signal::SIGKILL,
        };
        let process = Process::start(&spec)?;
        let redis = Self { port, spec, process };
        redis.ready().await?;
        Ok(redis)
    }

    /// Starts it again after it was killed, empty, on the same port.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.process = Process::start(&self.spec)?;
        self.ready().await
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port.number())
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn log(&self) -> &PathBuf {
        &self.spec.log
    }

    async fn ready(&self) -> Result<(), Error> {
        let ended = self.process.ended();
        let answers = async {
            while !answers_ping(self.port.number()).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            status = ended => Err(Error::Ended {
                name: "redis".to_owned(),
                status: status.to_string(),
                log: last_words(&self.spec.log),
            }),
            answered = tokio::time::timeout(READY_WAIT, answers) => answered.map_err(|_| Error::NotReady {
                name: "redis".to_owned(),
                waited: READY_WAIT,
                log: self.spec.log.clone(),
            }),
        }
    }
}

const READY_WAIT: Duration = Duration::from_secs(20);

async fn answers_ping(port: u16) -> bool {
    let ping = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.write_all(b"PING\r\n").await?;
        let mut answer = [0; 5];
        socket.read_exact(&mut answer).await?;
        Ok::<bool, std::io::Error>(&answer == b"+PONG")
    };
    matches!(tokio::time::timeout(Duration::from_millis(500), ping).await, Ok(Ok(true)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::Scratch;

    #[tokio::test]
    async fn a_killed_redis_comes_back_on_its_port() {
        let scratch = Scratch::new("redis").unwrap();
        let mut redis = Redis::start(scratch.path()).await.unwrap();
        let url = redis.url();
        redis.process().signal(Signal::SIGKILL);
        redis.process().ended().await;
        assert!(!answers_ping(redis.port()).await);
        redis.restart().await.unwrap();
        assert_eq!(redis.url(), url);
        assert!(answers_ping(redis.port()).await);
    }
}
