//! One PostgreSQL server: a primary or a streaming replica.
//!
//! Roles: superuser `postgres`; `roomgate_owner` owns the database `roomgate` and
//! its schemas `public` and `directory` (migrations run as it); `roomgate` is the
//! gateway's. All without passwords, on loopback.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::Signal;

use super::process::run;
use super::service::{POLL, Probe, READY_WAIT, Service};
use super::{Admin, Error, Port, Spec, account, binary, connect, template};
use crate::config::Endpoint;

/// Enough for 50 nodes with the smallest of pools.
pub(super) const MAX_CONNECTIONS: usize = 1024;

/// A running server. Dropping it ends it at once, as a crash would.
#[derive(Debug)]
pub struct Postgres {
    service: Arc<Service>,
    name: String,
    folder: PathBuf,
    port: Port,
}

impl Postgres {
    /// Starts a new primary that keeps everything below `folder`, on a free port.
    pub async fn primary(folder: &Path, name: &str) -> Result<Self, Error> {
        Self::create(folder, name, Port::free()?).await
    }

    pub async fn create(folder: &Path, name: &str, port: Port) -> Result<Self, Error> {
        prepare(folder)?;
        template::copy_to(&folder.join("data")).await?;
        append_include(&folder.join("data"))?;
        Self::open(folder, name, port, None).await
    }

    /// Copies `primary` and starts a replica that streams from it, with a slot,
    /// on a free port. Returns once it streams.
    pub async fn replica(folder: &Path, name: &str, primary: &Self) -> Result<Self, Error> {
        Self::copy(folder, name, Port::free()?, primary).await
    }

    pub async fn copy(folder: &Path, name: &str, port: Port, primary: &Self) -> Result<Self, Error> {
        copy_data(folder, name, primary).await?;
        let replica = Self::open(folder, name, port, Some(primary)).await?;
        primary.wait_for_stream(name).await?;
        Ok(replica)
    }

    /// Becomes a replica of `primary`, whatever it was before and wherever its
    /// log went: its data is replaced.
    pub async fn rebuild(&self, primary: &Self) -> Result<(), Error> {
        self.service.stop().await;
        copy_data(&self.folder, &self.name, primary).await?;
        self.write_settings(Some(primary))?;
        self.service.restart().await?;
        primary.wait_for_stream(&self.name).await
    }

    /// Streams from `primary` from now on, which must be ahead of it.
    pub async fn follow(&self, primary: &Self) -> Result<(), Error> {
        primary.ensure_slot(&self.name).await?;
        self.write_settings(Some(primary))?;
        self.reload().await
    }

