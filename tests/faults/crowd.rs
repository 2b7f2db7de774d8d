//! Thousands of sessions that do next to nothing, on one node: what a scrape of
//! its metrics costs beside them, and what each of them costs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use roomgate::dev::Api;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::Failure;
use crate::cluster::World;
use crate::plan::Plan;

const SCRAPES: usize = 50;
/// Handshakes under way at once.
const CONNECTING: usize = 64;
/// What has just come is over.
const SETTLE: Duration = Duration::from_secs(3);
/// A heartbeat of the default length, so that each session is asked once.
const IDLE: Duration = Duration::from_secs(25);
const PATIENCE: Duration = Duration::from_secs(120);
/// Descriptors beside the clients'.
const SPARE: u64 = 500;

#[derive(Debug, serde::Serialize)]
pub struct Crowd {
    rooms: usize,
    steps: Vec<Step>,
}

/// With so many sessions.
#[derive(Debug, serde::Serialize)]
struct Step {
    sessions: usize,
    scrape_bytes: usize,
    scrape_series: usize,
    scrape_p50_ms: f64,
    scrape_p99_ms: f64,
    /// Of the node, each.
    scrape_cpu_ms: f64,
    resident_bytes: u64,
    /// Without files: what grows with sessions.
    anonymous_bytes: u64,
    /// Of one core, while nobody says anything; heartbeats are answered.
    idle_cpu_share: f64,
    /// Of the node for one `ping` and its `pong`; none without sessions.
    ping_cpu_us: Option<f64>,
}

pub async fn run(sessions: usize, rooms: usize) -> Result<Crowd, Failure> {
    allow(sessions as u64 + SPARE)?;
    let mut plan = Plan { nodes: 1, shards: 1, replicas: 0, rooms, ..Plan::of(0, Vec::new()) };
    plan.settings = vec![("sessions.heartbeat_ms".to_owned(), IDLE.as_millis().to_string())];
    let world = World::start(&plan).await?;
    warm_up(&world).await?;
    let (tell, told) = watch::channel(0);
    let (connected, ponged) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let (mut crowd, mut steps) = (JoinSet::new(), Vec::new());
    for count in [0, sessions / 10, sessions / 2, sessions] {
        for number in crowd.len()..count {
            let client = Client::new(&world, number)?;
            crowd.spawn(client.run(connecting.clone(), connected.clone(), told.clone(), ponged.clone()));
        }
        let all = timeout(PATIENCE, connected.acquire_many(u32::try_from(count)?));
        tokio::select! {
            arrived = all => drop(arrived.map_err(|_| "not all came")??),
            Some(ended) = crowd.join_next() => return Err(format!("a client ended: {ended:?}").into()),
        }
        sleep(SETTLE).await;
        steps.push(measure(&world, count, &tell, &ponged).await?);
    }
    crowd.shutdown().await;
    world.cluster.stop().await;
    Ok(Crowd { rooms, steps })
}

/// Everybody's rooms are opened once: what a node allocates for the first ones, or
/// for rooms, is no cost of a session.
async fn warm_up(world: &World) -> Result<(), Failure> {
    let mut clients = Vec::new();
    for number in 0..world.rooms.len().max(CONNECTING) {
        clients.push(Client::new(world, number)?.come().await?);
    }
    drop(clients);
    sleep(SETTLE).await;
    Ok(())
}

/// In this process and in those that it starts.
fn allow(descriptors: u64) -> Result<(), Failure> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < descriptors {
        return Err(format!("{descriptors} descriptors are needed, {hard} allowed: ulimit -Hn").into());
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

async fn measure(
    world: &World,
    sessions: usize,
    tell: &watch::Sender<u64>,
    ponged: &AtomicUsize,
) -> Result<Step, Failure> {
    let node = &world.cluster.nodes()[0];
    let pid = node.service().pid();
    let (cpu, began) = (cpu(pid)?, Instant::now());
    sleep(IDLE).await;
    let idle_cpu_share = (self::cpu(pid)? - cpu).div_duration_f64(began.elapsed());

    let api = Api::new(&node.admin_url());
    let (mut times, mut text) = (Vec::new(), String::new());
    let cpu = self::cpu(pid)?;
    for _ in 0..SCRAPES {
        let began = Instant::now();
        text = api.get("/metrics").await?.text;
        times.push(began.elapsed());
    }
    let scrape_cpu = (self::cpu(pid)? - cpu) / u32::try_from(SCRAPES)?;
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Step {
        sessions,
        scrape_bytes: text.len(),
        scrape_series: text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count(),
        scrape_p50_ms: ms(times[SCRAPES / 2]),
        scrape_p99_ms: ms(times[SCRAPES * 99 / 100]),
        scrape_cpu_ms: ms(scrape_cpu),
        resident_bytes: memory(pid, "VmRSS:")?,
        anonymous_bytes: memory(pid, "RssAnon:")?,
        idle_cpu_share,
        ping_cpu_us: match sessions {
            0 => None,
            _ => Some(pings(pid, sessions, idle_cpu_share, tell, ponged).await?),
        },
    })
}

