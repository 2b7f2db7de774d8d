//! A client that behaves: it draws, keeps what isn't acked and sends it again,
//! goes on where it was after every loss, and writes down all that it sees.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::Failure;
use crate::cluster::World;
use crate::draw::draw;
use crate::fold::digest_of_items;
use crate::history::{Answer, Attempt, Connection, Diary, Position, Seen, What};
use crate::load::{Phase, Shared, Status};

type Socket = WebSocketStream<TcpStream>;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What the protocol grants a server that was pinged.
const PONG_LIMIT: Duration = Duration::from_secs(10);
/// One client of so many stays where it is. The others walk on now and then, as
/// people do who walk through a building, so that every node has some.
pub const SITS_EVERY: usize = 3;
const RECEIVE_BYTES: u32 = 64 * 1024;
/// How often a client that doesn't read looks whether it should.
const PAUSED_LOOK: Duration = Duration::from_millis(100);
/// Between two drawings in a rush: as fast as there is room in flight.
const RUSH_PAUSE: Duration = Duration::from_millis(2);

pub struct Client {
    /// The balancer's.
    address: SocketAddr,
    token: String,
    rng: StdRng,
    shared: Arc<Shared>,
    status: Arc<Status>,
    rooms: BTreeMap<u64, Room>,
    /// Sent and not answered, or refused for now; in the order of sending.
    pending: Vec<Pending>,
    sits: bool,
    ops: usize,
    heartbeat: Duration,
    /// The server's hint for when to come back.
    hint: Option<Duration>,
    diary: Diary,
}

#[derive(Debug, Default)]
struct Room {
    position: Option<Position>,
    live: bool,
    /// Pages of a snapshot whose last has not come.
    loading: Vec<Value>,
}

struct Pending {
    room: u64,
    op: String,
    body: Arc<Value>,
    /// Where its last sending stands in the diary.
    attempt: usize,
    /// Refused for now: to be sent again then.
    again: Option<Instant>,
}

impl Client {
    pub fn new(
        world: &World,
        number: usize,
        seed: u64,
        rooms: &[u64],
        shared: Arc<Shared>,
        status: Arc<Status>,
    ) -> Result<Self, Failure> {
        let user = format!("client-{number}");
        Ok(Self {
            address: world.cluster.url().trim_start_matches("http://").parse()?,
            token: world.token(&user)?,
            rng: StdRng::seed_from_u64(seed.wrapping_add(number as u64)),
            shared,
            status,
            rooms: rooms.iter().map(|room| (*room, Room::default())).collect(),
            pending: Vec::new(),
            sits: number.is_multiple_of(SITS_EVERY),
            ops: 0,
            heartbeat: Duration::from_secs(25),
            hint: None,
            diary: Diary { user, ..Diary::default() },
        })
    }

    pub async fn run(mut self) -> Diary {
        while !self.shared.is(Phase::Stop) {
            if let Ok(Ok(socket)) = timeout(CONNECT_LIMIT, connect(self.address, &self.token)).await {
                self.converse(socket).await;
                self.lost();
            }
            let pause =
                self.hint.take().unwrap_or_else(|| Duration::from_millis(self.rng.random_range(20..200)));
            sleep(pause).await;
        }
        self.diary
    }

    /// One connection, until it is lost or the run is over.
    async fn converse(&mut self, mut socket: Socket) {
        self.diary.connections.push(Connection::default());
        let stay = self.shared.stay.mul_f64(self.rng.random_range(0.5..1.5));
        let leaves = Instant::now() + stay;
        let mut next_act = Instant::now();
        let (mut heard, mut pinged) = (Instant::now(), None::<Instant>);
        let mut phase = self.shared.phase.clone();
        loop {
            let reading = self.status.reading.load(Ordering::Relaxed);
            let patience = match pinged {
                Some(at) => at + PONG_LIMIT,
                None => heard + self.heartbeat,
            };
            let acted = tokio::select! {
                frame = socket.next(), if reading => {
                    (heard, pinged) = (Instant::now(), None);
                    match frame {
                        Some(Ok(Message::Text(text))) => self.hear(&mut socket, &text).await,
                        Some(Ok(Message::Close(frame))) => {
                            self.connection().close_code = frame.map(|frame| frame.code.into());
                            return;
                        }
                        Some(Ok(_)) => Ok(()),
                        Some(Err(_)) | None => return,
                    }
                }
                () = sleep_until(next_act) => {
                    let rush = self.shared.rush.load(Ordering::Relaxed);
                    let pause = if rush { RUSH_PAUSE } else { self.shared.pause };
                    next_act = Instant::now() + pause.mul_f64(self.rng.random_range(0.2..1.8));
                    self.act(&mut socket).await
                }
                () = sleep_until(patience), if reading => {
                    if pinged.is_some() {
                        return;
                    }
                    pinged = Some(Instant::now());
                    send(&mut socket, &json!({"type": "ping"})).await
                }
                () = sleep(PAUSED_LOOK), if !reading => { heard = Instant::now(); Ok(()) }
                () = sleep_until(leaves), if reading && !self.sits && self.shared.is(Phase::Draw) => {
                    // It may have been told to while it waited.
                    if !self.status.reading.load(Ordering::Relaxed) {
                        continue;
                    }
                    self.connection().left = true;
                    // What is sent last is not waited for.
                    drop(self.act(&mut socket).await);
                    return;
                }
                _ = phase.changed() => if self.shared.is(Phase::Stop) { return } else { Ok(()) },
            };
            if acted.is_err() {
                return;
            }
        }
    }

