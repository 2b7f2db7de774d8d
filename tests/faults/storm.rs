//! Thousands of clients lose their node at once and come back through the
//! balancer, some of them far behind. How long until all are live, how often the
//! databases are read for that, and what it costs in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::RngExt;
use roomgate::dev::Api;
use roomgate::store::history::PAGE_EVENTS;
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
use crate::cluster::{World, heads};
use crate::history::Position;
use crate::plan::{NODES, Plan};

/// How far behind clients are when they come back, in turn.
const BEHIND: [u64; 3] = [0, 100, 10_000];
/// In each room before the storm.
const EVENTS: usize = 10_050;
const BATCH: usize = 1_000;
/// Handshakes under way at once, before the storm.
const CONNECTING: usize = 64;
/// Rooms that are filled at once.
const WRITING: usize = 6;
/// Clients wait a random part of it before they come back, as the whiteboard does.
const JITTER: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);
const PROMISED: Duration = Duration::from_secs(30);
/// Reads that are made for rooms, by the names of their statements.
const READS: [&str; 5] = ["read_head", "read_page", "read_snapshot", "read_heads", "read_events"];

pub struct Storm {
    clients: usize,
    rooms: usize,
    /// From the node's end to being live, in order.
    resumed: Vec<Duration>,
    failed: Vec<String>,
    reads: BTreeMap<String, f64>,
    /// Resident before, and at most; of the nodes that took the clients.
    memory: (u64, u64),
    events: u64,
}

pub async fn run(clients: usize, rooms: usize) -> Result<Storm, Failure> {
    let plan = Plan { rooms, ..Plan::of(0, Vec::new()) };
    let world = Arc::new(World::start(&plan).await?);
    eprintln!("  writing {EVENTS} events into each of {rooms} rooms");
    fill(&world).await?;
    eprintln!("  connecting {clients} clients to one node");
    let positions = positions(&world).await?;
    let (lost, losses) = watch::channel(None);
    let (connecting, connected) = (Arc::new(Semaphore::new(CONNECTING)), Arc::new(Semaphore::new(0)));
    let mut crowd = JoinSet::new();
    for number in 0..clients {
        let client = Client {
            token: world.token(&format!("storm-{number}"))?,
            room: world.rooms[number % rooms].id,
            positions: positions[number % rooms].clone(),
            behind: BEHIND[(number / rooms) % BEHIND.len()],
            nodes: (world.cluster.nodes()[0].url(), world.cluster.url()),
        };
        crowd.spawn(client.run(losses.clone(), connecting.clone(), connected.clone()));
    }
    let all = u32::try_from(clients)?;
    let arrived = timeout(PATIENCE * 4, connected.acquire_many(all)).await;
    drop(arrived.map_err(|_| format!("only {} clients connected", connected.available_permits()))??);
    sleep(Duration::from_secs(2)).await;

    let before = reads(&world).await;
    let calm = memory(&world)?;
    eprintln!("  killing their node");
    world.cluster.nodes()[0].service().kill_for_good().await;
    lost.send_replace(Some(Instant::now()));
    let (mut resumed, mut failed, mut events, mut peak) = (Vec::new(), Vec::new(), 0, calm);
    let mut look = tokio::time::interval(Duration::from_millis(50));
    while resumed.len() + failed.len() < clients {
        tokio::select! {
            ended = crowd.join_next() => match ended.ok_or("clients are missing")?? {
                Ok((took, seen)) => { resumed.push(took); events += seen; }
                Err(error) => failed.push(error.to_string()),
            },
            _ = look.tick() => peak = peak.max(memory(&world)?),
        }
    }
    let after = reads(&world).await;
    let grown = after.iter().map(|(name, count)| (name.clone(), count - before.get(name).unwrap_or(&0.0)));
    let reads = grown.filter(|(_, count)| *count > 0.0).collect();
    resumed.sort_unstable();
    world.cluster.stop().await;
    Ok(Storm { clients, rooms, resumed, failed, reads, memory: (calm, peak), events })
}

impl Storm {
    /// All are back in time, and what was read goes by rooms: on each node every
    /// page once, and the last page and the head about once a second.
    pub fn is_good(&self) -> bool {
        let Some(last) = self.resumed.last() else { return false };
        let pages = (BEHIND[2] / PAGE_EVENTS + 2) as f64;
        let allowed = (pages + 3.0 * last.as_secs_f64().ceil()) * (self.rooms * (NODES - 1)) as f64;
        self.failed.is_empty() && *last < PROMISED && self.reads.values().sum::<f64>() <= allowed
    }

