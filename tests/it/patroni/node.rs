//! Nodes that are told of all three servers, and of none that it is the primary.

use std::process::Command;

use nix::sys::signal::Signal;
use roomgate::dev::{Api, Port, Probe, Redis, Scratch, Service, Spec};
use serde_json::Value;

use super::filled::fill;
use super::shard::{Shard, passwords};
use crate::world::{Person, options};

const PROGRAM: &str = env!("CARGO_BIN_EXE_roomgate");

pub struct Node {
    service: Service,
    config: String,
    public: Port,
    admin: Port,
}

impl Node {
    /// Writes its configuration, brings the schema up, and starts it.
    pub fn launch(scratch: &Scratch, number: usize, shard: &Shard, redis: &Redis) -> Self {
        let (name, folder) = (format!("node-{number}"), scratch.path());
        let key = folder.join("k1.secret");
        let (public, admin) = (Port::free().unwrap(), Port::free().unwrap());
        std::fs::write(&key, "a secret of a test, and of nobody else").unwrap();
        let mut values = vec![
            ("NODE".to_owned(), name.clone()),
            ("PUBLIC".to_owned(), format!("127.0.0.1:{}", public.number())),
            ("ADMIN".to_owned(), format!("127.0.0.1:{}", admin.number())),
            ("REDIS".to_owned(), redis.url()),
            ("KEY".to_owned(), key.display().to_string()),
        ];
        values.extend(passwords());
        for (place, member) in (1..).zip(&shard.members) {
            values.push((format!("HOST_{place}"), "127.0.0.1".to_owned()));
            values.push((format!("PORT_{place}"), member.port.number().to_string()));
        }
        let file = folder.join(format!("{name}.toml"));
        std::fs::write(&file, fill("roomgate.toml", &values)).unwrap();
        let config = file.display().to_string();
        run(&["migrate", "up", "--config", &config]);
        let spec = Spec {
            name: name.clone(),
            program: PROGRAM.into(),
            args: ["serve", "--config", &config].map(str::to_owned).to_vec(),
            // Nobody is slowed down.
            env: options(scratch).env,
            log: folder.join(format!("{name}.log")),
            folder: folder.to_owned(),
            user: None,
            stop_with: Signal::SIGTERM,
            kill_with: Signal::SIGKILL,
        };
        let probe = Probe::Http { port: admin.number(), path: "/health/ready" };
        let service = Service::launch(spec, probe).unwrap_or_else(|error| panic!("{error}"));
        Self { service, config, public, admin }
    }

    pub async fn ready(&self) {
        self.service.ready().await.unwrap_or_else(|error| panic!("{error}"));
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.public.number())
    }

    /// Somebody with a token.
    pub fn person(&self, name: &str) -> Person {
        let token = run(&["token", "issue", "--config", &self.config, "--user", name, "--lifetime", "3600"]);
        Person { user: name.to_owned(), token: token.trim().to_owned() }
    }

    /// What it knows of the server `name`.
    pub async fn knows(&self, name: &str) -> Value {
        let api = Api::new(&format!("http://127.0.0.1:{}", self.admin.number()));
        let detail = api.get("/health/detailed").await.unwrap().json();
        let endpoints = detail["shards"][0]["endpoints"].as_array().unwrap().clone();
        endpoints.into_iter().find(|endpoint| endpoint["name"] == name).unwrap()
    }

    /// Which server answers a read of the room's log; none if it is refused.
    pub async fn read_by(&self, person: &Person, room: u64) -> Option<String> {
        let api = Api::new(&self.url()).signed_in(&person.token);
        let answer = api.get(&format!("/v1/rooms/{room}/events?limit=1")).await.unwrap();
        answer.headers.get("roomgate-served-by").map(|server| server.to_str().unwrap().to_owned())
    }
}

/// A verb that ends by itself; what it printed.
fn run(args: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
