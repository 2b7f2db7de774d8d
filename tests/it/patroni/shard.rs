//! A shard as operators run it: etcd, and three PostgreSQL servers, each under
//! a Patroni of its own.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};
use roomgate::dev::{Admin, Api, Port, Probe, Process, Service, Spec, connect};
use serde_json::Value;
use tokio::process::Command;

use super::filled::fill;
use super::guardian::Guardian;

/// Dropping it ends everything at once.
pub struct Shard {
    pub members: Vec<Member>,
    _etcd: Service,
    _ports: [Port; 2],
    /// After the members: a Patroni that lives would start its server again.
    _guardian: Guardian,
}

pub struct Member {
    pub name: String,
    pub port: Port,
    spec: Spec,
    patroni: Mutex<Process>,
    rest: Port,
    folder: PathBuf,
}

/// Patroni's test is only as slow as Patroni: a lock expires, a loop passes.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(20);

impl Shard {
    /// Returns once it has a primary, a synchronous standby and a replica.
    pub async fn start(folder: &Path) -> Self {
        let guardian = Guardian::over(folder);
        let (etcd, ports) = start_etcd(folder);
        etcd.ready().await.unwrap_or_else(|error| panic!("{error}"));
        let members = (1..=3).map(|number| Member::launch(folder, number, &ports[0])).collect();
        let shard = Self { members, _etcd: etcd, _ports: ports, _guardian: guardian };
        shard.is_whole().await;
        shard
    }

    /// Waits until all members run, one leads and another one confirms.
    pub async fn is_whole(&self) {
        eventually("three members, one of them synchronous", async || {
            let Some(members) = self.members_by_patroni().await else { return false };
            let roles = |role: &str| members.iter().filter(|member| member["role"] == role).count();
            let run = members.iter().all(|member| member["state"] == "running" && member["timeline"] != 0);
            let timelines = members.iter().all(|member| member["timeline"] == members[0]["timeline"]);
            run && timelines && (roles("leader"), roles("sync_standby"), roles("replica")) == (1, 1, 1)
        })
        .await;
    }

    /// The one that Patroni says would be promoted.
    pub async fn synchronous(&self) -> &Member {
        let members = self.members_by_patroni().await.unwrap();
        let standby = members.iter().find(|member| member["role"] == "sync_standby").unwrap();
        self.members.iter().find(|member| member.name == standby["name"]).unwrap()
    }

    /// The one out of recovery, by its own account.
    pub async fn primary(&self) -> Option<&Member> {
        for member in &self.members {
            let Ok(admin) = member.admin().await else { continue };
            let asked = admin.query_one("SELECT pg_is_in_recovery()", &[]).await;
            if asked.is_ok_and(|row| !row.get::<_, bool>(0)) {
                return Some(member);
            }
        }
        None
    }