    pub fn text(&self) -> String {
        let part = |percent: usize| {
            let last = self.resumed.len().saturating_sub(1);
            self.resumed.get(last * percent / 100).map_or(f64::NAN, Duration::as_secs_f64)
        };
        let reads: f64 = self.reads.values().sum();
        let mib = |bytes: u64| bytes / (1 << 20);
        format!(
            "{} of {} clients in {} rooms resumed, {} failed {:?}\n\
             live again after p50 {:.2} s, p99 {:.2} s, all {:.2} s; {} events that they had missed\n\
             database reads {reads}, {:.1} a room: {:?}\n\
             memory of the two nodes {} MiB before, {} MiB at most\n",
            self.resumed.len(),
            self.clients,
            self.rooms,
            self.failed.len(),
            self.failed.first(),
            part(50),
            part(99),
            part(100),
            self.events,
            reads / self.rooms as f64,
            self.reads,
            mib(self.memory.0),
            mib(self.memory.1),
        )
    }
}

struct Client {
    token: String,
    room: u64,
    /// Of the room's log, by how far they are behind its head.
    positions: BTreeMap<u64, Position>,
    behind: u64,
    /// The one that is lost, and the balancer.
    nodes: (String, String),
}

type Socket = WebSocketStream<TcpStream>;

impl Client {
    /// Is live at the head, loses its node, and comes back where it was; how long
    /// that took, and how many events it got.
    async fn run(
        self,
        mut losses: watch::Receiver<Option<Instant>>,
        connecting: Arc<Semaphore>,
        connected: Arc<Semaphore>,
    ) -> Result<(Duration, u64), Failure> {
        let permit = connecting.acquire().await?;
        let mut socket = timeout(PATIENCE, self.connect(&self.nodes.0)).await??;
        timeout(PATIENCE, self.join(&mut socket, self.positions[&0])).await??;
        drop(permit);
        connected.add_permits(1);
        while socket.next().await.is_some_and(|frame| frame.is_ok()) {}
        let lost = *losses.wait_for(Option::is_some).await?;
        let lost = lost.ok_or("waited for")?;
        let pause = rand::rng().random_range(Duration::ZERO..JITTER);
        sleep(pause).await;
        let seen = timeout(PATIENCE, self.come_back()).await??;
        Ok((lost.elapsed(), seen))
    }

    /// Tries until a node takes it.
    async fn come_back(&self) -> Result<u64, Failure> {
        loop {
            if let Ok(mut socket) = self.connect(&self.nodes.1).await
                && let Ok(seen) = self.join(&mut socket, self.positions[&self.behind]).await
            {
                return Ok(seen);
            }
            let pause = rand::rng().random_range(Duration::from_millis(100)..JITTER);
            sleep(pause).await;
        }
    }

    async fn connect(&self, url: &str) -> Result<Socket, Failure> {
        let authority = url.trim_start_matches("http://");
        let tcp = TcpStream::connect(authority).await?;
        let mut request = format!("ws://{authority}/v1/ws").into_client_request()?;
        let protocol = format!("roomgate.v1, bearer.{}", self.token);
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse()?);
        let config = WebSocketConfig::default().read_buffer_size(16 * 1024).write_buffer_size(0);
        Ok(tokio_tungstenite::client_async_with_config(request, tcp, Some(config)).await?.0)
    }

    /// Joins where it was and reads until nothing is missing, checking that
    /// nothing is.
    async fn join(&self, socket: &mut Socket, from: Position) -> Result<u64, Failure> {
        let join = json!({"type": "join", "room": self.room, "from": from});
        socket.send(Message::text(join.to_string())).await?;
        let (mut next, mut head) = (from.seq + 1, from.seq);
        while let Some(frame) = socket.next().await {
            let Message::Text(text) = frame? else { continue };
            for page in pages(&text)? {
                if page.from != next {
                    return Err(format!("a page begins at {} instead of {next}", page.from).into());
                }
                (next, head) = (page.to + 1, page.head);
                if page.last {
                    let missed = next - from.seq - 1;
                    let all = next == head + 1 && missed == self.behind_of(from);
                    return if all { Ok(missed) } else { Err(format!("{missed} events to {head}").into()) };
                }
            }
        }
        Err(format!("the connection ended at {next} of {head}").into())
    }

    fn behind_of(&self, from: Position) -> u64 {
        self.positions[&0].seq - from.seq
    }
}

