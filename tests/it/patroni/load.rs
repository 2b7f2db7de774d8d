//! People who draw all the time, one operation after the other, and keep what
//! isn't acked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use roomgate::dev::{Admin, Api};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::node::Node;
use crate::client::Client;
use crate::world::Person;

/// Between an ack and the next operation.
const PAUSE: Duration = Duration::from_millis(20);
/// After a refusal.
const RETRY: Duration = Duration::from_millis(100);

pub struct Load {
    pub room: u64,
    diary: Arc<Mutex<Diary>>,
    done: watch::Sender<bool>,
    drawing: JoinSet<Option<Client>>,
}

#[derive(Debug, Default, Clone)]
pub struct Diary {
    pub acks: Vec<Ack>,
    /// What was said instead of an ack, over HTTP; the same was sent again.
    pub refusals: BTreeMap<String, usize>,
}

#[derive(Debug, Clone)]
pub struct Ack {
    pub user: String,
    pub op: String,
    pub epoch: u64,
    pub seq: u64,
    /// When it was first sent.
    pub sent: Instant,
    pub acked: Instant,
}

impl Load {
    /// In one room: over WebSocket one on each node, who stays connected and is
    /// refused nothing; over HTTP two who go from node to node.
    pub async fn start(nodes: &[Node]) -> Self {
        let owner = nodes[0].person("owner");
        let api = Api::new(&nodes[0].url()).signed_in(&owner.token);
        let made = api.post("/v1/rooms", &json!({"slug": "patroni", "schema": "open"})).await.unwrap();
        let room = made.json()["room"].as_u64().unwrap_or_else(|| panic!("{}", made.text));
        let (diary, (done, stop)) = (Arc::<Mutex<Diary>>::default(), watch::channel(false));
        // All are there before the first event, so that everybody sees all of them.
        let mut clients = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let mut client = Client::connect(&node.url(), &node.person(&format!("socket-{number}"))).await;
            client.join(room).await;
            clients.push(client);
        }
        let mut drawing = JoinSet::new();
        for client in clients {
            drawing.spawn(draws_over_a_socket(client, room, diary.clone(), stop.clone()));
        }
        for number in 0..2 {
            let person = nodes[0].person(&format!("http-{number}"));
            let apis = nodes.iter().map(|node| Api::new(&node.url()).signed_in(&person.token)).collect();
            drawing.spawn(draws_over_http(person, apis, room, diary.clone(), stop.clone()));
        }
        Self { room, diary, done, drawing }
    }

    pub fn diary(&self) -> Diary {
        self.diary.lock().unwrap().clone()
    }

    pub fn epoch(&self) -> u64 {
        self.diary.lock().unwrap().acks.iter().map(|ack| ack.epoch).max().unwrap_or_default()
    }

    /// Nobody begins anything more. Once all is answered: what was acked, and
    /// the sockets, which were never closed.
    pub async fn ends(self) -> (Diary, Vec<Client>) {
        self.done.send_replace(true);
        let clients = self.drawing.join_all().await.into_iter().flatten().collect();
        let diary = self.diary.lock().unwrap().clone();
        (diary, clients)
    }
}

impl Diary {
    /// The longest that anybody waited for an ack that came after `since`.
    pub fn longest_wait(&self, since: Instant) -> Duration {
        let after = self.acks.iter().filter(|ack| ack.acked > since);
        after.map(|ack| ack.acked - ack.sent).max().unwrap_or_default()
    }

    /// When the first ack of an epoch after `epoch` came.
    pub fn first_ack_after(&self, epoch: u64) -> Option<Instant> {
        self.acks.iter().filter(|ack| ack.epoch > epoch).map(|ack| ack.acked).min()
    }
}

