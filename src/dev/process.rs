//! Child processes that cannot outlive us.
//!
//! Each child has a thread of its own that starts it and waits for it. Linux
//! sends a child its parent-death signal when the *thread* that started it ends,
//! so a thread of a runtime that is shut down early would take children along;
//! this thread lives exactly as long as the child. The signal is set by
//! `setpriv`, because doing it between fork and exec would need unsafe code.

use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::watch;

use super::{Error, binary};

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// For messages, e.g. `node-1`.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Set in addition to our own environment, which is passed on.
    pub env: Vec<(String, String)>,
    /// Output is appended here.
    pub log: PathBuf,
    pub folder: PathBuf,
    /// Another system user to run as; only root may name one.
    pub user: Option<&'static str>,
    /// Asks it to end in order.
    pub stop_with: Signal,
    /// Sent when the handle is dropped or our process dies.
    pub kill_with: Signal,
}

/// A running child, in a process group of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    kill_with: Signal,
    /// Held while the child is reaped, so that a signal never goes to a pid that
    /// is no longer ours.
    reaped: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    pub fn start(spec: &Spec) -> Result<Self, Error> {
        let command = command(spec)?;
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let (ended, exit) = watch::channel(None);
        let reaped = Arc::new(Mutex::new(false));
        let reaping = reaped.clone();
        std::thread::Builder::new()
            .name(format!("child {}", spec.name))
            .spawn(move || live_and_die(command, &started, &reaping, &ended))
            .map_err(Error::io("a thread for a child process"))?;
        let pid = start
            .recv()
            .map_err(|_| Error::Other(format!("{}: its thread is gone", spec.name)))?
            .map_err(Error::io(format!("starting {}", spec.name)))?;
        Ok(Self { name: spec.name.clone(), pid, kill_with: spec.kill_with, reaped, exit })
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Resolves when it has ended. Can be moved to another task.
    pub fn ended(&self) -> impl Future<Output = ExitStatus> + Send + use<> {
        let mut exit = self.exit.clone();
        async move {
            let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
            status.unwrap_or_else(|| ExitStatus::from_raw(0))
        }
    }

    /// Does nothing if it has already ended.
    pub fn signal(&self, signal: Signal) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped {
            // It fails only if the child ended this moment, which is as well.
            kill(self.pid, signal).ok();
        }
    }

    /// To it and its children, wherever they have gone: each process that serves
    /// a connection of PostgreSQL has a group of its own.
    pub fn signal_family(&self, signal: Signal) {
        // The parent first, so that it makes no more of them meanwhile.
        self.signal(signal);
        for child in children(self.pid) {
            kill(child, signal).ok();
        }
    }

    /// Asks it to end with `signal`; after `limit` it is killed. Wakes it first
    /// if it was paused.
    pub async fn stop(&self, signal: Signal, limit: Duration) -> ExitStatus {
        self.signal(signal);
        self.signal_family(Signal::SIGCONT);
        if let Ok(status) = tokio::time::timeout(limit, self.ended()).await {
            return status;
        }
        tracing::warn!(process = self.name, ?limit, "did not stop in time and is killed");
        self.end_all(self.kill_with);
        match tokio::time::timeout(KILL_WAIT, self.ended()).await {
            Ok(status) => status,
            Err(_) => {
                self.end_all(Signal::SIGKILL);
                self.ended().await
            }
        }
    }

    /// To its group, and to its children elsewhere. Those that are paused wake to it.
    fn end_all(&self, signal: Signal) {
        let family = children(self.pid);
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped {
            for signal in [signal, Signal::SIGCONT] {
                killpg(self.pid, signal).ok();
                for child in &family {
                    kill(*child, signal).ok();
                }
            }
        }
    }

    /// Blocks for some milliseconds, so that its files and ports are free when
    /// this returns.
    pub(super) fn kill_blocking(&self) {
        self.end_all(self.kill_with);
        if !self.wait_blocking(KILL_WAIT) {
            self.end_all(Signal::SIGKILL);
            self.wait_blocking(KILL_WAIT);
        }
    }

    fn wait_blocking(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.exit().is_none() {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

/// How long a child may take to die of `kill_with`.
const KILL_WAIT: Duration = Duration::from_secs(3);

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_blocking();
    }
}

