//! Single keys from a terminal, to break things on purpose.

use std::io::{IsTerminal, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

use super::{Cluster, Error, Gateway, Notice, Observer, Service, Shard};
use crate::tasks::Tasks;

/// The terminal gives each key at once until this is dropped. Ctrl-C stays what
/// it is.
pub struct Keys {
    before: Termios,
    pressed: mpsc::Receiver<u8>,
}

impl Keys {
    /// None if the standard input is no terminal.
    pub fn open() -> Result<Option<Self>, Error> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let failed = |error: nix::Error| Error::Other(format!("the terminal: {error}"));
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).map_err(failed)?;
        // A reader that sleeps in `read` can't be stopped; it ends with us.
        let (press, pressed) = mpsc::channel(16);
        let read = move || {
            for key in stdin.lock().bytes().map_while(Result::ok) {
                if press.blocking_send(key).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("keys".to_owned());
        thread.spawn(read).map_err(Error::io("a thread for the keyboard"))?;
        Ok(Some(Self { before, pressed }))
    }

    /// Cancel-safe. Never resolves once the terminal is gone.
    pub async fn next(&mut self) -> char {
        match self.pressed.recv().await {
            Some(key) => char::from(key),
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before).ok();
    }
}

/// What the keys do.
pub struct Breaker {
    observer: Observer,
    tasks: Tasks,
    nodes_turn: AtomicUsize,
    shards_turn: AtomicUsize,
    paused: AtomicBool,
    failing_over: Arc<AtomicBool>,
    adding: Arc<AtomicBool>,
}

pub const HELP: &str = "k kill a node, or bring it back · p pause or resume a replica · f fail a shard over · \
     r kill Redis, or bring it back · a add an empty shard · q quit";

impl Breaker {
    pub fn new(observer: Observer) -> Self {
        Self {
            observer,
            tasks: Tasks::new(),
            nodes_turn: AtomicUsize::new(0),
            shards_turn: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            failing_over: Arc::default(),
            adding: Arc::default(),
        }
    }

    /// Whether the key had a meaning.
    pub fn press(&self, key: char, cluster: &Arc<Cluster>) -> bool {
        match key {
            'k' => self.node(cluster),
            'p' => self.replica(cluster),
            'f' => self.fail_over(cluster),
            'r' => self.toggle(cluster.redis().service()),
            'a' => self.add_shard(cluster),
            _ => return false,
        }
        true
    }

    /// The dead one, else the nodes in turn.
    fn node(&self, cluster: &Arc<Cluster>) {
        let nodes = cluster.nodes();
        let dead = nodes.iter().find(|node| !node.service().is_running());
        let next = || &nodes[self.nodes_turn.fetch_add(1, Ordering::Relaxed) % nodes.len()];
        let node: &Gateway = dead.unwrap_or_else(next);
        self.toggle(node.service());
    }

    /// Pauses the first replica's replay: it answers, but grows stale.
    fn replica(&self, cluster: &Arc<Cluster>) {
        let (cluster, observer) = (cluster.clone(), self.observer.clone());
        let paused = !self.paused.fetch_xor(true, Ordering::SeqCst);
        self.tasks.spawn("dev-key", async move {
            let Some(replica) = cluster.shards().into_iter().flat_map(Shard::replicas).next() else {
                return observer(Notice::Step("there is no replica".to_owned()));
            };
            let name = replica.name().to_owned();
            observer(match replica.set_replay_paused(paused).await {
                Ok(()) if paused => Notice::Step(format!("{name} applies nothing until p is pressed again")),
                Ok(()) => Notice::Step(format!("{name} applies again")),
                Err(error) => Notice::Failed { name, error: error.to_string() },
            });
        });
    }

    /// The shards in turn, one at a time: until the old primary is a replica there
    /// is nobody to promote.
    fn fail_over(&self, cluster: &Arc<Cluster>) {
        let (cluster, observer, busy) = (cluster.clone(), self.observer.clone(), self.failing_over.clone());
        if busy.swap(true, Ordering::SeqCst) {
            return observer(Notice::Step("the last failover is still going on".to_owned()));
        }
        let turn = self.shards_turn.fetch_add(1, Ordering::Relaxed) % cluster.shards().len();
        self.tasks.spawn("dev-key", async move {
            let shard = cluster.shards()[turn];
            let (name, old) = (shard.name(), shard.primary().name().to_owned());
            observer(Notice::Step(format!("failing shard {name} over, away from {old}")));
            let done = cluster.fail_over(turn).await;
            busy.store(false, Ordering::SeqCst);
            observer(match done {
                Ok(new) => {
                    Notice::Step(format!("shard {name} has {new} as its primary now, and {old} follows"))
                }
                Err(error) => Notice::Failed { name: "failover".to_owned(), error: error.to_string() },
            });
        });
    }

    fn add_shard(&self, cluster: &Arc<Cluster>) {
        let (cluster, observer, busy) = (cluster.clone(), self.observer.clone(), self.adding.clone());
        if busy.swap(true, Ordering::SeqCst) {
            return observer(Notice::Step("the last shard is still being added".to_owned()));
        }
        self.tasks.spawn("dev-key", async move {
            observer(Notice::Step("starting the servers of one more shard".to_owned()));
            let done = cluster.add_shard().await;
            busy.store(false, Ordering::SeqCst);
            observer(match done {
                Ok(name) => {
                    let file = cluster.report().jwt.key_file.with_file_name("nodes/node-1.toml");
                    let program = std::env::current_exe().unwrap_or_else(|_| "roomgate".into());
                    let shards = format!("{} shards", program.display());
                    let config = format!("--config {}", file.display());
                    Notice::Step(format!(
                        "shard {name} stands by; in another terminal:\n    {shards} add {name} {config}\n    \
                         {shards} move {config}"
                    ))
                }
                Err(error) => Notice::Failed { name: "a shard".to_owned(), error: error.to_string() },
            });
        });
    }

    /// Kills what runs, and starts what doesn't. The supervisor tells the rest.
    fn toggle(&self, service: &Arc<Service>) {
        let (service, observer) = (service.clone(), self.observer.clone());
        self.tasks.spawn("dev-key", async move {
            if service.is_running() {
                service.kill().await;
            } else if let Err(error) = service.restart().await {
                let name = service.name().to_owned();
                observer(Notice::Failed { name, error: error.to_string() });
            }
        });
    }
}
