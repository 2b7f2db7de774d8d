//! A Redis of our own: without persistence, since nothing durable is kept in it.

use std::path::Path;

use nix::sys::signal::Signal;

use super::service::{Probe, Service};
use super::{Error, Port, Spec, binary};

#[derive(Debug)]
pub struct Redis {
    service: std::sync::Arc<Service>,
    port: Port,
}

impl Redis {
    /// Starts one that keeps its log in `folder`, and waits until it answers.
    pub async fn start(folder: &Path) -> Result<Self, Error> {
        Self::start_on(folder, Port::free()?).await
    }

    pub async fn start_on(folder: &Path, port: Port) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder.display().to_string()))?;
        let number = port.number().to_string();
        let args = [
            "--port",
            &number,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--loglevel",
            "warning",
        ];
        let spec = Spec {
            name: "redis".to_owned(),
            program: binary::find("redis-server", "redis-server")?,
            args: args.map(str::to_owned).to_vec(),
            env: Vec::new(),
            log: folder.join("redis.log"),
            folder: folder.to_owned(),
            user: None,
            stop_with: Signal::SIGTERM,
            kill_with: Signal::SIGKILL,
        };
        let service = Service::launch(spec, Probe::Redis(port.number()))?;
        service.ready().await?;
        Ok(Self { service: service.into(), port })
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port.number())
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// To kill it, freeze it, or start it again: empty, on the same port.
    pub fn service(&self) -> &std::sync::Arc<Service> {
        &self.service
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::Scratch;

    #[tokio::test]
    async fn a_killed_redis_comes_back_on_its_port() {
        let scratch = Scratch::new("redis").unwrap();
        let redis = Redis::start(scratch.path()).await.unwrap();
        let first = redis.service().pid();
        redis.service().kill().await;
        assert!(!redis.service().is_running());
        redis.service().restart().await.unwrap();
        assert_ne!(redis.service().pid(), first);
    }
}