    async fn hear(&mut self, socket: &mut Socket, text: &str) -> Result<(), Failure> {
        match serde_json::from_str(text)? {
            Value::Array(messages) => {
                for message in messages {
                    self.take(socket, &message).await?;
                }
                Ok(())
            }
            message => self.take(socket, &message).await,
        }
    }

    async fn take(&mut self, socket: &mut Socket, message: &Value) -> Result<(), Failure> {
        let room = message["room"].as_u64().unwrap_or_default();
        match message["type"].as_str().unwrap_or_default() {
            "welcome" => {
                let node = message["node"].as_str().unwrap_or_default();
                self.connection().node = node.to_owned();
                node.clone_into(&mut self.status.node.lock().expect("nobody panics with it"));
                self.heartbeat = Duration::from_millis(message["heartbeat_ms"].as_u64().unwrap_or(25_000));
                for (room, state) in &self.rooms {
                    send(socket, &json!({"type": "join", "room": room, "from": state.position})).await?;
                }
            }
            "joined" => {
                let resumed = message["mode"] == "resume";
                let from = self.rooms.get(&room).and_then(|state| state.position).filter(|_| resumed);
                self.saw(room, What::Joined { from });
            }
            "snapshot" => self.snapshot(socket, room, message).await?,
            "events" => {
                let number = |name: &str| message[name].as_u64().unwrap_or_default();
                let (from, to) = (number("from"), number("to"));
                let head = Position::of(&message["head"]);
                let head = head.unwrap_or(Position { epoch: 0, seq: number("head") });
                self.saw(room, What::Page { from, to, head });
                for event in message["events"].as_array().into_iter().flatten() {
                    self.event(room, event);
                }
                if message["last"] == true {
                    self.live(socket, room).await?;
                }
            }
            "event" => self.event(room, message),
            "resync" => {
                let reason = message["reason"].as_str().unwrap_or_default().to_owned();
                self.saw(room, What::Resync { reason });
            }
            "ack" | "reject" => self.answered(room, message),
            "goodbye" => {
                self.shared.goodbyes.fetch_add(1, Ordering::Relaxed);
                self.hint = message["reconnect_after_ms"].as_u64().map(Duration::from_millis);
            }
            "error" => {
                self.diary.errors.push(message.to_string());
                // A join that can't be served now is asked again anew.
                self.connection().left = true;
                return Err("refused".into());
            }
            _ => {}
        }
        Ok(())
    }

    async fn snapshot(&mut self, socket: &mut Socket, room: u64, message: &Value) -> Result<(), Failure> {
        let Some(state) = self.rooms.get_mut(&room) else { return Ok(()) };
        state.loading.extend(message["shapes"].as_array().into_iter().flatten().cloned());
        if message["last"] == true {
            let shapes = std::mem::take(&mut state.loading);
            let at = Position::of(message).ok_or("a snapshot without a position")?;
            state.position = Some(at);
            self.saw(room, What::Snapshot { at, state: digest_of_items(shapes.iter()) });
            self.live(socket, room).await?;
        }
        Ok(())
    }

    fn event(&mut self, room: u64, event: &Value) {
        let Some(at) = Position::of(event) else { return };
        let digest = self.shared.events.note(event);
        self.saw(room, What::Event { at, digest });
        if let Some(state) = self.rooms.get_mut(&room) {
            state.position = Some(at);
        }
        self.tell_position(room);
    }

    /// All that was missed has come: what wasn't answered is sent again.
    async fn live(&mut self, socket: &mut Socket, room: u64) -> Result<(), Failure> {
        self.saw(room, What::Live);
        self.tell_position(room);
        if let Some(state) = self.rooms.get_mut(&room)
            && std::mem::replace(&mut state.live, true)
        {
            return Ok(());
        }
        if self.rooms.values().all(|room| room.live) {
            let now = self.shared.clock.now();
            self.connection().live.get_or_insert(now);
        }
        for index in 0..self.pending.len() {
            if self.pending[index].room == room {
                self.send_pending(socket, index).await?;
            }
        }
        Ok(())
    }

