//! A PgBouncer before one PostgreSQL server, in transaction mode, with fewer
//! connections than a node's pool has.

use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::Signal;

use super::layout::replace;
use super::service::{Probe, Service};
use super::{Error, Port, Postgres, Spec, account, binary};

#[derive(Debug)]
pub struct PgBouncer {
    service: Arc<Service>,
    port: Port,
}

/// Connections to the server, so that transactions have to share.
const SERVER_CONNECTIONS: usize = 4;

impl PgBouncer {
    /// Keeps its files in `folder`.
    pub async fn start(folder: &Path, server: &Postgres) -> Result<Self, Error> {
        let port = Port::free()?;
        std::fs::create_dir_all(folder).map_err(Error::io(folder.display().to_string()))?;
        account::give(folder)?;
        let (settings, users) = (folder.join("pgbouncer.ini"), folder.join("users.txt"));
        replace(&settings, configuration(port.number(), server.port(), &users).as_bytes())?;
        replace(&users, b"\"roomgate\" \"\"\n")?;
        account::give(&settings)?;
        account::give(&users)?;
        let spec = Spec {
            name: format!("pgbouncer {}", server.name()),
            program: binary::find("pgbouncer", "pgbouncer")?,
            args: vec![settings.display().to_string()],
            env: Vec::new(),
            log: folder.join("pgbouncer.log"),
            folder: folder.to_owned(),
            user: account::postgres()?,
            stop_with: Signal::SIGINT,
            kill_with: Signal::SIGKILL,
        };
        let probe = Probe::Sql(format!("postgres://roomgate@127.0.0.1:{}/roomgate", port.number()));
        let service = Service::launch(spec, probe)?;
        service.ready().await?;
        Ok(Self { service: service.into(), port })
    }

    /// As an endpoint's `pgbouncer` names it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }
}

fn configuration(port: u16, server: u16, users: &Path) -> String {
    format!(
        "[databases]
roomgate = host=127.0.0.1 port={server} dbname=roomgate

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
admin_users = roomgate
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
max_client_conn = 1000
server_login_retry = 1
",
        users = users.display(),
    )
}