/// Each says `ping` once; what that costs the node, beside its idle time.
async fn pings(
    pid: i32,
    sessions: usize,
    idle: f64,
    tell: &watch::Sender<u64>,
    ponged: &AtomicUsize,
) -> Result<f64, Failure> {
    ponged.store(0, Ordering::SeqCst);
    let (before, began) = (cpu(pid)?, Instant::now());
    tell.send_modify(|round| *round += 1);
    let all = async {
        while ponged.load(Ordering::SeqCst) < sessions {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, all).await.map_err(|_| "not everybody had a pong")?;
    let spent = (cpu(pid)? - before).as_secs_f64() - idle * began.elapsed().as_secs_f64();
    Ok(spent * 1e6 / sessions as f64)
}

struct Client {
    token: String,
    room: Option<u64>,
    url: String,
}

type Socket = WebSocketStream<TcpStream>;

impl Client {
    fn new(world: &World, number: usize) -> Result<Self, Failure> {
        let room = world.rooms.get(number % world.rooms.len().max(1)).map(|room| room.id);
        let token = world.token(&format!("crowd-{}", number / 50))?;
        Ok(Self { token, room, url: world.cluster.nodes()[0].url() })
    }

    /// Stays for good.
    async fn run(
        self,
        connecting: Arc<Semaphore>,
        connected: Arc<Semaphore>,
        mut told: watch::Receiver<u64>,
        ponged: Arc<AtomicUsize>,
    ) -> Result<(), Failure> {
        let permit = connecting.acquire().await?;
        let mut socket = timeout(PATIENCE, self.come()).await??;
        drop(permit);
        told.mark_unchanged();
        connected.add_permits(1);
        loop {
            tokio::select! {
                frame = socket.next() => match frame.ok_or("the connection ended")?? {
                    // Counted without parsing: ten thousand parsers would be in the way.
                    Message::Text(text) if text.contains("\"pong\"") => {
                        ponged.fetch_add(1, Ordering::SeqCst);
                    }
                    _ => {}
                },
                told = told.changed() => {
                    told?;
                    socket.send(Message::text(r#"{"type":"ping"}"#)).await?;
                }
            }
        }
    }

    /// Is welcome, and in its room if it has one.
    async fn come(&self) -> Result<Socket, Failure> {
        let authority = self.url.trim_start_matches("http://");
        let tcp = TcpStream::connect(authority).await?;
        let mut request = format!("ws://{authority}/v1/ws").into_client_request()?;
        let protocol = format!("roomgate.v1, bearer.{}", self.token);
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse()?);
        let config = WebSocketConfig::default().read_buffer_size(4 * 1024).write_buffer_size(0);
        let mut socket = tokio_tungstenite::client_async_with_config(request, tcp, Some(config)).await?.0;
        hears(&mut socket, "\"welcome\"").await?;
        if let Some(room) = self.room {
            socket.send(Message::text(json!({"type": "join", "room": room}).to_string())).await?;
            hears(&mut socket, "\"snapshot\"").await?;
        }
        Ok(socket)
    }
}

async fn hears(socket: &mut Socket, what: &str) -> Result<(), Failure> {
    while let Some(frame) = socket.next().await {
        match frame? {
            Message::Text(text) if text.contains(what) => return Ok(()),
            Message::Text(text) if text.contains("\"error\"") => return Err(text.as_str().into()),
            _ => {}
        }
    }
    Err(format!("the connection ended before {what}").into())
}

/// The kernel counts it in hundredths of a second, on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// All that its threads have run.
fn cpu(pid: i32) -> Result<Duration, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold anything; what follows is numbers.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = fields.get(11..13).ok_or("a short stat")?;
    Ok(TICK * (ticks[0].parse::<u32>()? + ticks[1].parse::<u32>()?))
}

fn memory(pid: i32, what: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(what)).ok_or("no such memory")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()? * 1024)
}

impl Crowd {
    pub fn json(&self) -> Value {
        json!(self)
    }

    pub fn text(&self) -> String {
        let first = &self.steps[0];
        let row = |step: &Step| {
            let each = |grown: f64| if step.sessions == 0 { 0.0 } else { grown / step.sessions as f64 };
            let grown = |now: u64, then: u64| each(now.saturating_sub(then) as f64) / 1000.0;
            format!(
                "| {} | {} | {} | {:.1} | {:.1} | {:.2} | {:.0} | {:.1} | {:.1} | {:.2} | {} |\n",
                step.sessions,
                step.scrape_bytes,
                step.scrape_series,
                step.scrape_p50_ms,
                step.scrape_p99_ms,
                step.scrape_cpu_ms,
                step.resident_bytes as f64 / 1e6,
                grown(step.resident_bytes, first.resident_bytes),
                grown(step.anonymous_bytes, first.anonymous_bytes),
                each((step.idle_cpu_share - first.idle_cpu_share) * 1e6),
                step.ping_cpu_us.map_or(String::new(), |us| format!("{us:.1}")),
            )
        };
        let head = "| sessions | scrape, bytes | series | p50 ms | p99 ms | node CPU ms | resident MB \
                    | KB a session | anonymous KB a session | idle µs/s a session | µs a ping |\n\
                    | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
        let rows: String = self.steps.iter().map(row).collect();
        format!("sessions in {} rooms of one node; {SCRAPES} scrapes each time\n\n{head}{rows}", self.rooms)
    }
}