    /// Draws something, unless too much is under way; sends again what was
    /// refused for a while.
    async fn act(&mut self, socket: &mut Socket) -> Result<(), Failure> {
        let due = |pending: &Pending| pending.again.is_some_and(|at| at <= Instant::now());
        while let Some(index) = self.pending.iter().position(due) {
            self.pending[index].again = None;
            self.send_pending(socket, index).await?;
        }
        let live: Vec<u64> = self.rooms.iter().filter(|(_, room)| room.live).map(|(id, _)| *id).collect();
        if live.is_empty() || self.pending.len() >= self.shared.in_flight || !self.shared.is(Phase::Draw) {
            return Ok(());
        }
        // Sometimes several at once: they share a batch.
        let room_left = self.shared.in_flight - self.pending.len();
        let rush = self.shared.rush.load(Ordering::Relaxed);
        for _ in 0..if rush { room_left } else { self.rng.random_range(1..4) } {
            let room = live[self.rng.random_range(0..live.len())];
            self.ops += 1;
            let body = Arc::new(draw(&mut self.rng, self.ops, &self.shared.shapes));
            let op = format!("op-{}", self.ops);
            self.pending.push(Pending { room, op, body, attempt: 0, again: None });
            self.tell_pending();
            self.send_pending(socket, self.pending.len() - 1).await?;
        }
        Ok(())
    }

    async fn send_pending(&mut self, socket: &mut Socket, index: usize) -> Result<(), Failure> {
        let connection = self.diary.connections.len() - 1;
        let pending = &mut self.pending[index];
        pending.attempt = self.diary.attempts.len();
        let (room, op, body) = (pending.room, pending.op.clone(), pending.body.clone());
        let mut message = (*body).clone();
        message["type"] = "submit".into();
        message["room"] = room.into();
        message["op"] = op.as_str().into();
        let sent = self.shared.clock.now();
        self.diary.attempts.push(Attempt { connection, room, op, body, sent, answer: None });
        send(socket, &message).await
    }

    fn answered(&mut self, room: u64, message: &Value) {
        let op = message["op"].as_str().unwrap_or_default();
        let Some(index) = self.pending.iter().position(|p| p.room == room && p.op == op) else {
            self.diary.errors.push(format!("answers nothing that was asked: {message}"));
            return;
        };
        let now = self.shared.clock.now();
        let attempt = self.pending[index].attempt;
        let answer = if let (true, Some(at)) = (message["type"] == "ack", Position::of(message)) {
            self.shared.note_ack(room, at);
            Answer::Ack { at, duplicate: message["duplicate"] == true }
        } else {
            Answer::Reject { code: message["code"].as_str().unwrap_or_default().to_owned() }
        };
        let passing = matches!(&answer, Answer::Reject { code } if passes(code));
        self.diary.attempts[attempt].answer = Some((now, answer));
        if passing {
            let wait = message["retry_after_ms"].as_u64().unwrap_or(500);
            self.pending[index].again = Some(Instant::now() + Duration::from_millis(wait));
        } else {
            self.pending.remove(index);
        }
        self.tell_pending();
    }

    fn lost(&mut self) {
        let now = self.shared.clock.now();
        self.connection().lost = Some(now);
        let rooms: Vec<u64> = self.rooms.keys().copied().collect();
        for room in rooms {
            self.saw(room, What::Lost);
        }
        for room in self.rooms.values_mut() {
            room.live = false;
            room.loading.clear();
        }
        for pending in &mut self.pending {
            pending.again = None;
        }
        self.status.at.lock().expect("nobody panics with it").clear();
    }

    fn saw(&mut self, room: u64, what: What) {
        let connection = self.diary.connections.len() - 1;
        let seen = Seen { at: self.shared.clock.now(), connection, what };
        self.diary.rooms.entry(room).or_default().push(seen);
    }

    fn connection(&mut self) -> &mut Connection {
        self.diary.connections.last_mut().expect("there is one while it is spoken to")
    }

    fn tell_pending(&self) {
        self.status.pending.store(self.pending.len(), Ordering::Relaxed);
    }

    fn tell_position(&self, room: u64) {
        if let Some(position) = self.rooms.get(&room).and_then(|room| room.position) {
            self.status.at.lock().expect("nobody panics with it").insert(room, position.seq);
        }
    }
}

/// Refusals that say: later.
pub fn passes(code: &str) -> bool {
    ["rate_limited", "shard_unavailable", "overloaded", "read_only", "unavailable"].contains(&code)
}

/// With a small buffer in the kernel, so that a client that stops reading is felt.
async fn connect(address: SocketAddr, token: &str) -> Result<Socket, Failure> {
    let tcp = TcpSocket::new_v4()?;
    tcp.set_recv_buffer_size(RECEIVE_BYTES)?;
    let tcp = tcp.connect(address).await?;
    let mut request = format!("ws://{address}/v1/ws").into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", format!("roomgate.v1, bearer.{token}").parse()?);
    Ok(tokio_tungstenite::client_async(request, tcp).await?.0)
}

async fn send(socket: &mut Socket, message: &Value) -> Result<(), Failure> {
    // A server that takes nothing is left like one that says nothing.
    Ok(timeout(PONG_LIMIT, socket.send(Message::text(message.to_string()))).await??)
}
