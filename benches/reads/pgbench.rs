//! The same query without a gateway.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::User;
use roomgate::dev::{Port, Scratch};
use roomgate::ids::RoomId;
use roomgate::routing::Freshness;

use super::world::{Node, World};

/// The text of the gateway's statement, as the server has it.
pub async fn statement(world: &World, node: &Node, room: RoomId) -> String {
    node.history.head(room, Freshness::Primary).await.unwrap();
    let ask = "SELECT query FROM pg_stat_activity
                WHERE usename = 'roomgate' AND query LIKE '%head.access_rev%' LIMIT 1";
    world.admin.query_one(ask, &[]).await.unwrap().get(0)
}

pub async fn run(
    label: &str,
    port: u16,
    protocol: &str,
    sql: &str,
    rooms: usize,
    clients: usize,
    span: Duration,
) {
    let scratch = Scratch::new("pgbench").unwrap();
    let file = scratch.path().join("read.sql");
    std::fs::write(&file, script(sql, rooms)).unwrap();
    let mut command = Command::new("pgbench");
    command.args([
        "-n",
        "-M",
        protocol,
        "-j",
        "1",
        "-T",
        &span.as_secs().to_string(),
        "-c",
        &clients.to_string(),
    ]);
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "roomgate", "-f"])
        .arg(&file)
        .arg("roomgate");
    let log = scratch.path().join("log");
    command.arg("-l").arg(format!("--log-prefix={}", log.display()));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let tps = printed.lines().find(|line| line.starts_with("tps =")).unwrap();
    let tps: f64 = tps.split_whitespace().nth(2).unwrap().parse().unwrap();
    let took = latencies(scratch.path());
    let quantile = |q: f64| took[((took.len() - 1) as f64 * q) as usize] as f64 / 1e3;
    println!("| pgbench, {label} | {clients} | {tps:.0} | {:.2} | {:.2} | |", quantile(0.5), quantile(0.99));
}

/// $1 room, $2 a slot (all are owned); no position is asked for.
fn script(sql: &str, rooms: usize) -> String {
    let one_line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = one_line.replace("$1", ":room").replace("$2", ":slot");
    let text = text.replace("$3", "NULL::bigint").replace("$4", "NULL::bigint");
    format!("\\set room random(1, {rooms})\n\\set slot random(0, 16383)\n{text};\n")
}

/// In microseconds, sorted: the third column of pgbench's log.
fn latencies(folder: &std::path::Path) -> Vec<u64> {
    let mut took = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("log.") {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            took.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()));
        }
    }
    took.sort_unstable();
    took
}

/// PgBouncer in transaction mode before one server.
pub struct Bouncer {
    pub port: u16,
    process: Child,
    _scratch: Scratch,
}

impl Bouncer {
    pub fn start(server: u16) -> Self {
        let scratch = Scratch::new("bouncer").unwrap();
        let port = Port::free().unwrap().number();
        let (settings, users) = (scratch.path().join("bouncer.ini"), scratch.path().join("users"));
        std::fs::write(&users, "\"roomgate\" \"\"\n").unwrap();
        let text = format!(
            "[databases]\nroomgate = host=127.0.0.1 port={server} dbname=roomgate\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 20\n\
             unix_socket_dir =\nlogfile =\nignore_startup_parameters = extra_float_digits\n",
            users.display()
        );
        std::fs::write(&settings, text).unwrap();
        let mut command = Command::new("pgbouncer");
        command.arg(&settings).stdout(Stdio::null()).stderr(Stdio::null());
        // It won't run as root.
        if let Some(user) = User::from_name("postgres").unwrap().filter(|_| nix::unistd::geteuid().is_root())
        {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let process = command.spawn().expect("pgbouncer is installed");
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "pgbouncer doesn't listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { port, process, _scratch: scratch }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
