//! The connections to one endpoint, bounded.
//!
//! bb8 keeps them; this manager decides what a usable connection is. It stands
//! in for bb8-postgres' own manager, which neither bounds a connect, nor keeps
//! notices and statements, nor knows of abandoned queries.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bb8_postgres::bb8;

use super::connect::Connector;
use super::connection::{Connection, Sql};
use super::error::{Class, DbError};
use super::settings::SessionSettings;
use crate::config;
use crate::metrics::EndpointMetrics;
use crate::tasks::Tasks;

/// What fails when there is no usable connection to hand out.
const CHECKOUT: &str = "checkout";

/// A cheap handle to the pool of one endpoint and one purpose.
#[derive(Clone)]
pub struct Pool {
    inner: bb8::Pool<Manager>,
    generation: Arc<AtomicU64>,
    waiting: Arc<AtomicU64>,
    last_error: LastError,
    metrics: EndpointMetrics,
}

/// For metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolState {
    pub size: u32,
    pub idle: u32,
    pub waiting: u64,
}

impl Pool {
    /// Connects lazily; a server that is away is no error here. `statements`
    /// are prepared on every connection when it is made.
    pub fn new(
        endpoint: &config::Endpoint,
        limits: &config::Pool,
        settings: SessionSettings,
        statements: &'static [&'static [&'static Sql]],
        metrics: EndpointMetrics,
        tasks: &Tasks,
    ) -> Self {
        let generation = Arc::new(AtomicU64::new(0));
        let last_error = LastError::default();
        let manager = Manager {
            connector: Connector::pooled(endpoint, settings, tasks),
            statements,
            generation: generation.clone(),
            metrics: metrics.clone(),
        };
        let inner = bb8::Pool::builder()
            .max_size(limits.max_connections)
            .min_idle(Some(limits.min_idle.min(limits.max_connections)))
            .idle_timeout(Some(limits.idle_timeout))
            .connection_timeout(limits.acquire_timeout)
            // Asks nobody: a connection knows whether its socket has ended. Those
            // that died idle, all at once, would fail one request each.
            .test_on_check_out(true)
            // Else a connection that fails to open leaves whoever waits for it to
            // wait out their time, though the next one would succeed.
            .retry_connection(true)
            .error_sink(Box::new(last_error.clone()))
            .build_unchecked(manager);
        Self { inner, generation, waiting: Arc::default(), last_error, metrics }
    }

    /// Waits at most the pool's acquire timeout.
    pub async fn get(&self) -> Result<Lease, DbError> {
        let _waiting = Waiting::start(&self.waiting);
        let started = Instant::now();
        let connection = self.inner.get_owned().await;
        self.metrics.pool_waited(started.elapsed());
        let error = match connection {
            Ok(connection) => {
                self.last_error.clear();
                let (metrics, started) = (self.metrics.clone(), Instant::now());
                let generation = self.generation.clone();
                return Ok(Lease { connection, generation, metrics, started });
            }
            Err(bb8::RunError::User(error)) => error,
            Err(bb8::RunError::TimedOut) => self.last_error.take().unwrap_or_else(|| {
                DbError::new(Class::PoolTimeout, CHECKOUT, "no connection of the pool came free in time")
            }),
        };
        self.metrics.error(error.class().as_str());
        Err(error)
    }

    pub fn metrics(&self) -> &EndpointMetrics {
        &self.metrics
    }

    /// The setting or privilege that keeps the pool from connecting, until it
    /// connects again.
    pub fn misconfigured(&self) -> Option<DbError> {
        self.last_error.misconfigured()
    }

    /// Every connection made so far is dropped when it comes back.
    pub fn retire(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub fn state(&self) -> PoolState {
        let state = self.inner.state();
        PoolState {
            size: state.connections,
            idle: state.idle_connections,
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}

/// A connection on loan; it goes back when dropped, or away if it is broken.
pub struct Lease {
    connection: bb8::PooledConnection<'static, Manager>,
    generation: Arc<AtomicU64>,
    metrics: EndpointMetrics,
    started: Instant,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.metrics.connection_held(self.started.elapsed());
        let Managed { connection, generation } = &*self.connection;
        if connection.is_stale() {
            // Once for all connections of its age, which are stale as well.
            let (old, new) = (*generation, generation + 1);
            if self.generation.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                let [shard, endpoint] = self.metrics.names();
                tracing::info!(shard, endpoint, "a table changed; the pool replaces its connections");
            }
        }
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection.connection
    }
}

struct Manager {
    connector: Connector,
    statements: &'static [&'static [&'static Sql]],
    generation: Arc<AtomicU64>,
    metrics: EndpointMetrics,
}

struct Managed {
    connection: Connection,
    generation: u64,
}

impl bb8::ManageConnection for Manager {
    type Connection = Managed;
    type Error = DbError;

    async fn connect(&self) -> Result<Managed, DbError> {
        let managed = self.open().await;
        if managed.is_err() {
            self.metrics.connect_failed();
        }
        managed
    }

    async fn is_valid(&self, managed: &mut Managed) -> Result<(), DbError> {
        if self.has_broken(managed) {
            return Err(DbError::new(Class::Connection, CHECKOUT, "the connection is broken"));
        }
        Ok(())
    }

    fn has_broken(&self, managed: &mut Managed) -> bool {
        managed.generation != self.generation.load(Ordering::SeqCst) || managed.connection.is_broken()
    }
}

impl Manager {
    async fn open(&self) -> Result<Managed, DbError> {
        // Read before connecting: a change of role in between makes this one old.
        let generation = self.generation.load(Ordering::SeqCst);
        let started = Instant::now();
        let connection = self.connector.connect().await?;
        let connection = connection.measured_by(self.metrics.clone());
        let left = self.connector.timeout().saturating_sub(started.elapsed());
        let statements = self.statements.concat();
        tokio::time::timeout(left, connection.prepare(&statements)).await.map_err(|_| {
            DbError::new(
                Class::Connection,
                "connect",
                format!("{} is slow to prepare", self.connector.endpoint().name),
            )
        })??;
        Ok(Managed { connection, generation })
    }
}

/// Why the pool can't connect, so that a timeout can say it.
#[derive(Debug, Clone, Default)]
struct LastError(Arc<Mutex<Option<DbError>>>);

impl LastError {
    /// An error that lasts is for all who wait, another one for one of them.
    fn take(&self) -> Option<DbError> {
        self.misconfigured().or_else(|| self.error().take())
    }

    fn misconfigured(&self) -> Option<DbError> {
        self.error().clone().filter(|error| error.class() == Class::Misconfigured)
    }

    fn clear(&self) {
        if self.misconfigured().is_some() {
            *self.error() = None;
        }
    }

    fn error(&self) -> MutexGuard<'_, Option<DbError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl bb8::ErrorSink<DbError> for LastError {
    fn sink(&self, error: DbError) {
        if error.what() == CHECKOUT {
            // Another one is taken or made; whether that works is told next.
            return;
        }
        tracing::warn!(%error, "can't connect to the database");
        *self.error() = Some(error);
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<DbError>> {
        Box::new(self.clone())
    }
}

struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn start(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