/// The life of a child's thread.
fn live_and_die(
    mut command: Command,
    started: &std::sync::mpsc::SyncSender<std::io::Result<Pid>>,
    reaped: &Mutex<bool>,
    ended: &watch::Sender<Option<ExitStatus>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            // Nobody listens only if the starter has given up.
            started.send(Err(error)).ok();
            return;
        }
    };
    let pid = pid_of(&child);
    started.send(Ok(pid)).ok();
    // Waits without reaping: until `wait` the pid belongs to nobody else.
    while let Err(nix::Error::EINTR) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {}
    let mut reaped = reaped.lock().unwrap_or_else(PoisonError::into_inner);
    let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0));
    *reaped = true;
    ended.send_replace(Some(status));
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a Linux pid is a positive i32"))
}

fn children(parent: Pid) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_child = |pid: &Pid| parent_of(*pid) == Some(parent);
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(is_child)
        .collect()
}

/// The second field after the name, which is in parentheses and may hold spaces.
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

fn command(spec: &Spec) -> Result<Command, Error> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)
        .map_err(Error::io(format!("{}", spec.log.display())))?;
    let errors = log.try_clone().map_err(Error::io(format!("{}", spec.log.display())))?;
    let mut command = Command::new(binary::find("setpriv", "util-linux")?);
    command.arg(format!("--pdeathsig={}", spec.kill_with.as_str().trim_start_matches("SIG")));
    command.args(user_args(spec.user));
    command.arg("--").arg(&spec.program).args(&spec.args);
    command.envs(spec.env.iter().map(|(k, v)| (k, v)));
    command.current_dir(&spec.folder);
    command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    Ok(command)
}

fn user_args(user: Option<&'static str>) -> Vec<String> {
    let Some(user) = user else { return Vec::new() };
    vec![format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_owned()]
}

/// Runs a program that ends by itself, e.g. `initdb`, with `input` to read.
pub(super) async fn run(
    program: &Path,
    user: Option<&'static str>,
    args: &[&str],
    input: &'static str,
) -> Result<(), Error> {
    let mut command = Command::new(binary::find("setpriv", "util-linux")?);
    command.args(user_args(user)).arg("--").arg(program).args(args);
    // Not our folder: PostgreSQL's user may be unable to enter it.
    command.current_dir("/");
    let name = program.display().to_string();
    let ran = tokio::task::spawn_blocking(move || run_blocking(command, name, input)).await;
    ran.unwrap_or_else(|panic| Err(Error::Other(panic.to_string())))
}

fn run_blocking(mut command: Command, name: String, input: &str) -> Result<(), Error> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Error::io(&name))?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, input.as_bytes()).map_err(Error::io(&name))?;
    }
    let output = child.wait_with_output().map_err(Error::io(&name))?;
    if output.status.success() {
        return Ok(());
    }
    let log = [output.stdout, output.stderr].concat();
    Err(Error::Ended {
        name,
        status: output.status.to_string(),
        log: String::from_utf8_lossy(&log).into_owned(),
    })
}

/// The end of a log, for error messages.
pub(super) fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Spec {
        Spec {
            name: "sleeper".to_owned(),
            program: "/bin/sleep".into(),
            args: vec!["1000".to_owned()],
            env: Vec::new(),
            log: folder.join("sleeper.log"),
            folder: folder.to_owned(),
            user: None,
            stop_with: Signal::SIGTERM,
            kill_with: Signal::SIGKILL,
        }
    }

    fn alive(pid: i32) -> bool {
        kill(Pid::from_raw(pid), None).is_ok()
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone_even_if_it_was_paused() {
        let scratch = super::super::Scratch::new("process").unwrap();
        let process = Process::start(&sleeper(scratch.path())).unwrap();
        let pid = process.pid();
        process.signal(Signal::SIGSTOP);
        assert!(alive(pid));
        drop(process);
        assert!(!alive(pid));
    }

    #[tokio::test]
    async fn a_process_lives_on_when_the_runtime_that_started_it_is_gone() {
        let scratch = super::super::Scratch::new("process").unwrap();
        let spec = sleeper(scratch.path());
        let process = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async { Process::start(&spec).unwrap() })
        })
        .join()
        .unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), process.ended()).await.is_err());
        let status = process.stop(Signal::SIGTERM, Duration::from_secs(5)).await;
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    }
}
