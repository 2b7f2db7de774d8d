//! How a statement is sent: prepared once on its connection; or, through
//! PgBouncer, whole each time, since behind it every transaction may have another
//! connection, and one connection the transactions of many.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bb8_postgres::tokio_postgres::types::{ToSql, Type};
use bb8_postgres::tokio_postgres::{Client, Error, Row, Statement};

use futures_util::TryStreamExt;

use super::connection::Sql;
use super::settings::{BEGIN, IN_A_TRANSACTION};

/// What one connection knows of statements.
pub(super) enum Statements {
    Prepared(Mutex<HashMap<&'static str, Statement>>),
    Whole(Arc<KnownTypes>),
}

/// Of parameters, as the server said; the same on all connections of a pool.
#[derive(Default)]
pub(super) struct KnownTypes(Mutex<HashMap<&'static str, Arc<[Type]>>>);

/// A statement that can be sent at once.
pub(super) enum Ready {
    Prepared(Statement),
    Whole(Arc<[Type]>),
}

impl Statements {
    pub fn get(&self, sql: &Sql) -> Option<Ready> {
        match self {
            Self::Prepared(statements) => locked(statements).get(sql.name).cloned().map(Ready::Prepared),
            Self::Whole(types) => locked(&types.0).get(sql.name).cloned().map(Ready::Whole),
        }
    }

    pub fn put(&self, sql: &'static Sql, statement: Statement) {
        match self {
            Self::Prepared(statements) => drop(locked(statements).insert(sql.name, statement)),
            Self::Whole(types) => drop(locked(&types.0).insert(sql.name, statement.params().into())),
        }
    }

    /// The text that begins a transaction.
    pub fn begin(&self) -> &'static str {
        match self {
            Self::Prepared(_) => BEGIN,
            Self::Whole(_) => IN_A_TRANSACTION,
        }
    }

    /// Makes the next use prepare it again.
    pub fn forget(&self, sql: &Sql) {
        match self {
            Self::Prepared(statements) => drop(locked(statements).remove(sql.name)),
            Self::Whole(types) => drop(locked(&types.0).remove(sql.name)),
        }
    }
}

impl Ready {
    pub async fn query(&self, client: &Client, sql: &Sql, params: Params<'_>) -> Result<Vec<Row>, Error> {
        match self {
            Self::Prepared(statement) => client.query(statement, params).await,
            Self::Whole(types) => client.query_typed(sql.text, &typed(params, types)).await,
        }
    }

    /// Hands the rows to `each` as they arrive.
    pub async fn query_each(
        &self,
        client: &Client,
        sql: &Sql,
        params: Params<'_>,
        each: &mut (impl FnMut(Row) + Send),
    ) -> Result<(), Error> {
        let rows = match self {
            Self::Prepared(statement) => client.query_raw(statement, params.iter().copied()).await?,
            Self::Whole(types) => client.query_typed_raw(sql.text, typed(params, types)).await?,
        };
        let mut rows = pin!(rows);
        while let Some(row) = rows.try_next().await? {
            each(row);
        }
        Ok(())
    }

    pub async fn execute(&self, client: &Client, sql: &Sql, params: Params<'_>) -> Result<u64, Error> {
        match self {
            Self::Prepared(statement) => client.execute(statement, params).await,
            Self::Whole(types) => client.execute_typed(sql.text, &typed(params, types)).await,
        }
    }
}

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

fn typed<'a>(params: Params<'a>, types: &[Type]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    params.iter().copied().zip(types.iter().cloned()).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
