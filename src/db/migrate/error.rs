//! Why a schema was not changed, with what to do about it.

use thiserror::Error;

use crate::db::DbError;

#[derive(Debug, Error)]
pub enum MigrateError {
    #[error("{target}: {error}")]
    Database { target: String, error: Box<DbError> },
    #[error("{target}: none of its endpoints is a primary that answers ({tried})")]
    NoPrimary { target: String, tried: String },
    #[error("{target}: two primaries answer, {first} and {second}; take the wrong one away first")]
    TwoPrimaries { target: String, first: String, second: String },
    #[error("{target}: another migration has been running for {waited:?}; wait for it, then try again")]
    Busy { target: String, waited: std::time::Duration },
    #[error(
        "{target}: migration {version:04} {name} differs from what was applied; \
         restore the file and put the change into a new migration"
    )]
    Changed { target: String, version: i64, name: String },
    #[error("{target}: migration {version:04} fails and changed nothing: {error}")]
    Failed { target: String, version: i64, error: Box<DbError> },
    #[error(
        "{target}: migration {version:04} is newer than this program; undo it with the one that applied it"
    )]
    Unknown { target: String, version: i64 },
    #[error(
        "{target}: the schema is at version {found}, this program needs {needed}; \
         bring it up with `roomgate migrate up`"
    )]
    TooOld { target: String, found: i64, needed: i64 },
    #[error(
        "{target}: the schema lacks what this program needs ({error}); \
         bring it up with `roomgate migrate up`"
    )]
    Lacking { target: String, error: Box<DbError> },
}
