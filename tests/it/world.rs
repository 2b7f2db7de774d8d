//! A cluster to test against, and the people in it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use roomgate::dev::{Admin, Answer, Api, Cluster, Notice, Options, Scratch, connect};
use serde_json::{Value, json};

use crate::client::Client;

pub struct World {
    cluster: Cluster,
    key: Vec<u8>,
    // Last: its files are in use until the cluster is gone.
    _scratch: Option<Scratch>,
}

/// Somebody with a token.
#[derive(Debug, Clone)]
pub struct Person {
    pub user: String,
    pub token: String,
}

impl World {
    /// A cluster of its own, without limits, changed by `change`.
    pub async fn start(change: impl FnOnce(Options) -> Options) -> Self {
        let scratch = Scratch::new("it").unwrap();
        let options = change(options(&scratch));
        Self::with(&options, Some(scratch)).await
    }

    /// A cluster on data that the caller keeps.
    pub async fn with(options: &Options, scratch: Option<Scratch>) -> Self {
        let observer = Arc::new(|notice: Notice| println!("{notice}"));
        let cluster = Cluster::start(options, observer).await.unwrap_or_else(|error| panic!("{error}"));
        let key = std::fs::read(cluster.report().jwt.key_file).unwrap();
        Self { cluster, key, _scratch: scratch }
    }

    /// The cluster of all tests that break nothing. It has a runtime of its own,
    /// since a test's ends with the test.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<World> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (send, receive) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let scratch = Scratch::new("it-shared").unwrap();
                remove_at_exit(&scratch);
                let options = options(&scratch);
                send.send(runtime.block_on(Self::with(&options, Some(scratch)))).ok();
                runtime.block_on(std::future::pending::<()>());
            });
            receive.recv().expect("the shared cluster starts")
        })
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Runs a verb with the first node's configuration.
    pub fn roomgate(&self, verb: &[&str]) -> Output {
        let file = self.cluster.report().jwt.key_file.with_file_name("nodes/node-1.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_roomgate"));
        command.args(verb).arg("--config").arg(file).output().unwrap()
    }

    /// A new person, known by token only.
    pub fn person(&self, name: &str) -> Person {
        let user = format!("{name}-{:08x}", rand::random::<u32>());
        let token = self.sign(&json!({"sub": user, "name": name, "exp": now() + 3600}));
        Person { user, token }
    }

    /// A token with these claims besides issuer and audience.
    pub fn sign(&self, claims: &Value) -> String {
        let jwt = self.cluster.report().jwt;
        let mut body = json!({"iss": jwt.issuer, "aud": jwt.audience, "iat": now()});
        for (name, value) in claims.as_object().unwrap() {
            body[name] = value.clone();
        }
        let header = Header { kid: Some(jwt.kid), ..Header::default() };
        jsonwebtoken::encode(&header, &body, &EncodingKey::from_secret(&self.key)).unwrap()
    }

    /// HTTP through the balancer.
    pub fn api(&self, person: &Person) -> Api {
        Api::new(&self.cluster.url()).signed_in(&person.token)
    }

    /// HTTP to one node.
    pub fn api_of(&self, node: usize, person: &Person) -> Api {
        Api::new(&self.cluster.nodes()[node].url()).signed_in(&person.token)
    }

    /// A new room of `owner`'s; its id.
    pub async fn room(&self, owner: &Person, schema: &str) -> u64 {
        let slug = format!("room-{:016x}", rand::random::<u64>());
        self.room_called(owner, &slug, schema).await
    }

    pub async fn room_called(&self, owner: &Person, slug: &str, schema: &str) -> u64 {
        let answer =
            self.api(owner).post("/v1/rooms", &json!({"slug": slug, "schema": schema})).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()["room"].as_u64().unwrap()
    }

    /// Connected to one node, past `hello`.
    pub async fn client(&self, node: usize, person: &Person) -> Client {
        Client::connect(&self.cluster.nodes()[node].url(), person).await
    }

    /// Connected to whichever node the balancer takes.
    pub async fn balanced_client(&self, person: &Person) -> Client {
        Client::connect(&self.cluster.url(), person).await
    }

    /// Waits until the balancer has found a node again.
    pub async fn balanced(&self) {
        let api = Api::new(&self.cluster.url());
        let found = async {
            while !api.get("/health").await.is_ok_and(|answer| answer.status == 200) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), found).await.expect("a node behind the balancer");
    }

    /// Superuser connections to the primaries, by shard.
    pub async fn primaries(&self) -> Vec<Admin> {
        let mut admins = Vec::new();
        for shard in self.cluster.shards() {
            admins.push(connect(&shard.primary().admin_dsn()).await.unwrap());
        }
        admins
    }

    /// Waits until every replica shows all that was written to its primary by now.
    pub async fn replicas_have_caught_up(&self) {
        for (shard, primary) in self.cluster.shards().iter().zip(self.primaries().await) {
            let row = primary.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap();
            let flushed: String = row.get(0);
            let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{flushed}'::pg_lsn");
            for replica in shard.replicas() {
                let replica = connect(&replica.admin_dsn()).await.unwrap();
                let caught_up = async {
                    while !replica.query_one(&reached, &[]).await.unwrap().get::<_, bool>(0) {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(60), caught_up)
                    .await
                    .expect("a replica that replays");
            }
        }
    }

    /// Which shard (by index) holds `room`.
    pub async fn shard_of(&self, room: u64) -> usize {
        let id = i64::try_from(room).unwrap();
        for (index, admin) in self.primaries().await.iter().enumerate() {
            if admin.query_opt("SELECT FROM room WHERE id = $1", &[&id]).await.unwrap().is_some() {
                return index;
            }
        }
        panic!("room {room} is on no shard");
    }

    /// The sum of a counter's samples over all nodes, by one of its labels.
    pub async fn counted(&self, metric: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for node in 0..self.cluster.nodes().len() {
            for (key, value) in self.counted_on(node, metric, label).await {
                *sums.entry(key).or_default() += value;
            }
        }
        sums
    }

    /// The same on one node.
    pub async fn counted_on(&self, node: usize, metric: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.samples(node, metric).await {
            let key = labels.split(&format!("{label}=\"")).nth(1).and_then(|rest| rest.split('"').next());
            *sums.entry(key.unwrap_or_default().to_owned()).or_default() += value;
        }
        sums
    }

    /// The sum of all samples of a metric on one node.
    pub async fn measured(&self, node: usize, metric: &str) -> f64 {
        self.samples(node, metric).await.iter().map(|(_, value)| value).sum()
    }

    /// The labels and values of a metric on one node.
    async fn samples(&self, node: usize, metric: &str) -> Vec<(String, f64)> {
        let admin = self.cluster.nodes()[node].admin_url();
        let text = Api::new(&admin).get("/metrics").await.unwrap().text;
        let sample = |line: &str| {
            let (labels, value) = line.strip_prefix(metric)?.rsplit_once(' ')?;
            let whole = labels.is_empty() || labels.starts_with('{');
            whole.then(|| (labels.to_owned(), value.parse().unwrap()))
        };
        text.lines().filter_map(sample).collect()
    }
}