/// A refusal here ends the test: all that is felt of a failover is a wait.
async fn draws_over_a_socket(
    mut client: Client,
    room: u64,
    diary: Arc<Mutex<Diary>>,
    done: watch::Receiver<bool>,
) -> Option<Client> {
    let user = client.person.user.clone();
    for number in 0.. {
        if *done.borrow() {
            break;
        }
        let (op, sent) = (format!("{user}-{number}"), Instant::now());
        let answer = client.submit(room, &op, &json!({"kind": "message", "data": number})).await;
        assert_eq!(answer["type"], "ack", "{answer}");
        note(&diary, &user, op, sent, &answer);
        client.listens_until(tokio::time::sleep(PAUSE)).await;
    }
    Some(client)
}

async fn draws_over_http(
    person: Person,
    nodes: Vec<Api>,
    room: u64,
    diary: Arc<Mutex<Diary>>,
    done: watch::Receiver<bool>,
) -> Option<Client> {
    let path = format!("/v1/rooms/{room}/events");
    let mut nodes = nodes.iter().cycle();
    for number in 0.. {
        if *done.borrow() {
            break;
        }
        let (op, sent) = (format!("{}-{number}", person.user), Instant::now());
        let body = json!({"items": [{"op": op, "kind": "message", "data": number}]});
        loop {
            let node = nodes.next().unwrap();
            let answer = node.post(&path, &body).await.unwrap().json();
            let item = &answer["items"][0];
            if item["type"] == "ack" {
                note(&diary, &person.user, op, sent, item);
                break;
            }
            let code = [&item["code"], &answer["error"]["code"]].into_iter().find_map(Value::as_str);
            let code = code.unwrap_or_else(|| panic!("{answer}")).to_owned();
            *diary.lock().unwrap().refusals.entry(code).or_default() += 1;
            tokio::time::sleep(RETRY).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

fn note(diary: &Mutex<Diary>, user: &str, op: String, sent: Instant, ack: &Value) {
    let (epoch, seq) = (ack["epoch"].as_u64().unwrap(), ack["seq"].as_u64().unwrap());
    let ack = Ack { user: user.to_owned(), op, epoch, seq, sent, acked: Instant::now() };
    diary.lock().unwrap().acks.push(ack);
}

/// An event of the room's log, as a server holds it.
pub struct Logged {
    pub seq: u64,
    pub epoch: u64,
    pub user: String,
    pub op: String,
}

/// The whole log, which has no hole, no repeat and no step back.
pub async fn log_of(server: &Admin, room: u64) -> Vec<Logged> {
    let ask = "SELECT seq, epoch, user_id, op_id FROM room_event WHERE room_id = $1 ORDER BY seq";
    let rows = server.query(ask, &[&i64::try_from(room).unwrap()]).await.unwrap();
    let number = |value: i64| u64::try_from(value).unwrap();
    let log: Vec<Logged> = rows
        .iter()
        .map(|row| Logged {
            seq: number(row.get(0)),
            epoch: number(row.get(1)),
            user: row.get(2),
            op: row.get(3),
        })
        .collect();
    assert!((1..).zip(&log).all(|(seq, event)| event.seq == seq), "seq is 1, 2, 3 …");
    assert!(log.is_sorted_by_key(|event| event.epoch), "an epoch never goes back");
    log
}

/// Every ack is in the log where it said, once, and each person's in the order
/// in which they were sent.
pub fn holds(log: &[Logged], acks: &[Ack]) {
    let mut entries: BTreeMap<(&str, &str), Vec<&Logged>> = BTreeMap::new();
    for event in log {
        entries.entry((&event.user, &event.op)).or_default().push(event);
    }
    let mut last = BTreeMap::new();
    for ack in acks {
        let found = entries.remove(&(ack.user.as_str(), ack.op.as_str())).unwrap_or_default();
        let places: Vec<(u64, u64)> = found.iter().map(|event| (event.epoch, event.seq)).collect();
        assert_eq!(places, [(ack.epoch, ack.seq)], "{} is in the log, once, as acked", ack.op);
        let before = last.insert(&ack.user, ack.seq).unwrap_or_default();
        assert!(before < ack.seq, "{} was acked out of order", ack.op);
    }
}
