//! Why a part of the embedded cluster could not be started.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum Error {
    #[error("{program} is not installed; on Debian: apt-get install {package}")]
    MissingBinary { program: &'static str, package: &'static str },
    #[error("there is no system user {0:?}, which PostgreSQL must run as when started by root")]
    MissingUser(&'static str),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    /// A process ended before it was of use. `log` is the end of what it wrote.
    #[error("{name} ended ({status}); its last words:\n{log}")]
    Ended { name: String, status: String, log: String },
    #[error("{name} did not become ready within {waited:?}; its last words:\n{log}")]
    NotReady { name: String, waited: Duration, log: String },
    #[error("no free port between {first} and {last}")]
    NoPort { first: u16, last: u16 },
    #[error("{name}: {source}")]
    Sql { name: String, source: tokio_postgres::Error },
    #[error("another `roomgate dev` is using {}", .0.display())]
    InUse(PathBuf),
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// For `map_err`: names what was tried.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(super) fn sql(name: &str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let name = name.to_owned();
        move |source| Self::Sql { name, source }
    }
}