    /// Waits until another one than `old` is out of recovery.
    pub async fn primary_after(&self, old: &str) -> &Member {
        let seen = async {
            loop {
                match self.primary().await {
                    Some(member) if member.name != old => return member,
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("a new primary")
    }

    /// By hand, as README.md says.
    pub async fn switch_over(&self, from: &Member, to: &Member) {
        let mut command = Command::new("/usr/bin/patronictl");
        command.arg("-c").arg(from.folder.join("patroni.yml"));
        command.args(["switchover", "--leader", &from.name, "--candidate", &to.name, "--force"]);
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("Successfully switched over"), "{output:?}");
    }

    async fn members_by_patroni(&self) -> Option<Vec<Value>> {
        let apis = self.members.iter().map(|member| Api::new(&member.rest_url()));
        for api in apis {
            if let Ok(answer) = api.get("/cluster").await {
                let members = answer.json()["members"].as_array()?.clone();
                return (members.len() == self.members.len()).then_some(members);
            }
        }
        None
    }
}

impl Member {
    fn launch(shard: &Path, number: usize, etcd: &Port) -> Self {
        let name = format!("a-{number}");
        let folder = shard.join(&name);
        let (port, rest) = (Port::free().unwrap(), Port::free().unwrap());
        std::fs::create_dir(&folder).unwrap();
        let below = |file: &str| folder.join(file).display().to_string();
        let values = [
            ("SHARD", "a".to_owned()),
            ("NAME", name.clone()),
            ("HOST", "127.0.0.1".to_owned()),
            ("NETWORK", "127.0.0.1/32".to_owned()),
            ("PORT", port.number().to_string()),
            ("REST_PORT", rest.number().to_string()),
            ("ETCD", format!("127.0.0.1:{}", etcd.number())),
            ("DATA", below("data")),
            ("PASSFILE", below("pgpass")),
            ("SOCKETS", below("")),
            ("ROLES", below("roles.sql")),
        ];
        let values: Vec<_> =
            values.map(|(word, value)| (word.to_owned(), value)).into_iter().chain(passwords()).collect();
        for file in ["patroni.yml", "roles.sql"] {
            std::fs::write(folder.join(file), fill(file, &values)).unwrap();
        }
        give(&folder);
        let spec = Spec {
            name: format!("patroni {name}"),
            program: "/usr/bin/patroni".into(),
            args: vec![below("patroni.yml")],
            env: Vec::new(),
            log: shard.join(format!("{name}.log")),
            folder: folder.clone(),
            user: geteuid().is_root().then_some("postgres"),
            stop_with: Signal::SIGTERM,
            kill_with: Signal::SIGKILL,
        };
        let patroni = Mutex::new(start(&spec));
        Self { name, port, spec, patroni, rest, folder }
    }

    /// As if its machine had lost its power.
    pub async fn crash(&self) {
        let file = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        let server = Pid::from_raw(file.lines().next().unwrap().parse().unwrap());
        // In this order: Patroni would start its server again.
        let patroni_ended = {
            let patroni = self.patroni.lock().unwrap();
            patroni.signal(Signal::SIGKILL);
            patroni.ended()
        };
        patroni_ended.await;
        kill(server, Signal::SIGKILL).unwrap();
    }

    /// Its machine is back, and with it Patroni; its server, when Patroni says so.
    pub fn starts(&self) {
        *self.patroni.lock().unwrap() = start(&self.spec);
    }

    /// A superuser's connection to the gateway's database.
    pub async fn admin(&self) -> Result<Admin, roomgate::dev::Error> {
        let password = password("SUPERUSER_PASSWORD");
        connect(&format!("postgres://postgres:{password}@127.0.0.1:{}/roomgate", self.port.number())).await
    }

    fn rest_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.rest.number())
    }
}

/// Each another one, so that a role can't pass for another.
pub fn passwords() -> [(String, String); 6] {
    const WORDS: [&str; 6] = [
        "REST_PASSWORD",
        "SUPERUSER_PASSWORD",
        "REPLICATION_PASSWORD",
        "REWIND_PASSWORD",
        "OWNER_PASSWORD",
        "GATEWAY_PASSWORD",
    ];
    WORDS.map(|word| (word.to_owned(), password(word)))
}

fn password(word: &str) -> String {
    format!("the-{}", word.to_lowercase())
}

fn start_etcd(folder: &Path) -> (Service, [Port; 2]) {
    let ports = [Port::free().unwrap(), Port::free().unwrap()];
    let [clients, peers] = [&ports[0], &ports[1]].map(|port| format!("http://127.0.0.1:{}", port.number()));
    let data = folder.join("etcd").display().to_string();
    let member = format!("etcd={peers}");
    let args = [
        ["--name", "etcd"],
        ["--data-dir", &data],
        ["--listen-client-urls", &clients],
        ["--advertise-client-urls", &clients],
        ["--listen-peer-urls", &peers],
        ["--initial-advertise-peer-urls", &peers],
        ["--initial-cluster", &member],
        ["--log-level", "warn"],
    ];
    let spec = Spec {
        name: "etcd".to_owned(),
        program: "/usr/bin/etcd".into(),
        args: args.concat().into_iter().map(str::to_owned).collect(),
        env: Vec::new(),
        log: folder.join("etcd.log"),
        folder: folder.to_owned(),
        user: None,
        stop_with: Signal::SIGTERM,
        kill_with: Signal::SIGKILL,
    };
    let probe = Probe::Http { port: ports[0].number(), path: "/health" };
    (Service::launch(spec, probe).unwrap_or_else(|error| panic!("{error}")), ports)
}

fn start(patroni: &Spec) -> Process {
    Process::start(patroni).unwrap_or_else(|error| panic!("{error}"))
}

/// To the user that PostgreSQL runs as, and nobody else: there are passwords.
fn give(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let owner = geteuid().is_root().then(|| User::from_name("postgres").unwrap().expect("PostgreSQL's user"));
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in files.chain([folder.to_owned()]) {
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        if let Some(owner) = &owner {
            chown(&path, Some(owner.uid), Some(owner.gid)).unwrap();
        }
    }
}

/// Waits for it, or for the test to have failed.
pub async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let seen = async {
        while !so().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("not in {PATIENCE:?}: {what}"));
}
