//! Where the programs are. Fixed folders rather than PATH: Debian keeps
//! PostgreSQL's outside PATH, and HAProxy where ordinary users don't look.

use std::path::{Path, PathBuf};

use super::Error;

const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

pub(super) fn find(program: &'static str, package: &'static str) -> Result<PathBuf, Error> {
    FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
        .ok_or(Error::MissingBinary { program, package })
}

/// A program of PostgreSQL: version 15 if it is there, else the newest above.
pub(super) fn postgres(program: &'static str) -> Result<PathBuf, Error> {
    let installed = |version: u32| {
        let path = PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/{program}"));
        path.is_file().then_some(path)
    };
    std::iter::once(15)
        .chain((16..30).rev())
        .find_map(installed)
        .map_or_else(|| find(program, "postgresql"), Ok)
}
