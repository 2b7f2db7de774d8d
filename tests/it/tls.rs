//! Servers that must prove who they are, PostgreSQL and Redis, with certificates
//! made here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use roomgate::bus;
use roomgate::config::{self, Endpoint, Secret, Tls};
use roomgate::db::{Connector, SessionSettings, Sql};
use roomgate::dev::{Options, Port, Postgres, Redis, Scratch};
use roomgate::tasks::Tasks;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::World;

static ENCRYPTED: Sql =
    Sql { name: "encrypted", text: "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()" };

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key for a host of that name, in PEM.
    fn vouch(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn file(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, &self.pem).unwrap();
        path
    }
}

fn connector(endpoint: &Endpoint, tasks: &Tasks) -> Connector {
    let settings = SessionSettings {
        application_name: "roomgate/tls".to_owned(),
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(10),
        lock_timeout: Duration::from_secs(1),
        search_path: "public",
    };
    Connector::new(endpoint, settings, tasks)
}

/// Whether the connection is encrypted, or why there is none.
async fn try_it(connector: &Connector) -> Result<bool, String> {
    let connection = connector.connect().await.map_err(|error| error.to_string())?;
    Ok(connection.query_one(&ENCRYPTED, &[]).await.unwrap().get(0))
}

fn assert_says(refused: Result<bool, String>, parts: &[&str]) {
    let text = refused.expect_err("it must not be spoken to");
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_server_is_spoken_to_only_after_it_has_proved_its_name() {
    let scratch = Scratch::new("tls").unwrap();
    let server = Postgres::primary(&scratch.path().join("a-1"), "a-1").await.unwrap();
    let (ours, another) = (Authority::new("ours"), Authority::new("another"));
    let admin = server.admin().await.unwrap();
    admin.batch_execute("ALTER ROLE roomgate PASSWORD 'p@ss w#rd'").await.unwrap();
    // With the password goes the proof that nobody sits in between.
    let rules = "host all postgres 127.0.0.1/32 trust\nhostssl all roomgate 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(server.data_dir().join("pg_hba.conf"), rules).unwrap();
    let (certificate, key) = ours.vouch("localhost");
    server.set_certificate(&certificate, &key).await.unwrap();

    let tasks = Tasks::new();
    let proven = Endpoint {
        host: "localhost".to_owned(),
        password: Some(Secret::new("p@ss w#rd")),
        tls: Some(Tls::Verify),
        ca_file: Some(ours.file(scratch.path(), "ours.pem")),
        ..server.endpoint()
    };
    let with = |endpoint: Endpoint| connector(&endpoint, &tasks);
    assert_eq!(try_it(&with(proven.clone())).await, Ok(true));

    let elsewhere = Endpoint { host: "127.0.0.1".to_owned(), ..proven.clone() };
    assert_says(
        try_it(&with(elsewhere)).await,
        &["a-1 (127.0.0.1:", "its certificate won't do", "localhost"],
    );
    let of_system = Endpoint { ca_file: None, ..proven.clone() };
    assert_says(try_it(&with(of_system)).await, &["the system's certificates"]);
    let absent = Endpoint { ca_file: Some(scratch.path().join("absent.pem")), ..proven.clone() };
    assert_says(try_it(&with(absent)).await, &["can't use", "absent.pem"]);
    let file = another.file(scratch.path(), "replaced.pem");
    let replaced = with(Endpoint { ca_file: Some(file.clone()), ..proven.clone() });
    assert_says(try_it(&replaced).await, &["signed by no authority of", "replaced.pem"]);
    ours.file(scratch.path(), "replaced.pem");
    assert_eq!(try_it(&replaced).await, Ok(true), "the file is read again");

    admin_of(&server, "ALTER SYSTEM SET ssl = off").await;
    server.service().restart().await.unwrap();
    assert_says(try_it(&with(proven)).await, &["a-1 (localhost:", "does not support TLS"]);
}

async fn admin_of(server: &Postgres, sql: &str) {
    server.admin().await.unwrap().batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn redis_proves_its_name_as_well() {
    let scratch = Scratch::new("tls-redis").unwrap();
    let redis = Redis::start(scratch.path()).await.unwrap();
    let (ours, another) = (Authority::new("ours"), Authority::new("another"));
    let port = speak_tls(&redis, &ours, scratch.path()).await;
    let (file, wrong) = (ours.file(scratch.path(), "ours.pem"), another.file(scratch.path(), "wrong.pem"));
    let probe = async |host: &str, ca_file: &Path| {
        let redis = config::Redis {
            url: format!("rediss://{host}:{}", port.number()),
            ca_file: Some(ca_file.to_owned()),
            username: None,
            password: None,
            password_file: None,
            unsigned: config::Unsigned::Refuse,
            insecure: false,
        };
        bus::probe(&redis).await
    };
    probe("localhost", &file).await.unwrap();
    probe("localhost", &wrong).await.expect_err("nobody we trust vouches for it");
    probe("127.0.0.1", &file).await.expect_err("it is somebody else's certificate");
}

/// The running Redis speaks TLS as well, on this port.
async fn speak_tls(redis: &Redis, authority: &Authority, folder: &Path) -> Port {
    let port = Port::free().unwrap();
    let (certificate, key) = authority.vouch("localhost");
    let files = [("redis.crt", certificate), ("redis.key", key)].map(|(name, text)| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    });
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
    let [certificate, key] = files;
    let set = format!(
        "CONFIG SET tls-auth-clients no tls-cert-file {certificate} tls-key-file {key} tls-port {}\r\n",
        port.number()
    );
    socket.write_all(set.as_bytes()).await.unwrap();
    let mut answer = [0; 512];
    let length = socket.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"+OK"), "{}", String::from_utf8_lossy(&answer[..length]));
    port
}

