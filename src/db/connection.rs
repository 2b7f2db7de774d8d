//! One connection: named statements; and the reasons why it must not be used
//! again.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bb8_postgres::tokio_postgres::types::ToSql;
use bb8_postgres::tokio_postgres::{self, Client, Row, Statement};
use bytes::Bytes;
use futures_util::future::{join3, try_join};
use futures_util::{FutureExt, SinkExt, TryStreamExt};
use tokio::time::timeout;

use super::error::{Class, DbError};
use super::notices::Notices;
use super::statements::{Ready, Statements};
use crate::metrics::EndpointMetrics;

/// A statement with a name: the `statement` label of metrics and the subject of
/// error messages. Make them `static`.
#[derive(Debug)]
pub struct Sql {
    pub name: &'static str,
    pub text: &'static str,
}

/// Futures of one connection that are polled together are pipelined, in the
/// order of their first poll: use `futures_util::future::join`, which keeps it
/// (`tokio::join!` does not promise to), and [`Connection::prepare`] before.
///
/// A future dropped before its end leaves a statement running; the connection
/// then counts as broken and is not used again. So does one that is put back
/// inside a transaction.
pub struct Connection {
    client: Client,
    statements: Statements,
    notices: Notices,
    abandoned: AtomicBool,
    stale: AtomicBool,
    in_transaction: AtomicBool,
    metrics: Option<EndpointMetrics>,
    /// With a statement; `None` is for ever.
    patience: Option<Duration>,
    /// Of its last statement.
    last_end: Mutex<Instant>,
}

/// A statement that takes longer is logged: by its name, never with what it
/// says. Those that take a tenth of it are counted.
const SLOW_LOGGED: Duration = Duration::from_secs(1);
/// For the answer of a server that has ended a statement at its `statement_timeout`.
/// A frozen one ends nothing, and keeps its connections.
const LATE: Duration = Duration::from_secs(1);

impl Connection {
    /// `statement_timeout`: the server's; zero is none.
    pub(super) fn new(
        client: Client,
        statements: Statements,
        notices: Notices,
        statement_timeout: Duration,
    ) -> Self {
        Self {
            client,
            statements,
            notices,
            abandoned: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            in_transaction: AtomicBool::new(false),
            metrics: None,
            patience: (!statement_timeout.is_zero()).then_some(statement_timeout + LATE),
            last_end: Mutex::new(Instant::now()),
        }
    }

