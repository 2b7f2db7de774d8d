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
use super::notices::Notices;
use super::settings::{Difference, FOUND, IN_A_SESSION, SessionSettings};
use super::statements::{KnownTypes, Statements};
use crate::config::{Endpoint, Tls};
use crate::tasks::Tasks;
use crate::tls::Trust;

/// The way to one server, for one purpose.
pub struct Connector {
    endpoint: Endpoint,
    settings: SessionSettings,
    trust: Trust,
    /// Through PgBouncer: what is known of statements.
    pooled: Option<Arc<KnownTypes>>,
    advised: AtomicBool,
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
        Self {
            endpoint: endpoint.clone(),
            settings,
            trust,
            pooled: None,
            advised: AtomicBool::new(false),
            tasks: tasks.clone(),
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub fn settings(&self) -> &SessionSettings {
        &self.settings
    }

    /// A client of PgBouncer can't choose the server's settings.
    pub fn is_pooled(&self) -> bool {
        self.pooled.is_some()
    }

    /// From TCP to "ready for query".
    pub fn timeout(&self) -> Duration {
        self.settings.connect_timeout
    }

    /// Opens a connection, and spawns the task that drives it. Refuses a server
    /// on which a setting breaks a guarantee.
    ///
    /// # Errors
    /// [`Class::Misconfigured`] names the setting and the remedy.
    pub async fn connect(&self) -> Result<Connection, DbError> {
        let limit = self.timeout();
        let late = |_| self.failed(format!("no connection to {} in {limit:?}", self.endpoint.name));
        timeout(limit, self.open_checked()).await.map_err(late)?
    }

    /// The statements that give the pool's role its settings behind a PgBouncer.
    ///
    /// # Errors
    /// If no connection can be opened.
    pub async fn missing_settings(&self) -> Result<Vec<String>, DbError> {
        let limit = self.timeout();
        let late = |_| self.failed(format!("no connection to {} in {limit:?}", self.endpoint.name));
        let differences = async { self.differences(&self.open().await?).await };
        let differences = timeout(limit, differences).await.map_err(late)??;
        Ok(differences.iter().map(|difference| self.alter_role(difference)).collect())
    }

    async fn open_checked(&self) -> Result<Connection, DbError> {
        let connection = self.open().await?;
        if !self.is_pooled() {
            connection.batch(IN_A_SESSION).await?;
        }
        let differences = self.differences(&connection).await?;
        self.refuse(&differences)?;
        if !differences.is_empty() && !self.advised.swap(true, Ordering::Relaxed) {
            let endpoint = &self.endpoint.name;
            tracing::error!(
                endpoint,
                "behind PgBouncer the role lacks settings of its own. {}",
                self.remedy(&differences)
            );
        }
        Ok(connection)
    }

    /// Compares the settings again, on a connection that is open: a server may
    /// have read its configuration anew.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn check(&self, connection: &Connection) -> Result<(), DbError> {
        self.refuse(&self.differences(connection).await?)
    }

    fn refuse(&self, differences: &[Difference]) -> Result<(), DbError> {
        match differences.iter().find(|difference| difference.breaks_a_guarantee()) {
            Some(first) => Err(first.refusal(&self.endpoint.name, &self.remedy(differences))),
            None => Ok(()),
        }
    }

    async fn differences(&self, connection: &Connection) -> Result<Vec<Difference>, DbError> {
        Ok(self.settings.compare(&connection.query(&FOUND, &[&self.settings.names()]).await?))
    }

    fn remedy(&self, differences: &[Difference]) -> String {
        if self.is_pooled() {
            let statements: Vec<String> = differences.iter().map(|each| self.alter_role(each)).collect();
            return format!("Run {}; then RECONNECT on PgBouncer's console", statements.join("; "));
        }
        let broken = differences.iter().filter(|difference| difference.breaks_a_guarantee());
        broken.map(Difference::remedy).collect::<Vec<_>>().join(". ")
    }

    fn alter_role(&self, difference: &Difference) -> String {
        difference.alter_role(&self.endpoint.user, &self.endpoint.database)
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
        let notices = Notices::default();
        let noticed = notices.clone();
        let name = self.endpoint.name.clone();
        self.tasks.spawn_for_handle("db-connection", async move {
            loop {
                match poll_fn(|cx| driver.poll_message(cx)).await {
                    // The notice arrives before the answer to COMMIT. It is noted here
                    // before the driver passes that answer on.
                    Some(Ok(AsyncMessage::Notice(notice))) => {
                        noticed.note(notice.code().code(), notice.routine());
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
        Connection::new(client, statements, notices, self.settings.statement_timeout)
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