/// A cluster as `roomgate dev` has it, except that nobody is slowed down, and
/// that even short logs have snapshots.
pub fn options(scratch: &Scratch) -> Options {
    let mut options = Options::new(scratch.path().join("data"), env!("CARGO_BIN_EXE_roomgate"));
    options.port = Some(0);
    let options = options.set("history.snapshot_events", 100).set("history.snapshot_interval_ms", 500);
    let options = options.set("jobs.stats_interval_ms", 500);
    // Submits wait for what a test does meanwhile, also on busy machines.
    let options = options.set("writes.failover_wait_ms", 25_000);
    // Clients of tests answer pings only while they listen.
    let options = options.set("sessions.heartbeat_ms", 600_000);
    // A test that sets a rate means it from the first submit on.
    options.without_limits().set("limits.submit_burst", 0)
}

/// Until somebody waits for a lock who gave up waiting for it before. `lock`: which
/// rows of `pg_locks`.
pub async fn waits_again(looks: &Admin, lock: &str) {
    let waiting = format!("SELECT waitstart::text FROM pg_locks WHERE {lock} AND NOT granted");
    let (mut since, until) = (BTreeSet::new(), Instant::now() + Duration::from_secs(20));
    while since.len() < 2 {
        assert!(Instant::now() < until, "nobody waits a second time: {lock}");
        let rows = looks.query(&waiting, &[]).await.unwrap();
        since.extend(rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[track_caller]
pub fn refused(answer: &Answer, status: u16, code: &str) {
    let got = (answer.status.as_u16(), &answer.json()["error"]["code"]);
    assert_eq!(got, (status, &json!(code)), "{}", answer.text);
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Of what is drawn at random: `ROOMGATE_SEED`, or another one every time.
#[expect(clippy::disallowed_methods, reason = "a seed to replay is no configuration")]
pub fn seed() -> u64 {
    std::env::var("ROOMGATE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random)
}

/// The shared cluster is never dropped. Its processes die with us; its folder is
/// removed by a shell that waits for our end of its pipe to close.
fn remove_at_exit(scratch: &Scratch) {
    let script = "cat >/dev/null; for i in 1 2 3 4 5 6 7 8 9; do rm -rf \"$1\" && exit; sleep 0.3; done";
    let shell = Command::new("sh")
        .args(["-c", script, "sh", &scratch.path().display().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Keeps the pipe open for as long as this process lives.
    std::mem::forget(shell);
}