struct Page {
    from: u64,
    to: u64,
    head: u64,
    last: bool,
}

/// The pages of events in a frame, each with as many events as it says.
fn pages(frame: &str) -> Result<Vec<Page>, Failure> {
    #[derive(serde::Deserialize)]
    struct Heard<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        from: Option<u64>,
        to: Option<u64>,
        head: Option<Value>,
        last: Option<bool>,
        code: Option<&'a str>,
        events: Option<Vec<serde::de::IgnoredAny>>,
    }
    let heard: Vec<Heard<'_>> = if frame.starts_with('[') {
        serde_json::from_str(frame)?
    } else {
        vec![serde_json::from_str(frame)?]
    };
    let mut pages = Vec::new();
    for message in heard {
        if message.kind == "error" || message.kind == "resync" {
            return Err(format!("{} {:?}", message.kind, message.code).into());
        }
        if message.kind != "events" {
            continue;
        }
        let (from, to) = (message.from.ok_or("no from")?, message.to.ok_or("no to")?);
        let head = message.head.as_ref().and_then(Value::as_u64).ok_or("no head")?;
        if message.events.map_or(0, |events| events.len() as u64) != to + 1 - from {
            return Err("a page lacks events".into());
        }
        pages.push(Page { from, to, head, last: message.last == Some(true) });
    }
    Ok(pages)
}

/// Writes what the clients are to miss.
async fn fill(world: &World) -> Result<(), Failure> {
    let mut writers = JoinSet::new();
    let writing = Arc::new(Semaphore::new(WRITING));
    for (index, room) in world.rooms.iter().enumerate() {
        let node = &world.cluster.nodes()[1 + index % (NODES - 1)];
        let api = Api::new(&node.url()).signed_in(&world.token("filler")?);
        let path = format!("/v1/rooms/{}/events", room.id);
        let writing = writing.clone();
        writers.spawn(async move {
            let _permit = writing.acquire().await?;
            for first in (0..EVENTS).step_by(BATCH) {
                let item = |n: usize| json!({"op": format!("f{n}"), "kind": "message", "data": {"n": n}});
                let items: Vec<Value> = (first..EVENTS.min(first + BATCH)).map(item).collect();
                let answer = api.post(&path, &json!({"items": items})).await?;
                if answer.status != 200 || answer.text.contains("\"reject\"") {
                    return Err(Failure::from(format!("{} {}", answer.status, answer.text)));
                }
            }
            Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(())
}

/// For each room, the positions at these distances behind its head.
async fn positions(world: &World) -> Result<Vec<BTreeMap<u64, Position>>, Failure> {
    let admins = world.primaries().await?;
    let mut all = Vec::new();
    for (room, (id, head)) in world.rooms.iter().zip(heads(&admins, &world.rooms).await?) {
        let select = "SELECT epoch FROM room_event WHERE room_id = $1 AND seq = $2";
        let mut positions = BTreeMap::new();
        for behind in BEHIND {
            let seq = head - behind;
            let row =
                admins[room.shard].query_one(select, &[&i64::try_from(id)?, &i64::try_from(seq)?]).await?;
            positions.insert(behind, Position { epoch: u64::try_from(row.get::<_, i64>(0))?, seq });
        }
        all.push(positions);
    }
    Ok(all)
}

/// Reads of rooms that the two other nodes have made, by statement.
async fn reads(world: &World) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for node in &world.cluster.nodes()[1..] {
        let Ok(answer) = Api::new(&node.admin_url()).get("/metrics").await else { continue };
        let counts = answer.text.lines().filter(|line| line.starts_with("db_query_duration_seconds_count"));
        for line in counts {
            let of = |name: &&str| line.contains(&format!("\"{name}\""));
            if let (Some(name), Some(count)) = (READS.into_iter().find(|n| of(n)), line.rsplit(' ').next()) {
                *sums.entry(name.to_owned()).or_default() += count.parse::<f64>().unwrap_or(0.0);
            }
        }
    }
    sums
}

/// Resident bytes of the two other nodes.
fn memory(world: &World) -> Result<u64, Failure> {
    let mut sum = 0;
    for node in &world.cluster.nodes()[1..] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.service().pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
        sum += line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()? * 1024;
    }
    Ok(sum)
}
