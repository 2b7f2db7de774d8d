//! What a process has used, from /proc.

use std::fs;
use std::time::Duration;

use crate::Failure;

/// The kernel counts CPU in hundredths of a second, on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// By its id.
#[derive(Debug, Clone, Copy)]
pub struct Process(pub i32);

impl Process {
    /// Bytes of its own in memory.
    pub fn memory(self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).ok_or("no RssAnon")?;
        let kib: u64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
        Ok(kib * 1024)
    }

    /// CPU time of all its threads.
    pub fn cpu(self) -> Result<Duration, Failure> {
        Ok(Stat::of(self.0)?.own)
    }

    /// CPU time of it and all its children, ended or not: a postmaster's backends.
    pub fn cpu_with_children(self) -> Result<Duration, Failure> {
        let parent = Stat::of(self.0)?;
        let mut cpu = parent.own + parent.ended_children;
        for entry in fs::read_dir("/proc")? {
            let pid = entry?.file_name().to_string_lossy().parse::<i32>();
            if let Some(stat) = pid.ok().and_then(|pid| Stat::of(pid).ok())
                && stat.parent == self.0
            {
                cpu += stat.own;
            }
        }
        Ok(cpu)
    }
}

pub fn cpu(processes: &[Process]) -> Result<Duration, Failure> {
    processes.iter().map(|process| process.cpu()).sum()
}

pub fn cpu_with_children(processes: &[Process]) -> Result<Duration, Failure> {
    processes.iter().map(|process| process.cpu_with_children()).sum()
}

pub fn memory(processes: &[Process]) -> Result<u64, Failure> {
    processes.iter().map(|process| process.memory()).sum()
}

struct Stat {
    parent: i32,
    own: Duration,
    ended_children: Duration,
}

impl Stat {
    fn of(pid: i32) -> Result<Self, Failure> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in brackets, may hold anything; what follows is numbers.
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |index: usize| fields.get(index).ok_or("a short stat");
        let ticks = |index: usize| Ok::<_, Failure>(TICK * field(index)?.parse::<u32>()?);
        Ok(Self {
            parent: field(1)?.parse()?,
            own: ticks(11)? + ticks(12)?,
            ended_children: ticks(13)? + ticks(14)?,
        })
    }
}
