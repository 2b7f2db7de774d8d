//! On a real Redis that is killed, frozen, and emptied.

use std::time::{Duration, Instant};

use fred::interfaces::ClientLike;

use super::*;
use crate::dev::{Redis, Scratch};
use crate::ids::SessionId;

/// Beyond this a test has failed; nothing waits for it to be right.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct World {
    scratch: Scratch,
    pub redis: Redis,
    pub tasks: Tasks,
}

pub(super) struct Node {
    pub bus: Bus,
    pub incoming: mpsc::Receiver<BusEvent>,
}

impl World {
    pub async fn new(name: &str) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let redis = Redis::start(scratch.path()).await.unwrap();
        Self { scratch, redis, tasks: Tasks::new() }
    }

    /// Where Redis runs.
    pub fn folder(&self) -> &std::path::Path {
        self.scratch.path()
    }

    pub fn node(&self, number: u64) -> Node {
        node(&self.redis.url(), number, &self.tasks)
    }

    /// A node that listens.
    pub async fn ready(&self, number: u64) -> Node {
        let node = self.node(number);
        eventually("up", || node.bus.is_up()).await;
        node
    }
}

pub(super) fn node(url: &str, number: u64, tasks: &Tasks) -> Node {
    node_of(&config(url, None), number, tasks)
}

pub(super) fn node_of(config: &config::Redis, number: u64, tasks: &Tasks) -> Node {
    let (bus, incoming) =
        Bus::start(config, NodeId(number), sealer(), |_, _| Bytes::from_static(b"present"), tasks).unwrap();
    Node { bus, incoming }
}

/// Of all nodes here.
pub(super) fn sealer() -> Sealer {
    Sealer::of_secret(b"the secret of these tests")
}

/// `user` has no password.
pub(super) fn config(url: &str, user: Option<&str>) -> config::Redis {
    config::Redis {
        url: url.to_owned(),
        ca_file: None,
        username: user.map(str::to_owned),
        password: user.map(|_| config::Secret::new("any".to_owned())),
        password_file: None,
        unsigned: config::Unsigned::Refuse,
        insecure: false,
    }
}

impl Node {
    pub async fn next(&mut self) -> BusEvent {
        timeout(PATIENCE, self.incoming.recv()).await.expect("an event").expect("a living bus")
    }

    /// The next message; `Lost` is passed over.
    pub async fn message(&mut self) -> String {
        loop {
            if let BusEvent::Message { payload, .. } = self.next().await {
                return String::from_utf8(payload.to_vec()).unwrap();
            }
        }
    }

    pub async fn lost(&mut self) {
        while self.next().await != BusEvent::Lost {}
    }

    pub async fn members(&self, room: RoomId) -> Vec<String> {
        let mut found: Vec<String> =
            self.bus.members(room).await.unwrap_or_default().into_iter().map(|(_, member)| member).collect();
        found.sort();
        found
    }
}

pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn members_become(node: &Node, room: RoomId, expected: &[&str]) {
    let started = Instant::now();
    loop {
        let found = node.members(room).await;
        if found == expected {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{found:?} instead of {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn room(id: u64) -> RoomId {
    RoomId::new(id).unwrap()
}

pub(super) fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

/// Says until the other hears: the speaker may not have reconnected yet.
pub(super) async fn say_until_heard(speaker: &Node, listener: &mut Node, room: RoomId, text: &'static str) {
    let bus = speaker.bus.clone();
    let heard = async { while listener.message().await != text {} };
    let say = async {
        loop {
            bus.publish(room, Bytes::from_static(text.as_bytes()));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = heard => {}
        () = say => {}
        () = tokio::time::sleep(PATIENCE) => panic!("{text} was not heard"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_subscription_hears_everything_from_then_on_and_no_other_room() {
    let world = World::new("bus-hear").await;
    let (speaker, mut listener) = (world.ready(1).await, world.ready(2).await);
    for n in 0..200 {
        listener.bus.subscribe(room(n + 1)).await;
        speaker.bus.publish(room(n + 1), Bytes::from(n.to_string()));
        speaker.bus.publish(room(9999), Bytes::from_static(b"unwanted"));
        assert_eq!(listener.message().await, n.to_string(), "the first message after the confirmation");
    }
    listener.bus.unsubscribe(room(1));
    listener.bus.subscribe(room(500)).await;
    speaker.bus.publish(room(1), Bytes::from_static(b"unwanted"));
    speaker.bus.publish(room(500), Bytes::from_static(b"wanted"));
    assert_eq!(listener.message().await, "wanted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_ends_in_lost_and_every_room_is_heard_again() {
    let world = World::new("bus-kill").await;
    let (speaker, mut listener) = (world.ready(1).await, world.ready(2).await);
    for n in 1..=600 {
        listener.bus.subscribe(room(n)).await;
    }
    while listener.incoming.try_recv().is_ok() {}
    world.redis.service().kill().await;
    eventually("noticed", || !listener.bus.is_up()).await;
    let started = Instant::now();
    listener.bus.subscribe(room(601)).await;
    assert!(started.elapsed() < Duration::from_secs(1), "a joiner does not wait for Redis");
    speaker.bus.publish(room(1), Bytes::from_static(b"into the void"));
    world.redis.service().restart().await.unwrap();
    listener.lost().await;
    for n in [1, 300, 600, 601] {
        say_until_heard(&speaker, &mut listener, room(n), "again").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_noticed_within_seconds_and_its_return_is_lost() {
    let world = World::new("bus-freeze").await;
    let (speaker, mut listener) = (world.ready(1).await, world.ready(2).await);
    listener.bus.subscribe(room(1)).await;
    speaker.bus.presence_enter(room(1), &session("s"), "a".to_owned());
    members_become(&listener, room(1), &["a"]).await;
    while listener.incoming.try_recv().is_ok() {}
    world.redis.service().pause();
    let started = Instant::now();
    eventually("noticed", || !listener.bus.is_up() && !speaker.bus.is_up()).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let asked = Instant::now();
    assert!(listener.bus.members(room(1)).await.is_err());
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    // A fault of seven seconds: long enough for both to give their sockets up. A
    // shorter one loses nothing, and need not say so.
    tokio::time::sleep(Duration::from_secs(7).saturating_sub(started.elapsed())).await;
    assert!(!speaker.bus.shared.line.client().is_connected());
    world.redis.service().resume();
    listener.lost().await;
    say_until_heard(&speaker, &mut listener, room(1), "back").await;
    // Each connection that was given up has gone.
    let client = speaker.bus.shared.line.client();
    let list = fred::types::CustomCommand::new_static("CLIENT", None, false);
    let started = Instant::now();
    loop {
        let clients: String = client.custom(list.clone(), vec!["LIST"]).await.unwrap();
        if clients.lines().count() == 4 {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "two nodes have two connections each:\n{clients}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_killed_by_redis_come_back() {
    let world = World::new("bus-clientkill").await;
    let (speaker, mut listener) = (world.ready(1).await, world.ready(2).await);
    listener.bus.subscribe(room(1)).await;
    while listener.incoming.try_recv().is_ok() {}
    for text in ["first", "second", "third"] {
        kill_clients(world.redis.port()).await;
        listener.lost().await;
        say_until_heard(&speaker, &mut listener, room(1), text).await;
    }
}

/// `CLIENT KILL` for all but the connection that asks.
async fn kill_clients(port: u16) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    for kind in ["normal", "pubsub"] {
        socket.write_all(format!("CLIENT KILL TYPE {kind} SKIPME yes\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 64];
        let length = socket.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b":"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_absent_at_the_start_is_waited_for_without_harm() {
    let world = World::new("bus-absent").await;
    world.redis.service().kill().await;
    let (speaker, mut listener) = (world.node(1), world.node(2));
    let started = Instant::now();
    listener.bus.subscribe(room(1)).await;
    speaker.bus.presence_enter(room(1), &session("s"), "early".to_owned());
    speaker.bus.publish(room(1), Bytes::from_static(b"nobody hears"));
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(!speaker.bus.is_up() && speaker.bus.members(room(1)).await.is_err());
    world.redis.service().restart().await.unwrap();
    listener.lost().await;
    say_until_heard(&speaker, &mut listener, room(1), "there").await;
    members_become(&listener, room(1), &["early"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_burst_nothing_is_missing_without_a_lost() {
    const BURST: u64 = 50_000;
    let world = World::new("bus-burst").await;
    let speaker = world.ready(1).await;
    let accepts = config::Redis { unsigned: config::Unsigned::Accept, ..config(&world.redis.url(), None) };
    let mut listener = node_of(&accepts, 2, &world.tasks);
    eventually("up", || listener.bus.is_up()).await;
    listener.bus.subscribe(room(1)).await;
    while listener.incoming.try_recv().is_ok() {}
    // Past the speaker's bounded queue, straight into Redis, as fast as it takes it.
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", world.redis.port())).await.unwrap();
    let flood = async move {
        use tokio::io::AsyncWriteExt;
        let (read, mut write) = socket.into_split();
        let drain = async {
            let mut read = tokio::io::BufReader::new(read);
            let mut sink = tokio::io::sink();
            tokio::io::copy(&mut read, &mut sink).await.ok();
        };
        let send = async {
            let name = command::channel(room(1));
            for n in 1..=BURST {
                let line = format!("SPUBLISH {name} {n}\r\n");
                write.write_all(line.as_bytes()).await.unwrap();
            }
            write.shutdown().await.unwrap();
        };
        futures_util::join!(drain, send);
    };
    let listen = async {
        // Nothing is read until buffers are full.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (mut last, mut lost) = (0, false);
        while last < BURST {
            match listener.next().await {
                BusEvent::Lost => lost = true,
                BusEvent::Message { payload, .. } => {
                    let n: u64 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
                    assert!(n > last, "in order");
                    assert!(n == last + 1 || lost, "{last} then {n} without a word");
                    (last, lost) = (n, false);
                }
            }
        }
    };
    timeout(PATIENCE, futures_util::future::join(flood, listen)).await.expect("the last message comes");
    say_until_heard(&speaker, &mut listener, room(1), "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_survives_an_emptied_redis_and_forgets_who_left_meanwhile() {
    let world = World::new("bus-presence").await;
    let (a, b) = (world.ready(1).await, world.ready(2).await);
    a.bus.presence_enter(room(1), &session("anna"), "anna".to_owned());
    a.bus.presence_enter(room(1), &session("bert"), "bert".to_owned());
    b.bus.presence_enter(room(1), &session("cora"), "cora".to_owned());
    members_become(&b, room(1), &["anna", "bert", "cora"]).await;
    world.redis.service().kill().await;
    eventually("noticed", || !a.bus.is_up()).await;
    a.bus.presence_leave(room(1), &session("bert"));
    world.redis.service().restart().await.unwrap();
    members_become(&b, room(1), &["anna", "cora"]).await;

    // Frozen, nothing is lost in Redis; who leaves meanwhile must leave there too.
    world.redis.service().pause();
    eventually("noticed", || !a.bus.is_up()).await;
    a.bus.presence_leave(room(1), &session("anna"));
    world.redis.service().resume();
    members_become(&b, room(1), &["cora"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_members_of_a_node_that_is_gone_are_gone() {
    let world = World::new("bus-gone").await;
    let b = world.ready(2).await;
    let tasks = Tasks::new();
    let a = node(&world.redis.url(), 1, &tasks);
    a.bus.presence_enter(room(1), &session("anna"), "anna".to_owned());
    b.bus.presence_enter(room(1), &session("bert"), "bert".to_owned());
    members_become(&b, room(1), &["anna", "bert"]).await;
    assert_eq!(b.bus.alive().await.unwrap().len(), 2);
    tasks.stop();
    tasks.ended(PATIENCE).await.unwrap();
    members_become(&b, room(1), &["bert"]).await;
    assert_eq!(b.bus.alive().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_taken_for_dead_enters_again() {
    let world = World::new("bus-undead").await;
    let (a, b) = (world.ready(1).await, world.ready(2).await);
    a.bus.presence_enter(room(1), &session("anna"), "anna".to_owned());
    members_become(&b, room(1), &["anna"]).await;
    // As if its heartbeats had not come for long: others forget it.
    let client = b.bus.shared.line.client();
    let node = NodeId(1).to_string();
    let _: i64 =
        command::Command::NodeGone.send(&client, vec!["roomgate:nodes".into(), node.into()]).await.unwrap();
    let _: i64 = command::Command::MemberLeave
        .send(&client, vec!["roomgate:members:1".into(), "anna".into()])
        .await
        .unwrap();
    members_become(&b, room(1), &["anna"]).await;
}

/// The content that a command carries into Redis for other nodes.
enum Carries {
    /// Under a seal.
    Sealed,
    /// Nothing but ids, times and counts: with these a forger can hide or delay what is
    /// true, and show nothing that is not.
    NoContent,
}

/// A new command does not compile here before its content has been thought of.
fn carries(command: command::Command) -> Carries {
    use command::Command as C;
    match command {
        C::EventSend | C::RevokedSend | C::MemberEnter => Carries::Sealed,
        C::Connect | C::ClientId | C::Info | C::Time => Carries::NoContent,
        C::NodeAlive | C::NodesKept | C::NodesList | C::NodesExpire | C::NodeGone => Carries::NoContent,
        C::MembersKept | C::MembersList | C::MemberLeave | C::MembersScan => Carries::NoContent,
        C::LimitBegin | C::LimitAdd | C::LimitKept | C::LimitLeft => Carries::NoContent,
        C::EventsSubscribe | C::EventsUnsubscribe | C::RevokedSubscribe => Carries::NoContent,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_with_content_is_sent_under_a_seal() {
    let world = World::new("bus-sealed").await;
    let (node, other) = (world.ready(1).await, world.ready(2).await);
    // Redis shows all commands that it receives.
    let mut monitor = tokio::net::TcpStream::connect(("127.0.0.1", world.redis.port())).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut monitor, b"MONITOR\r\n").await.unwrap();
    other.bus.subscribe(room(1)).await;
    node.bus.publish(room(1), Bytes::from_static(b"payload"));
    node.bus.presence_enter(room(1), &session("anna"), "anna".to_owned());
    node.bus.tell_revoked().await;
    members_become(&other, room(1), &["anna"]).await;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    let wanted =
        ["\"SPUBLISH\" \"roomgate:room:1\"", "\"HSET\" \"roomgate:members:1\"", "\"roomgate:revoked\""];
    while !wanted.iter().all(|part| text.contains(part)) {
        let read = tokio::io::AsyncReadExt::read(&mut monitor, &mut buffer);
        let length = timeout(PATIENCE, read).await.expect("all commands come").unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    for command in command::Command::ALL.iter().filter(|c| matches!(carries(**c), Carries::Sealed)) {
        let (word, on) = (format!("\"{}\"", command.word()), command.on().name().trim_end_matches('*'));
        let lines = text.lines().filter(|line| line.contains(&word) && line.contains(on));
        // Trials carry nothing, and name nothing that there is.
        let sent: Vec<&str> = lines.filter(|line| !line.contains(":0\"")).collect();
        assert!(!sent.is_empty(), "{command:?} was not sent:\n{text}");
        for line in sent {
            let is_sealed = line.contains("\"\\x02") || line.contains(" s1.");
            assert!(is_sealed, "{command:?} without a seal: {line}");
        }
    }
}
