//! Errors that know what to do about themselves.

use std::fmt;

use bb8_postgres::tokio_postgres;
use bb8_postgres::tokio_postgres::error::{DbError as ServerError, SqlState};

/// What an error means for the caller. One row of the table in
/// `docs/architecture.md` each; the table is a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// 40001: serialization failure; on a replica, a recovery conflict.
    Serialization,
    /// 40P01.
    Deadlock,
    /// 55P03: somebody else holds the lock.
    LockTimeout,
    /// 57014: `statement_timeout` or a cancel request.
    Cancelled,
    /// 57P01/2/3, 08xxx, a closed socket: the connection is gone.
    Connection,
    /// 53300: no slot left on the server.
    TooManyConnections,
    /// No connection of the pool came free in time.
    PoolTimeout,
    /// 25006, or a recovery function on the wrong role: not the primary.
    ReadOnly,
    /// The wait for a standby was cancelled: committed here, perhaps on no standby.
    NotReplicated,
    /// 26000, 42P05, and the 0A000 of a cached plan: the connection's statements
    /// were prepared before a table changed. The statement did not run.
    Stale,
    /// 42501, and the 42xxx and 3Fxxx of a missing table, column, function or
    /// schema; a setting that breaks a guarantee. An operator must act.
    Misconfigured,
    /// 53100, 58030: disk full or failing.
    Storage,
    /// 53200: out of memory or locks.
    OutOfMemory,
    /// 23505.
    UniqueViolation,
    /// 22xxx, other 23xxx and 42xxx: a bug or bad input; never retried.
    BadInput,
    /// Anything else.
    Other,
}

impl Class {
    pub const ALL: [Self; 16] = [
        Self::Serialization,
        Self::Deadlock,
        Self::LockTimeout,
        Self::Cancelled,
        Self::Connection,
        Self::TooManyConnections,
        Self::PoolTimeout,
        Self::ReadOnly,
        Self::NotReplicated,
        Self::Stale,
        Self::Misconfigured,
        Self::Storage,
        Self::OutOfMemory,
        Self::UniqueViolation,
        Self::BadInput,
        Self::Other,
    ];

    /// For the `class` label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serialization => "serialization",
            Self::Deadlock => "deadlock",
            Self::LockTimeout => "lock_timeout",
            Self::Cancelled => "cancelled",
            Self::Connection => "connection",
            Self::TooManyConnections => "too_many_connections",
            Self::PoolTimeout => "pool_timeout",
            Self::ReadOnly => "read_only",
            Self::NotReplicated => "not_replicated",
            Self::Stale => "stale",
            Self::Misconfigured => "misconfigured",
            Self::Storage => "storage",
            Self::OutOfMemory => "out_of_memory",
            Self::UniqueViolation => "unique_violation",
            Self::BadInput => "bad_input",
            Self::Other => "other",
        }
    }

    /// What failed may go well in a moment, without anybody's doing.
    pub fn may_pass(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::TooManyConnections
                | Self::PoolTimeout
                | Self::LockTimeout
                | Self::Cancelled
                | Self::Stale
        )
    }

    /// A transaction that may be repeated is worth it: the next one may succeed.
    pub fn is_worth_another_transaction(self) -> bool {
        !matches!(self, Self::BadInput | Self::Misconfigured | Self::Other | Self::Storage)
    }

    /// The connection can't be trusted any more.
    pub fn breaks_connection(self) -> bool {
        matches!(self, Self::Connection | Self::ReadOnly | Self::NotReplicated)
    }

    pub fn of_sqlstate(state: &str) -> Self {
        match state {
            "40001" => Self::Serialization,
            "40P01" => Self::Deadlock,
            "55P03" => Self::LockTimeout,
            "57014" => Self::Cancelled,
            "57P01" | "57P02" | "57P03" => Self::Connection,
            "53300" => Self::TooManyConnections,
            // 55000 is what `pg_current_wal_lsn()` answers during recovery.
            "25006" | "55000" => Self::ReadOnly,
            "26000" | "42P05" => Self::Stale,
            "42501" | "42P01" | "42703" | "42704" | "42883" | "3F000" => Self::Misconfigured,
            "53100" | "58030" => Self::Storage,
            "53200" => Self::OutOfMemory,
            "23505" => Self::UniqueViolation,
            _ => match &state[..2.min(state.len())] {
                "08" => Self::Connection,
                "22" | "23" | "42" => Self::BadInput,
                _ => Self::Other,
            },
        }
    }
}

