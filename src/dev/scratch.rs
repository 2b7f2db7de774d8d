//! A folder that goes away with its owner.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::Error;

/// A fresh folder, readable by all (PostgreSQL may run as another user below
/// it), removed when dropped. What killed processes left behind is removed by
/// whoever comes next.
#[derive(Debug)]
pub struct Scratch(PathBuf);

const PREFIX: &str = "roomgate-scratch-";

impl Scratch {
    pub fn new(name: &str) -> Result<Self, Error> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let root = std::env::temp_dir();
        sweep(&root);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{PREFIX}{}-{number}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(Error::io(path.display().to_string()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "could not be removed");
        }
    }
}

/// Removes the folders of processes that are no more. Folders of other users
/// can't be removed and are left alone.
fn sweep(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| {
            let (pid, _) = rest.split_once('-')?;
            pid.parse::<i32>().ok()
        });
        let Some(pid) = owner else { continue };
        if kill(Pid::from_raw(pid), None) == Err(nix::Error::ESRCH) {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}