    /// Makes a primary of this replica; up to where its log is the old one's, in
    /// bytes.
    pub async fn promote(&self) -> Result<u64, Error> {
        let admin = self.admin().await?;
        let row =
            admin.query_one("SELECT pg_promote(true, 30)", &[]).await.map_err(Error::sql(&self.name))?;
        if !row.get::<_, bool>(0) {
            return Err(Error::Other(format!("{}: not promoted in 30 s", self.name)));
        }
        // Of a primary it stays what was replayed last.
        let ask = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint";
        let row = admin.query_one(ask, &[]).await.map_err(Error::sql(&self.name))?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    pub async fn in_recovery(&self) -> Result<bool, Error> {
        let ask = self.admin().await?;
        let row = ask.query_one("SELECT pg_is_in_recovery()", &[]).await.map_err(Error::sql(&self.name))?;
        Ok(row.get(0))
    }

    /// How far its log goes, on disk.
    pub async fn flushed(&self) -> Result<u64, Error> {
        let ask = "SELECT pg_wal_lsn_diff(coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')::bigint";
        let row = self.admin().await?.query_one(ask, &[]).await.map_err(Error::sql(&self.name))?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    /// Starts a server on data that is already there. A replica needs `source`.
    pub async fn open(folder: &Path, name: &str, port: Port, source: Option<&Self>) -> Result<Self, Error> {
        let data = folder.join("data");
        write_settings(&data, port.number(), source.map(|source| source.upstream_of(name)))?;
        let spec = Spec {
            name: format!("postgres {name}"),
            program: binary::postgres("postgres")?,
            args: vec!["-D".to_owned(), data.display().to_string()],
            env: Vec::new(),
            log: folder.join("server.log"),
            folder: folder.to_owned(),
            user: account::postgres()?,
            stop_with: Signal::SIGINT,
            kill_with: Signal::SIGQUIT,
        };
        let probe = Probe::Sql(admin_dsn(port.number()));
        let service = Service::launch(spec, probe)?;
        service.ready().await?;
        Ok(Self { service: service.into(), name: name.to_owned(), folder: folder.to_owned(), port })
    }

    /// Ends it in order: open transactions are rolled back, replicas are served
    /// to the end.
    pub async fn stop(&self) {
        self.service.stop().await;
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// To kill it, freeze it, or start it again on the same port.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// For the database `roomgate`, as `user`.
    pub fn dsn(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/roomgate", self.port.number())
    }

    /// As the gateway's configuration names it.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            name: self.name.clone(),
            host: "127.0.0.1".to_owned(),
            port: self.port.number(),
            database: "roomgate".to_owned(),
            user: "roomgate".to_owned(),
            password: None,
            password_file: None,
            tls: None,
            ca_file: None,
            pgbouncer: None,
            zone: None,
            disk_bytes: free_bytes(&self.folder),
            weight: 100,
        }
    }

    pub fn admin_dsn(&self) -> String {
        admin_dsn(self.port.number())
    }

    /// A superuser's connection.
    pub async fn admin(&self) -> Result<Admin, Error> {
        connect(&self.admin_dsn()).await
    }

    /// Whether there is a server's data below `folder`.
    pub fn exists(folder: &Path) -> bool {
        folder.join("data/roomgate.conf").exists()
    }

    /// Whether that server was a replica when it was last used.
    pub fn is_replica(folder: &Path) -> bool {
        Self::exists(folder) && folder.join("data/standby.signal").exists()
    }

    /// A replica goes on receiving but applies nothing, or applies again.
    pub async fn set_replay_paused(&self, paused: bool) -> Result<(), Error> {
        let call = if paused { "SELECT pg_wal_replay_pause()" } else { "SELECT pg_wal_replay_resume()" };
        self.admin().await?.batch_execute(call).await.map_err(Error::sql(&self.name))
    }

    /// From now on a commit waits until one of `standbys` has it on disk; with
    /// none, until it is on the primary's.
    pub async fn set_synchronous(&self, standbys: &[&str]) -> Result<(), Error> {
        let names: Vec<String> = standbys.iter().map(|name| format!("\"{name}\"")).collect();
        let value = if names.is_empty() { String::new() } else { format!("ANY 1 ({})", names.join(", ")) };
        let admin = self.admin().await?;
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{value}'");
        admin.batch_execute(&set).await.map_err(Error::sql(&self.name))?;
        self.reload().await
    }

    /// It also speaks TLS, with this certificate and key, in PEM. It is
    /// started again for that.
    pub async fn set_certificate(&self, certificate: &str, key: &str) -> Result<(), Error> {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data_dir().join(name);
            let what = path.display().to_string();
            std::fs::write(&path, text).map_err(Error::io(&what))?;
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(Error::io(&what))?;
            account::give(&path)?;
        }
        let set = "ALTER SYSTEM SET ssl = on";
        self.admin().await?.batch_execute(set).await.map_err(Error::sql(&self.name))?;
        self.service.restart().await
    }

    async fn reload(&self) -> Result<(), Error> {
        self.admin().await?.batch_execute("SELECT pg_reload_conf()").await.map_err(Error::sql(&self.name))
    }

