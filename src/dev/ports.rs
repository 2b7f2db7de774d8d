//! Loopback ports that no other cluster on this machine will take.
//!
//! Asking the kernel for a free port and closing it again is a race: another
//! cluster, or any outgoing connection, may get it meanwhile. These come from
//! below the range that outgoing connections use, and are held by a file lock.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};

use super::Error;

const FIRST: u16 = 17_000;
const LAST: u16 = 31_999;

/// A port of ours until this is dropped (or this process dies).
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: Flock<File>,
}

impl Port {
    /// Any free one.
    pub fn free() -> Result<Self, Error> {
        let count = LAST - FIRST + 1;
        let start = rand::random_range(0..count);
        (0..count)
            .find_map(|i| Self::take(FIRST + (start + i) % count))
            .ok_or(Error::NoPort { first: FIRST, last: LAST })
    }

    /// The one used last time if it is free, else any: addresses survive a
    /// restart where they can.
    pub fn preferably(number: Option<u16>) -> Result<Self, Error> {
        number.and_then(Self::take).map_or_else(Self::free, Ok)
    }

    /// Exactly this one, or none.
    pub fn take(number: u16) -> Option<Self> {
        let file = lock_file(number).ok()?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _lock: lock })
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

fn lock_file(number: u16) -> std::io::Result<File> {
    let folder = lock_folder();
    std::fs::create_dir_all(&folder)?;
    OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(number.to_string()))
}

/// One a user: a folder of root's would shut out the others. Between users the
/// bind alone decides. Not in TMPDIR, which may differ: ports are the machine's.
fn lock_folder() -> PathBuf {
    PathBuf::from(format!("/tmp/roomgate-ports-{}", nix::unistd::geteuid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_is_given_to_nobody_else() {
        let held = Port::free().unwrap();
        assert!(Port::take(held.number()).is_none());
        assert_ne!(Port::preferably(Some(held.number())).unwrap().number(), held.number());
        let number = held.number();
        drop(held);
        assert_eq!(Port::preferably(Some(number)).unwrap().number(), number);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_free() {
        let held = Port::free().unwrap();
        let number = held.number();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        drop(held);
        assert!(Port::take(number).is_none());
        drop(listener);
    }
}