    /// From now on its statements are measured.
    pub(super) fn measured_by(self, metrics: EndpointMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    pub async fn query(
        &self,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DbError> {
        match self.query_once(sql, params).await {
            Err(error) if self.can_repeat(&error, sql) => {}
            rows => return self.replicated(sql.name, rows?),
        }
        // Boxed, since it is rare, and every query would be as large.
        let rows = self.query_once(sql, params).boxed().await?;
        self.replicated(sql.name, rows)
    }

    async fn query_once(
        &self,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DbError> {
        let ready = self.ready(sql).await?;
        let rows = self.watch(sql.name, ready.query(&self.client, sql, params));
        if self.is_without_settings() { self.alone(rows).boxed().await } else { rows.await }
    }

    /// Hands the rows to `each` as they arrive, so that the caller keeps only what it
    /// needs of them.
    pub async fn query_each(
        &self,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
        mut each: impl FnMut(Row) + Send,
    ) -> Result<(), DbError> {
        // Boxed, since it is large. An error that can be repeated comes before the first row.
        match self.query_each_once(sql, params, &mut each).boxed().await {
            Err(error) if self.can_repeat(&error, sql) => {}
            ended => return self.replicated(sql.name, ended?),
        }
        self.query_each_once(sql, params, &mut each).boxed().await?;
        self.replicated(sql.name, ())
    }

    async fn query_each_once(
        &self,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
        each: &mut (impl FnMut(Row) + Send),
    ) -> Result<(), DbError> {
        let ready = self.ready(sql).await?;
        let ended = self.watch(sql.name, ready.query_each(&self.client, sql, params, each));
        if self.is_without_settings() { self.alone(ended).boxed().await } else { ended.await }
    }

    pub async fn query_opt(
        &self,
        sql: &'static Sql,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, DbError> {
        let mut rows = self.query(sql, params).await?;
        let row = rows.pop();
        if rows.is_empty() { Ok(row) } else { Err(wrong_count(sql, rows.len() + 1)) }
    }

    pub async fn query_one(&self, sql: &'static Sql, params: &[&(dyn ToSql + Sync)]) -> Result<Row, DbError> {
        self.query_opt(sql, params).await?.ok_or_else(|| wrong_count(sql, 0))
    }

    /// How many rows it touched.
    pub async fn execute(&self, sql: &'static Sql, params: &[&(dyn ToSql + Sync)]) -> Result<u64, DbError> {
        match self.execute_once(sql, params).await {
            Err(error) if self.can_repeat(&error, sql) => {}
            count => return self.replicated(sql.name, count?),
        }
        let count = self.execute_once(sql, params).boxed().await?;
        self.replicated(sql.name, count)
    }

    async fn execute_once(&self, sql: &'static Sql, params: &[&(dyn ToSql + Sync)]) -> Result<u64, DbError> {
        let ready = self.ready(sql).await?;
        let count = self.watch(sql.name, ready.execute(&self.client, sql, params));
        if self.is_without_settings() { self.alone(count).boxed().await } else { count.await }
    }

    /// Behind a PgBouncer only a transaction has the settings that a commit needs.
    fn is_without_settings(&self) -> bool {
        matches!(self.statements, Statements::Whole(_)) && !self.in_transaction.load(Ordering::SeqCst)
    }

    /// A statement in a transaction of its own, in the same round trip.
    async fn alone<T>(&self, statement: impl Future<Output = Result<T, DbError>>) -> Result<T, DbError> {
        let (begun, answer, committed) = join3(self.begin(), statement, self.commit()).await;
        begun?;
        let answer = answer?;
        committed?;
        Ok(answer)
    }

    /// A statement that was prepared before a table changed did not run, so it may be
    /// prepared and sent again. In a transaction its failure undoes the statements
    /// before it: then the pool replaces the connection, and the caller repeats the
    /// transaction.
    fn can_repeat(&self, error: &DbError, sql: &Sql) -> bool {
        if error.class() != Class::Stale {
            return false;
        }
        let in_transaction = self.in_transaction.load(Ordering::SeqCst);
        if in_transaction {
            self.stale.store(true, Ordering::SeqCst);
        }
        self.statements.forget(sql);
        !in_transaction
    }

    /// Outside a transaction, a statement's answer is its commit's too.
    fn replicated<T>(&self, what: &'static str, value: T) -> Result<T, DbError> {
        if self.in_transaction.load(Ordering::SeqCst) || !self.replication_cancelled() {
            return Ok(value);
        }
        let message = "committed on the primary, but a synchronous standby may not have it";
        let error = DbError::new(Class::NotReplicated, what, message);
        self.count(&error);
        Err(error)
    }

    /// Rows in the text form of COPY; how many there were. Not in a transaction.
    pub async fn copy_in(&self, sql: &'static Sql, rows: Bytes) -> Result<u64, DbError> {
        if let Ready::Prepared(statement) = self.ready(sql).await? {
            let count = self.watch(sql.name, self.copy(&statement, rows)).await?;
            return self.replicated(sql.name, count);
        }
        // There is no COPY without a prepared statement. It is closed before
        // COMMIT, while the server's connection is ours.
        self.begin().await?;
        let copied = async {
            let statement = self.client.prepare(sql.text).await?;
            self.copy(&statement, rows).await
        };
        let copied = self.watch(sql.name, copied).await;
        if copied.is_ok() {
            self.commit().await?
        } else {
            self.rollback().await?
        }
        copied
    }

    async fn copy(&self, statement: &Statement, rows: Bytes) -> Result<u64, tokio_postgres::Error> {
        let mut sink = pin!(self.client.copy_in(statement).await?);
        sink.send(rows).await?;
        sink.finish().await
    }

    /// The rows of a `COPY … TO STDOUT` here into a `COPY … FROM STDIN` there, as
    /// they come; how many there were. Each piece waits for `pace`. After an error
    /// neither connection is used again.
    pub async fn pipe(
        &self,
        out: &str,
        to: &Self,
        into: &str,
        pace: impl AsyncFn(usize),
    ) -> Result<u64, DbError> {
        let there = Running { connection: to, what: "copy_in", started: Instant::now(), ended: false };
        let copied = async {
            let (out, into) = try_join(self.client.prepare(out), to.client.prepare(into)).await?;
            let (rows, sink) = try_join(self.client.copy_out(&out), to.client.copy_in(&into)).await?;
            let (mut rows, mut sink) = (pin!(rows), pin!(sink));
            while let Some(piece) = rows.try_next().await? {
                pace(piece.len()).await;
                sink.send(piece).await?;
            }
            sink.finish().await
        };
        let copied = self.watch("copy_out", copied).await;
        if copied.is_ok() {
            there.end();
        } else {
            self.abandoned.store(true, Ordering::SeqCst);
        }
        copied
    }

    /// Statements without parameters, for schema work. Not for transactions.
    pub async fn batch(&self, text: &str) -> Result<(), DbError> {
        self.watch("batch", self.client.batch_execute(text)).await?;
        self.replicated("batch", ())
    }

    /// Begins a transaction at the isolation level READ COMMITTED: each statement sees
    /// the commits before its own start.
    pub async fn begin(&self) -> Result<(), DbError> {
        self.in_transaction.store(true, Ordering::SeqCst);
        self.watch("begin", self.client.batch_execute(self.statements.begin())).await
    }

    /// `Ok` says that the server answered, which it also does when an earlier
    /// statement failed and it rolled back: every statement's answer counts.
    pub async fn commit(&self) -> Result<(), DbError> {
        self.notices.awaits_commit(true);
        self.watch("commit", self.client.batch_execute("COMMIT")).await?;
        self.notices.awaits_commit(false);
        self.in_transaction.store(false, Ordering::SeqCst);
        self.replicated("commit", ())
    }

    pub async fn rollback(&self) -> Result<(), DbError> {
        self.watch("rollback", self.client.batch_execute("ROLLBACK")).await?;
        self.in_transaction.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Prepares what is not prepared yet, in one round trip.
    pub async fn prepare(&self, statements: &[&'static Sql]) -> Result<(), DbError> {
        let is_new = |sql: &&&'static Sql| self.statements.get(sql).is_none();
        let new: Vec<&'static Sql> = statements.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        if matches!(self.statements, Statements::Prepared(_)) || self.in_transaction.load(Ordering::SeqCst) {
            return self.prepare_here(&new).await;
        }
        // For the types of parameters. In a transaction, as the server's
        // connection is ours for so long: what is prepared can be closed again.
        self.begin().await?;
        self.prepare_here(&new).await?;
        self.rollback().await
    }

    async fn prepare_here(&self, statements: &[&'static Sql]) -> Result<(), DbError> {
        let prepared = statements.iter().map(async |sql| {
            let statement = self.watch("prepare", self.client.prepare(sql.text)).await?;
            self.statements.put(sql, statement);
            Ok(())
        });
        futures_util::future::try_join_all(prepared).await.map(drop)
    }

    /// A wait for synchronous replication was cancelled on this connection:
    /// what it committed must not be acked.
    pub fn replication_cancelled(&self) -> bool {
        self.notices.replication_cancelled()
    }

    /// Must not be used again.
    pub fn is_broken(&self) -> bool {
        self.client.is_closed()
            || self.abandoned.load(Ordering::SeqCst)
            || self.is_stale()
            || self.in_transaction.load(Ordering::SeqCst)
            || self.replication_cancelled()
    }

    /// A transaction failed because a table changed after this connection had prepared
    /// its statements. The statements of the pool's other connections are as old.
    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::SeqCst)
    }

    /// The statement behind `sql`, prepared on first use.
    async fn ready(&self, sql: &'static Sql) -> Result<Ready, DbError> {
        if let Some(ready) = self.statements.get(sql) {
            return Ok(ready);
        }
        // Of a type of its own, since it is rare: every query's future would hold it.
        self.prepare(&[sql]).boxed().await?;
        let lost = || DbError::new(Class::Other, "prepare", "what was prepared is gone");
        self.statements.get(sql).ok_or_else(lost)
    }

    /// Runs a statement to its end, measures it, and notes it if it is dropped
    /// before, or given up.
    async fn watch<T>(
        &self,
        what: &'static str,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DbError> {
        let running = Running { connection: self, what, started: Instant::now(), ended: false };
        let answered = match self.patience {
            Some(patience) => timeout(patience, statement).await,
            None => Ok(statement.await),
        };
        let Ok(result) = answered else {
            let error = DbError::no_answer(what);
            self.count(&error);
            return Err(error);
        };
        running.end();
        result.map_err(|error| {
            let error = DbError::from_postgres(what, &error);
            if error.class().breaks_connection() {
                self.abandoned.store(true, Ordering::SeqCst);
            }
            // Those behind a failed statement of a transaction say nothing new.
            if !error.is_in_failed_transaction() {
                self.count(&error);
            }
            error
        })
    }

    fn count(&self, error: &DbError) {
        if let Some(metrics) = &self.metrics {
            metrics.error(error.class().as_str());
        }
    }
}

fn wrong_count(sql: &Sql, rows: usize) -> DbError {
    DbError::new(Class::Other, sql.name, format!("{rows} rows came where one was expected"))
}

struct Running<'a> {
    connection: &'a Connection,
    what: &'static str,
    started: Instant,
    ended: bool,
}

impl Running<'_> {
    fn end(mut self) {
        self.ended = true;
    }

    fn tell(&self, metrics: &EndpointMetrics, elapsed: Duration) {
        if self.ended {
            metrics.query_done(self.what, elapsed);
        }
        if elapsed > SLOW_LOGGED {
            let [shard, endpoint] = metrics.names();
            let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(
                statement = self.what,
                shard,
                endpoint,
                elapsed_ms,
                given_up = !self.ended,
                "a slow statement"
            );
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        // What is pipelined waits for what was sent before it: the one that holds
        // up the others is to be named, not all of them.
        let mut last_end = self.connection.last_end.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *last_end, now);
        drop(last_end);
        if let Some(metrics) = &self.connection.metrics {
            self.tell(metrics, now - before.max(self.started));
        }
        if !self.ended {
            self.connection.abandoned.store(true, Ordering::SeqCst);
        }
    }
}