/// A failed statement, connect or checkout. Its text never holds a password, a
/// DSN or a body: PostgreSQL's `DETAIL`, which quotes rows, is left out.
#[derive(Debug, Clone)]
pub struct DbError {
    class: Class,
    what: &'static str,
    message: Box<str>,
    sqlstate: Option<Box<str>>,
    constraint: Option<Box<str>>,
}

impl DbError {
    pub fn new(class: Class, what: &'static str, message: impl Into<Box<str>>) -> Self {
        Self { class, what, message: message.into(), sqlstate: None, constraint: None }
    }

    /// Of a statement that was given up: the server may be frozen, or out of reach.
    pub fn no_answer(what: &'static str) -> Self {
        Self::new(Class::Connection, what, "no answer in time")
    }

    /// `what`: the statement's name, or "connect".
    pub fn from_postgres(what: &'static str, error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(server) => Self::from_server(what, server),
            None => Self::new(client_class(error), what, error.to_string()),
        }
    }

    fn from_server(what: &'static str, server: &ServerError) -> Self {
        // Other statements with this SQLSTATE ask for something that the server can't do.
        let is_stale_plan = *server.code() == SqlState::FEATURE_NOT_SUPPORTED
            && server.routine() == Some("RevalidateCachedQuery");
        let class = if is_stale_plan { Class::Stale } else { Class::of_sqlstate(server.code().code()) };
        Self {
            class,
            what,
            message: server.message().into(),
            sqlstate: Some(server.code().code().into()),
            constraint: server.constraint().map(Box::from),
        }
    }

    pub fn class(&self) -> Class {
        self.class
    }

    /// The statement's name, "connect" or "checkout".
    pub fn what(&self) -> &'static str {
        self.what
    }

    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// The violated constraint or index, if it was one.
    pub fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }

    /// The remedy of an operator, for errors that nothing else mends.
    pub fn remedy(&self) -> Option<&'static str> {
        match self.sqlstate.as_deref()? {
            "42501" => Some(
                "Grant the gateway's role its privileges again with `roomgate migrate up`, or remove the row policy",
            ),
            "42P01" | "42703" | "42704" | "42883" | "3F000" => Some(
                "A table, column or function was renamed or dropped, or a migration is missing: compare the \
                 schema with `roomgate migrate status`, restore it, then run `roomgate migrate up`",
            ),
            "26000" | "42P05" => Some(
                "If a PgBouncer stands between the gateway and the server, name it as the endpoint's `pgbouncer`",
            ),
            _ => None,
        }
    }

    /// Inside a transaction that an earlier statement broke: look there.
    pub fn is_in_failed_transaction(&self) -> bool {
        self.sqlstate() == Some(SqlState::IN_FAILED_SQL_TRANSACTION.code())
    }
}

/// Without a server's word: a parameter that doesn't fit is ours, the rest is
/// the connection.
fn client_class(error: &tokio_postgres::Error) -> Class {
    let text = error.to_string();
    if text.starts_with("error serializing") || text.starts_with("error deserializing") {
        Class::BadInput
    } else {
        Class::Connection
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}", self.what, self.message, self.class.as_str())?;
        match &self.sqlstate {
            Some(state) => write!(f, ", SQLSTATE {state})")?,
            None => f.write_str(")")?,
        }
        self.remedy().map_or(Ok(()), |remedy| write!(f, ". {remedy}"))
    }
}

impl std::error::Error for DbError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlstate_of_the_table_has_its_class() {
        let table = [
            ("40001", Class::Serialization),
            ("40P01", Class::Deadlock),
            ("55P03", Class::LockTimeout),
            ("57014", Class::Cancelled),
            ("57P01", Class::Connection),
            ("57P03", Class::Connection),
            ("08006", Class::Connection),
            ("53300", Class::TooManyConnections),
            ("25006", Class::ReadOnly),
            ("26000", Class::Stale),
            ("42501", Class::Misconfigured),
            ("42P01", Class::Misconfigured),
            ("42703", Class::Misconfigured),
            ("3F000", Class::Misconfigured),
            ("0A000", Class::Other),
            // A warning is no error: see `Notices`.
            ("01000", Class::Other),
            ("53100", Class::Storage),
            ("58030", Class::Storage),
            ("23505", Class::UniqueViolation),
            ("22P02", Class::BadInput),
            ("23514", Class::BadInput),
            ("42601", Class::BadInput),
            ("53200", Class::OutOfMemory),
            ("XX000", Class::Other),
            ("", Class::Other),
        ];
        for (state, class) in table {
            assert_eq!(Class::of_sqlstate(state), class, "{state}");
        }
    }
}
