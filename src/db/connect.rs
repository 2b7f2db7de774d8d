//! Opening a connection: bounded in time as a whole, over TLS where that is asked
//! for, with its settings in the start-up packet, its messages driven by a named
//! task. Pools, monitors, migrations and checks all come this way.

use std::error::Error as _;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bb8_postgres::tokio_postgres::config::SslMode;
use bb8_postgres::tokio_postgres::{self, AsyncMessage, Client, NoTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connection::Connection;
use super::error::{Class, DbError};
use super::statements::{KnownTypes, Statements};
use crate::config::{Endpoint, Tls};
use crate::tasks::Tasks;
use crate::tls::Trust;

/// What a connection is for; becomes its settings on the server, if they are
/// not the role's own behind a PgBouncer.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Shown in `pg_stat_activity`, e.g. `roomgate/n1/append`.
    pub application_name: String,
    /// From TCP to "ready for query".
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
    pub lock_timeout: Duration,
    /// `directory` for the directory's tables, else the server's default.
    pub search_path: Option<&'static str>,
}

/// Every statement of the gateway looks things up by key, so its plan is a
/// nested loop over an index, and is made once. Left to itself, PostgreSQL plans
/// those with short arrays anew each time, which costs several times what it
/// takes to run them; and a plan made while a table was small, which is when a
/// new shard's connections are opened, reads the whole table until the next
/// ANALYZE, however large it has grown.
pub const PLANNER: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    // It looks at costs, which the switches above raise where nothing else is left.
    ("jit", "off"),
];

impl SessionSettings {
    /// What the server must be set to, as `pg_settings` shows it.
    pub(super) fn wanted(&self) -> Vec<(&'static str, String)> {
        let millis = |time: Duration| time.as_millis().to_string();
        let mut wanted = vec![
            ("statement_timeout", millis(self.statement_timeout)),
            ("lock_timeout", millis(self.lock_timeout)),
            ("idle_in_transaction_session_timeout", millis(self.statement_timeout * 2)),
            ("TimeZone", "UTC".to_owned()),
        ];
        wanted.extend(PLANNER.map(|(name, value)| (name, value.to_owned())));
        wanted.extend(self.search_path.map(|path| ("search_path", path.to_owned())));
        wanted
    }

    fn options(&self) -> String {
        let options = self.wanted().into_iter().map(|(name, value)| format!("-c {name}={value}"));
        options.collect::<Vec<_>>().join(" ")
    }
}

/// The way to one server, for one purpose.
pub struct Connector {
    endpoint: Endpoint,
    settings: SessionSettings,
    trust: Trust,
    /// Through PgBouncer: what is known of statements.
    pooled: Option<Arc<KnownTypes>>,
    tasks: Tasks,
}

impl Connector {
    /// For a pool: through the endpoint's PgBouncer, if it has one.
    pub fn pooled(endpoint: &Endpoint, settings: SessionSettings, tasks: &Tasks) -> Self {
        let pooled = endpoint.pgbouncer.is_some().then(Arc::default);
        Self { pooled, ..Self::new(&endpoint.pooled(), settings, tasks) }
    }

    /// To the server itself.
    pub fn new(endpoint: &Endpoint, settings: SessionSettings, tasks: &Tasks) -> Self {
        let trust = Trust::new(endpoint.ca_file.clone());
        Self { endpoint: endpoint.clone(), settings, trust, pooled: None, tasks: tasks.clone() }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub fn settings(&self) -> &SessionSettings {
        &self.settings
    }

    /// The server's settings can't be chosen by who connects.
    pub fn is_pooled(&self) -> bool {
        self.pooled.is_some()
    }

    /// From TCP to "ready for query".
    pub fn timeout(&self) -> Duration {
        self.settings.connect_timeout
    }

    /// Opens a connection and spawns the task that drives it.
    pub async fn connect(&self) -> Result<Connection, DbError> {
        let limit = self.timeout();
        let late = |_| self.failed(format!("no connection to {} in {limit:?}", self.endpoint.name));
        timeout(limit, self.open()).await.map_err(late)?
    }

    async fn open(&self) -> Result<Connection, DbError> {
        let mut config = client_config(&self.endpoint, &self.settings)?;
        if !self.is_pooled() {
            config.options(self.settings.options());
        }
        match self.endpoint.tls() {
            Tls::Off => {
                let opened = config.ssl_mode(SslMode::Disable).connect(NoTls).await;
                let (client, driver) = opened.map_err(|error| self.refused(&error))?;
                Ok(self.drive(client, driver))
            }
            Tls::Verify => {
                let trusted = self.trust.settings().map_err(|error| self.failed(error.to_string()))?;
                let tls = MakeRustlsConnect::new(trusted);
                // Nothing is sent to a server that doesn't speak TLS.
                let opened = config.ssl_mode(SslMode::Require).connect(tls).await;
                let (client, driver) = opened.map_err(|error| {
                    self.trust.forget();
                    self.refused(&error)
                })?;
                Ok(self.drive(client, driver))
            }
        }
    }

    fn drive<S, T>(&self, client: Client, mut driver: tokio_postgres::Connection<S, T>) -> Connection
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let not_replicated = Arc::new(AtomicBool::new(false));
        let noticed = not_replicated.clone();
        let name = self.endpoint.name.clone();
        self.tasks.spawn_for_handle("db-connection", async move {
            loop {
                match poll_fn(|cx| driver.poll_message(cx)).await {
                    // The notice comes before COMMIT's answer, and is noted here
                    // before the driver hands that answer to whoever waits for it.
                    Some(Ok(AsyncMessage::Notice(notice))) => {
                        if Class::of_sqlstate(notice.code().code()) == Class::NotReplicated {
                            noticed.store(true, Ordering::SeqCst);
                        }
                        tracing::debug!(endpoint = name, code = notice.code().code(), "{}", notice.message());
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::debug!(endpoint = name, %error, "database connection ended");
                        return;
                    }
                    None => return,
                }
            }
        });
        let statements = match &self.pooled {
            Some(types) => Statements::Whole(types.clone()),
            None => Statements::Prepared(Mutex::default()),
        };
        Connection::new(client, statements, not_replicated, self.settings.statement_timeout)
    }

    /// Says of a server that isn't spoken to why; else what it said.
    fn refused(&self, error: &tokio_postgres::Error) -> DbError {
        if error.as_db_error().is_some() {
            return DbError::from_postgres("connect", error);
        }
        let Endpoint { name, host, port, .. } = &self.endpoint;
        let why = self.trust.explain(error).unwrap_or_else(|| match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        });
        self.failed(format!("{name} ({host}:{port}): {why}"))
    }

    fn failed(&self, message: String) -> DbError {
        DbError::new(Class::Connection, "connect", message)
    }
}

fn client_config(endpoint: &Endpoint, settings: &SessionSettings) -> Result<tokio_postgres::Config, DbError> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&endpoint.host)
        .port(endpoint.port)
        .dbname(&endpoint.database)
        .user(&endpoint.user)
        .application_name(&settings.application_name)
        .connect_timeout(settings.connect_timeout)
        .tcp_user_timeout(Duration::from_secs(10))
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(3))
        .keepalives_retries(3);
    if let Some(password) = &endpoint.password {
        config.password(password.reveal());
    } else if let Some(file) = &endpoint.password_file {
        let text = std::fs::read_to_string(file).map_err(|error| {
            let message = format!("can't read the password file {}: {error}", file.display());
            DbError::new(Class::Other, "connect", message)
        })?;
        config.password(text.trim_end_matches(['\r', '\n']));
    }
    Ok(config)
}