    /// Waits until the replica `name` streams from here.
    pub async fn wait_for_stream(&self, name: &str) -> Result<(), Error> {
        let admin = self.admin().await?;
        let ask = "SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'";
        let streams = async {
            while admin.query_opt(ask, &[&name]).await.map_err(Error::sql(&self.name))?.is_none() {
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        let late = |_| Err(self.service.not_ready());
        tokio::time::timeout(READY_WAIT, streams).await.unwrap_or_else(late)
    }

    /// Makes sure that the log is kept for the replica `name` while it is away.
    pub async fn ensure_slot(&self, name: &str) -> Result<(), Error> {
        let slot = slot_name(name);
        let ask = "SELECT pg_create_physical_replication_slot($1, true) \
                   WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
        let admin = self.admin().await?;
        admin.execute(ask, &[&slot]).await.map(drop).map_err(Error::sql(&self.name))
    }

    fn write_settings(&self, source: Option<&Self>) -> Result<(), Error> {
        let upstream = source.map(|source| source.upstream_of(&self.name));
        write_settings(&self.data_dir(), self.port.number(), upstream)
    }

    /// Where `replica` streams from here, and its slot.
    fn upstream_of(&self, replica: &str) -> (String, String) {
        (self.replication_dsn(replica), slot_name(replica))
    }

    fn replication_dsn(&self, replica: &str) -> String {
        format!("host=127.0.0.1 port={} user=replicator application_name={replica}", self.port.number())
    }
}

fn admin_dsn(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/roomgate")
}

/// Fills a folder with a copy of `primary` that will be a replica.
async fn copy_data(folder: &Path, name: &str, primary: &Postgres) -> Result<(), Error> {
    prepare(folder)?;
    primary.ensure_slot(name).await?;
    let source = primary.replication_dsn(name);
    let data = folder.join("data").display().to_string();
    let backup = ["-D", &data, "-d", &source, "-S", &slot_name(name), "-X", "stream", "-c", "fast", "-N"];
    let program = binary::postgres("pg_basebackup")?;
    run(&program, account::postgres()?, &backup, "").await?;
    touch(&folder.join("data/standby.signal"))
}

/// An empty folder for a server. Data of one that was never finished, or that is
/// not to be used any more, goes.
fn prepare(folder: &Path) -> Result<(), Error> {
    let data = folder.join("data");
    if data.exists() {
        std::fs::remove_dir_all(&data).map_err(Error::io(data.display().to_string()))?;
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder.display().to_string()))?;
    account::give(folder)
}

fn touch(path: &Path) -> Result<(), Error> {
    std::fs::write(path, "").map_err(Error::io(path.display().to_string()))?;
    account::give(path)
}

/// Slot names know no hyphen.
fn slot_name(replica: &str) -> String {
    replica.replace('-', "_")
}

/// What is free where its data lies: all that it may take.
fn free_bytes(folder: &Path) -> Option<u64> {
    let volume = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(volume.blocks_available() * volume.fragment_size())
}

fn append_include(data: &Path) -> Result<(), Error> {
    let path = data.join("postgresql.conf");
    let what = path.display().to_string();
    let mut text = std::fs::read_to_string(&path).map_err(Error::io(&what))?;
    text.push_str("\ninclude = 'roomgate.conf'\n");
    std::fs::write(&path, text).map_err(Error::io(&what))
}

/// What differs from the defaults. Read before `postgresql.auto.conf`, so that
/// ALTER SYSTEM still wins.
fn write_settings(data: &Path, port: u16, upstream: Option<(String, String)>) -> Result<(), Error> {
    let (source, slot) = upstream.unwrap_or_default();
    let libraries = if template::statistics_available()? { "pg_stat_statements" } else { "" };
    let text = format!(
        "listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = ''\n\
         shared_preload_libraries = '{libraries}'\n\
         max_connections = {MAX_CONNECTIONS}\n\
         shared_buffers = 128MB\n\
         # with the data: what is killed would leave it behind in /dev/shm\n\
         dynamic_shared_memory_type = mmap\n\
         jit = off\n\
         track_io_timing = on\n\
         # durable for real: what the tests prove depends on it\n\
         fsync = on\n\
         synchronous_commit = on\n\
         wal_level = replica\n\
         max_wal_senders = 10\n\
         max_replication_slots = 10\n\
         max_slot_wal_keep_size = 1GB\n\
         hot_standby = on\n\
         primary_conninfo = '{source}'\n\
         primary_slot_name = '{slot}'\n\
         # notice a lost peer, and come back, within seconds\n\
         wal_sender_timeout = 10s\n\
         wal_receiver_timeout = 10s\n\
         wal_receiver_status_interval = 1s\n\
         wal_retrieve_retry_interval = 500ms\n\
         log_line_prefix = '%m [%p] %a '\n\
         log_checkpoints = off\n\
         log_lock_waits = on\n\
         log_min_duration_statement = 1s\n\
         # statements carry the users' texts: they stay out of the log\n\
         log_parameter_max_length = 0\n\
         log_parameter_max_length_on_error = 0\n"
    );
    let path = data.join("roomgate.conf");
    std::fs::write(&path, text).map_err(Error::io(path.display().to_string()))?;
    account::give(&path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::Scratch;

    #[tokio::test]
    async fn a_replica_streams_and_both_survive_a_kill() {
        let scratch = Scratch::new("postgres").unwrap();
        let primary = Postgres::primary(&scratch.path().join("a-1"), "a-1").await.unwrap();
        let replica = Postgres::replica(&scratch.path().join("a-2"), "a-2", &primary).await.unwrap();
        let owner = connect(&primary.dsn("roomgate_owner")).await.unwrap();
        owner.batch_execute("CREATE TABLE t (n int); CREATE TABLE directory.t (n int)").await.unwrap();
        primary.set_synchronous(&["a-2"]).await.unwrap();

        let gateway = connect(&primary.dsn("roomgate")).await.unwrap();
        gateway.batch_execute("INSERT INTO t VALUES (1); INSERT INTO directory.t VALUES (2)").await.unwrap();
        assert!(gateway.batch_execute("CREATE TABLE u (n int)").await.is_err());

        primary.service().kill().await;
        primary.service().restart().await.unwrap();
        primary.wait_for_stream("a-2").await.unwrap();
        replica.service().kill().await;
        replica.service().restart().await.unwrap();
        primary.wait_for_stream("a-2").await.unwrap();
        let found = replica.admin().await.unwrap();
        let row = found.query_one("SELECT n, pg_is_in_recovery() FROM t", &[]).await.unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, bool>(1)), (1, true));
    }

