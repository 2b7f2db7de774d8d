//! One task a process: says when it died without being asked to, and brings it
//! back if that was wished.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Service;
use super::cluster::Inner;
use crate::tasks::Stop;

/// Something that happened in the cluster, for people.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A step of the start.
    Step(String),
    Died {
        name: String,
        pid: i32,
        how: String,
        /// Whether it will be started again by itself.
        restarts: bool,
    },
    Back {
        name: String,
        pid: i32,
    },
    Failed {
        name: String,
        error: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(text) => f.write_str(text),
            Self::Died { name, pid, how, restarts } => {
                let next = if *restarts { "bringing it back" } else { "the rest runs on" };
                write!(f, "{name} (pid {pid}) ended: {how}; {next}")
            }
            Self::Back { name, pid } => write!(f, "{name} is back (pid {pid})"),
            Self::Failed { name, error } => write!(f, "{name}: {error}"),
        }
    }
}

/// Where notices go. Called from any task; must not block.
pub type Observer = Arc<dyn Fn(Notice) + Send + Sync>;

pub(super) struct Supervisor {
    pub service: Arc<Service>,
    pub cluster: Weak<Inner>,
    pub observer: Observer,
    pub restart: bool,
    pub stop: Stop,
}

impl Supervisor {
    pub async fn run(mut self) {
        let mut starts = self.service.starts();
        let (mut told, mut down) = (starts.borrow().pid(), false);
        loop {
            let process = starts.borrow_and_update().clone();
            // The end of the one before is not seen if this one came at once.
            let new = down || process.pid() != told;
            if new && process.exit().is_none() && !self.service.was_stopped() {
                (told, down) = (process.pid(), false);
                self.back();
            }
            tokio::select! {
                () = self.stop.wait() => return,
                status = process.ended(), if !down => {
                    down = true;
                    self.ended(process.pid(), &status.to_string()).await;
                }
                // Started by somebody; told once more when it answers.
                changed = starts.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn ended(&mut self, pid: i32, how: &str) {
        if self.service.was_stopped() || self.stop.is_stopped() {
            return;
        }
        let name = self.service.name().to_owned();
        (self.observer)(Notice::Died { name, pid, how: how.to_owned(), restarts: self.restart });
        while self.restart && !self.stop.is_stopped() {
            let Err(error) = self.service.restart().await else { return };
            let name = self.service.name().to_owned();
            (self.observer)(Notice::Failed { name, error: error.to_string() });
            tokio::select! {
                () = self.stop.wait() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    fn back(&self) {
        let (name, pid) = (self.service.name().to_owned(), self.service.pid());
        let written = self.cluster.upgrade().map_or(Ok(()), |cluster| cluster.write_report());
        (self.observer)(match written {
            Ok(()) => Notice::Back { name, pid },
            Err(error) => Notice::Failed { name, error: error.to_string() },
        });
    }
}

const RETRY: Duration = Duration::from_secs(2);
