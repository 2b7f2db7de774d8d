//! Which system user PostgreSQL runs as: it refuses to start as root.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{User, geteuid};

use super::Error;

const POSTGRES: &str = "postgres";

/// The user to change to, or none if we are an ordinary user ourselves.
pub(super) fn postgres() -> Result<Option<&'static str>, Error> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    lookup().map(|_| Some(POSTGRES))
}

pub(super) fn postgres_uid() -> Result<u32, Error> {
    if geteuid().is_root() { lookup().map(|user| user.uid.as_raw()) } else { Ok(geteuid().as_raw()) }
}

/// Gives a file or folder of ours to the user that PostgreSQL runs as.
pub(super) fn give(path: &Path) -> Result<(), Error> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let user = lookup()?;
    std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .map_err(Error::io(path.display().to_string()))
}

fn lookup() -> Result<User, Error> {
    User::from_name(POSTGRES).ok().flatten().ok_or(Error::MissingUser(POSTGRES))
}
/// Whether PostgreSQL's user can reach `folder`: a home of root's is closed.
pub(super) fn can_reach(folder: &Path) -> bool {
    if !geteuid().is_root() {
        return true;
    }
    folder.ancestors().all(|part| match std::fs::metadata(part) {
        Ok(found) => found.mode() & 0o001 != 0,
        // Not there yet: it will be made readable.
        Err(_) => true,
    })
}