    #[tokio::test]
    async fn a_frozen_server_answers_nothing_on_open_connections() {
        let scratch = Scratch::new("postgres").unwrap();
        let server = Postgres::primary(&scratch.path().join("a-1"), "a-1").await.unwrap();
        let admin = server.admin().await.unwrap();
        server.service().pause();
        let asked = admin.simple_query("SELECT 1");
        tokio::pin!(asked);
        let silence = tokio::time::timeout(std::time::Duration::from_millis(300), &mut asked).await;
        assert!(silence.is_err());
        server.service().resume();
        asked.await.unwrap();
    }

    #[tokio::test]
    async fn a_frozen_server_that_is_dropped_leaves_no_process_and_no_memory() {
        let scratch = Scratch::new("postgres").unwrap();
        let server = Postgres::primary(&scratch.path().join("a-1"), "a-1").await.unwrap();
        let admin = server.admin().await.unwrap();
        let row = admin.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
        let serving = format!("/proc/{}", row.get::<_, i32>(0));
        let row = admin.query_one("SHOW dynamic_shared_memory_type", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "mmap", "which goes with the data");
        server.service().pause();
        assert!(Path::new(&serving).exists());
        drop(server);
        let gone = async {
            while Path::new(&serving).exists() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.expect("it is gone");
    }

    #[tokio::test]
    async fn two_primaries_have_identities_of_their_own() {
        let scratch = Scratch::new("postgres").unwrap();
        let mut identities = Vec::new();
        for name in ["a-1", "b-1"] {
            let server = Postgres::primary(&scratch.path().join(name), name).await.unwrap();
            let admin = server.admin().await.unwrap();
            let row =
                admin.query_one("SELECT system_identifier FROM pg_control_system()", &[]).await.unwrap();
            identities.push(row.get::<_, i64>(0));
        }
        assert_ne!(identities[0], identities[1]);
    }
}