#[tokio::test]
async fn every_connection_of_a_node_is_encrypted() {
    let world = World::start(|options| Options { nodes: 1, shards: 1, replicas: 1, ..options }).await;
    let shard = world.cluster().shards()[0];
    let node = &world.cluster().nodes()[0];
    let file = world.cluster().report().jwt.key_file.with_file_name("nodes/node-1.toml");
    let folder = file.parent().unwrap();
    let ours = Authority::new("ours");
    node.service().stop().await;
    for server in shard.servers() {
        let (certificate, key) = ours.vouch("localhost");
        server.set_certificate(&certificate, &key).await.unwrap();
    }
    let redis = world.cluster().redis();
    let port = speak_tls(redis, &ours, folder).await;
    let ca_file = format!("ca_file = {:?}", ours.file(folder, "ours.pem").display().to_string());
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text
        // A host on this machine with an authority: verified without further words.
        .replace("host = \"127.0.0.1\"", &format!("host = \"localhost\"\n{ca_file}"))
        .replace(&redis.url(), &format!("rediss://localhost:{}", port.number()))
        .replace("[redis]", &format!("[redis]\n{ca_file}"));
    std::fs::write(&file, text).unwrap();

    for verb in [&["migrate", "status"][..], &["check-config"]] {
        let answer = world.roomgate(verb);
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(answer.status.success(), "{verb:?}: {text} {}", String::from_utf8_lossy(&answer.stderr));
        assert!(verb.len() > 1 || text.matches("over TLS").count() == 4, "{text}");
    }
    node.service().restart().await.unwrap();
    world.balanced().await;
    let alice = world.person("alice");
    let room = world.room(&alice, "open").await;
    let item = json!({"op": "op", "kind": "message", "data": 1});
    let api = world.api(&alice);
    let written = api.post(&format!("/v1/rooms/{room}/events"), &json!({"items": [item]})).await.unwrap();
    assert_eq!(written.json()["items"][0]["seq"], 1, "{}", written.text);

    for server in shard.servers() {
        let ask = "SELECT application_name, bool_and(ssl) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
                   WHERE application_name LIKE 'roomgate/%' GROUP BY application_name ORDER BY 1";
        let rows = server.admin().await.unwrap().query(ask, &[]).await.unwrap();
        let found: Vec<(String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let wanted = ["roomgate/node-1", "roomgate/node-1/monitor"].map(|name| (name.to_owned(), true));
        assert_eq!(found, wanted, "{}", server.name());
    }
}
