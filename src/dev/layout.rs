//! The data folder: what lies where, what is remembered, and whose it is.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{Error, Port, account};

/// Held by one cluster at a time.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    databases: PathBuf,
    memory: Mutex<Memory>,
    _lock: Flock<File>,
}

/// What a restart needs to know.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Memory {
    shards: usize,
    ports: BTreeMap<String, u16>,
    /// Shard → the server that was its primary last.
    primaries: BTreeMap<String, String>,
}

impl Layout {
    /// Takes `folder` for a cluster of at least `shards` shards, empty if `reset`.
    pub fn open(folder: &Path, shards: usize, reset: bool) -> Result<Self, Error> {
        make_folder(folder)?;
        let root = folder.canonicalize().map_err(Error::io(folder.display().to_string()))?;
        let lock = lock(&root)?;
        let databases = databases_folder(&root);
        remove_orphans(Path::new(APART));
        if reset {
            clear(&root, &databases)?;
        }
        make_folder(&databases)?;
        replace(&databases.join(OWNER), root.as_os_str().as_encoded_bytes())?;
        let mut memory: Memory = std::fs::read(root.join(MEMORY))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        memory.shards = memory.shards.max(shards);
        Ok(Self { root, databases, memory: Mutex::new(memory), _lock: lock })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.root.join(name);
        make_folder(&path)?;
        Ok(path)
    }

    /// A database server's folder.
    pub fn database(&self, server: &str) -> PathBuf {
        self.databases.join(server)
    }

    /// A port for `user`, the same one as last time if it is free.
    pub fn port(&self, user: &str) -> Result<Port, Error> {
        let last = self.remembered(|memory| memory.ports.get(user).copied());
        let port = Port::preferably(last)?;
        self.remember_port(user, &port)?;
        Ok(port)
    }

    /// The balancer's port, chosen as [`super::Options::port`] says.
    pub fn balancer_port(&self, wanted: Option<u16>) -> Result<Port, Error> {
        let port = match wanted {
            Some(0) => Port::free()?,
            Some(number) => Port::take(number)
                .ok_or_else(|| Error::Other(format!("port {number} is taken; try another --port, or 0")))?,
            None => {
                let last = self.remembered(|memory| memory.ports.get(BALANCER).copied());
                Port::preferably(last.or(Some(8080)))?
            }
        };
        self.remember_port(BALANCER, &port)?;
        Ok(port)
    }

    pub fn last_primary(&self, shard: &str) -> Option<String> {
        self.remembered(|memory| memory.primaries.get(shard).cloned())
    }

    pub fn remember_primary(&self, shard: &str, server: &str) -> Result<(), Error> {
        self.remember(|memory| {
            memory.primaries.insert(shard.to_owned(), server.to_owned());
        })
    }

    /// How many there are: no fewer than there were last time.
    pub fn shards(&self) -> usize {
        self.remembered(|memory| memory.shards)
    }

    /// One was added.
    pub fn remember_shards(&self, shards: usize) -> Result<(), Error> {
        self.remember(|memory| memory.shards = shards)
    }

    fn remember_port(&self, user: &str, port: &Port) -> Result<(), Error> {
        self.remember(|memory| {
            memory.ports.insert(user.to_owned(), port.number());
        })
    }

    fn remembered<T>(&self, look: impl FnOnce(&Memory) -> T) -> T {
        look(&self.memory.lock().expect("nothing panics while it is held"))
    }

    fn remember(&self, change: impl FnOnce(&mut Memory)) -> Result<(), Error> {
        let mut memory = self.memory.lock().expect("nothing panics while it is held");
        change(&mut memory);
        let text = serde_json::to_vec_pretty(&*memory).expect("a map of strings and numbers");
        replace(&self.root.join(MEMORY), &text)
    }
}

const MEMORY: &str = "cluster.json";
const BALANCER: &str = "haproxy";

/// Writes so that a reader finds the old content or the new, never half of it.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, content)
        .and_then(|()| std::fs::rename(&draft, path))
        .map_err(Error::io(path.display().to_string()))
}

/// Writes a file that only we may read.
pub(super) fn write_secret(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, content))
        .map_err(Error::io(path.display().to_string()))
}

pub(super) fn make_folder(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(Error::io(path.display().to_string()))
}

fn lock(root: &Path) -> Result<Flock<File>, Error> {
    let path = root.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io(path.display().to_string()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::InUse(root.to_owned()))
}

/// Below the data folder; but a folder inside root's home is closed to the user
/// that PostgreSQL must run as, so then they lie apart.
fn databases_folder(root: &Path) -> PathBuf {
    if account::can_reach(root) {
        return root.join("databases");
    }
    let digest = xxhash_rust::xxh3::xxh3_64(root.as_os_str().as_encoded_bytes());
    Path::new(APART).join(format!("{APART_PREFIX}{digest:016x}"))
}

const APART: &str = "/var/tmp";
const APART_PREFIX: &str = "roomgate-dev-";
/// Names the data folder that the databases belong to.
const OWNER: &str = "owner";

/// Removes databases that lie apart from a data folder that is no more.
fn remove_orphans(apart: &Path) {
    for entry in std::fs::read_dir(apart).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(APART_PREFIX));
        let owner = std::fs::read_to_string(entry.path().join(OWNER));
        if ours && owner.is_ok_and(|owner| !Path::new(&owner).exists()) {
            // Another user's can't be removed, nor need it be.
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Removes what we made, and nothing else: the folder may be somebody's home.
fn clear(root: &Path, databases: &Path) -> Result<(), Error> {
    let folders = ["redis", "nodes", "haproxy", "prometheus"].map(|name| root.join(name));
    for folder in folders.iter().map(PathBuf::as_path).chain([databases]) {
        if folder.exists() {
            std::fs::remove_dir_all(folder).map_err(Error::io(folder.display().to_string()))?;
        }
    }
    for file in [MEMORY, "dev.json", "jwt.key"].map(|name| root.join(name)) {
        if file.exists() {
            std::fs::remove_file(&file).map_err(Error::io(file.display().to_string()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::Scratch;

    #[test]
    fn databases_that_lie_apart_go_when_their_data_folder_has_gone() {
        let scratch = Scratch::new("layout").unwrap();
        for (name, owner) in [("roomgate-dev-1", "/nowhere"), ("roomgate-dev-2", "/"), ("other", "/nowhere")]
        {
            std::fs::create_dir(scratch.path().join(name)).unwrap();
            std::fs::write(scratch.path().join(name).join(OWNER), owner).unwrap();
        }
        remove_orphans(scratch.path());
        let left = |name: &str| scratch.path().join(name).exists();
        assert_eq!([left("roomgate-dev-1"), left("roomgate-dev-2"), left("other")], [false, true, true]);
    }

    #[test]
    fn a_data_folder_has_one_owner_and_remembers_its_ports() {
        let scratch = Scratch::new("layout").unwrap();
        let first = Layout::open(scratch.path(), 2, false).unwrap();
        let port = first.port("node-1").unwrap().number();
        assert!(matches!(Layout::open(scratch.path(), 2, false), Err(Error::InUse(_))));
        drop(first);
        let again = Layout::open(scratch.path(), 2, false).unwrap();
        assert_eq!(again.port("node-1").unwrap().number(), port);
        again.remember_shards(3).unwrap();
        drop(again);
        let grown = Layout::open(scratch.path(), 2, false).unwrap();
        assert_eq!(grown.shards(), 3);
        drop(grown);
        assert_eq!(Layout::open(scratch.path(), 2, true).unwrap().shards(), 2);
    }
}
