//! All nodes are stopped and started in turn while people draw.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future;
use roomgate::dev::Api;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::{Client, submit};
use crate::convergence::{FROM_PRIMARY, whole_log};
use crate::world::{Person, World};

const ROOMS: usize = 6;
const TRAVELLERS: usize = 30;
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_rolling_restart_under_load_loses_nothing_and_everybody_is_back() {
    let world = World::start(|options| options).await;
    let owner = world.person("owner");
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        rooms.push(world.room(&owner, "open").await);
    }
    let (tell, done) = watch::channel(false);
    let mut travellers = Vec::new();
    for number in 0..TRAVELLERS {
        travellers.push(Traveller::starts(&world, number, rooms[number % ROOMS]).await);
    }
    let travelling = travellers.into_iter().map(|traveller| traveller.travels(&world, done.clone()));
    let restarting = async {
        for node in world.cluster().nodes() {
            node.service().restart().await.unwrap();
            in_service(&world, node.name()).await;
        }
        tell.send_replace(true);
    };
    let (mut travellers, ()) = future::join(future::join_all(travelling), restarting).await;

    let mut logged = 0;
    for room in rooms {
        let log = whole_log(&world, &owner, room, FROM_PRIMARY).await;
        logged += log.len();
        for traveller in travellers.iter_mut().filter(|traveller| traveller.room == room) {
            traveller.client.catches_up(room, log.len() as u64).await;
            assert!(!traveller.away.is_empty(), "every node was stopped");
            assert_eq!(traveller.in_log(&log), traveller.acked, "{}", traveller.person.user);
            let seen: Vec<&Value> =
                traveller.client.rooms[&room].seen.iter().map(|event| &event["op"]).collect();
            assert_eq!(seen, log.iter().map(|event| &event["op"]).collect::<Vec<_>>());
        }
    }
    assert_eq!(logged, travellers.iter().map(|traveller| traveller.acked.len()).sum::<usize>(), "one each");
    let mut away: Vec<Duration> = travellers.iter().flat_map(|traveller| traveller.away.clone()).collect();
    away.sort_unstable();
    println!(
        "{TRAVELLERS} people moved {} times, away for {:?} (half), {:?} (longest), hint included; \
         {logged} events, lost 0, doubled 0",
        away.len(),
        away[away.len() / 2],
        away[away.len() - 1]
    );
}

/// Until the balancer sends people to the node again.
async fn in_service(world: &World, node: &str) {
    let stats = Api::new(&world.cluster().haproxy().stats_url());
    let up = async {
        loop {
            let csv = stats.get(";csv").await.unwrap().text;
            let line = csv.lines().find(|line| line.starts_with(&format!("nodes,{node},")));
            if line.is_some_and(|line| line.contains(",UP,")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), up).await.expect("the balancer finds the node");
}

/// Goes on elsewhere whenever its connection ends, when it was told to, and asks
/// again for what was not answered.
struct Traveller {
    person: Person,
    room: u64,
    client: Client,
    sent: usize,
    unanswered: BTreeSet<usize>,
    acked: BTreeMap<String, u64>,
    /// What the goodbye said, since the connection was made.
    delay: Option<Duration>,
    /// From each end of a connection until it was live again.
    away: Vec<Duration>,
}

impl Traveller {
    async fn starts(world: &World, number: usize, room: u64) -> Self {
        let person = world.person(&format!("traveller{number}"));
        let mut client = world.balanced_client(&person).await;
        client.join(room).await;
        let (unanswered, acked) = (BTreeSet::new(), BTreeMap::new());
        Self { person, room, client, sent: 0, unanswered, acked, delay: None, away: Vec::new() }
    }

    /// Submits until `done`, and then until everything is answered.
    async fn travels(mut self, world: &World, done: watch::Receiver<bool>) -> Self {
        while !*done.borrow() || !self.unanswered.is_empty() {
            if !*done.borrow() {
                self.unanswered.insert(self.sent);
                self.submits(self.sent).await;
                self.sent += 1;
            }
            let pause = tokio::time::sleep(PAUSE);
            tokio::pin!(pause);
            loop {
                let heard = tokio::select! { heard = self.client.hears() => heard, () = &mut pause => break };
                match heard {
                    Some(message) => self.takes(&message),
                    None => self.comes_back(world).await,
                }
            }
        }
        self
    }

    async fn submits(&mut self, n: usize) {
        let body = json!({"kind": "message", "data": n});
        self.client.try_send(&submit(self.room, &self.op(n), &body)).await;
    }

    fn op(&self, n: usize) -> String {
        format!("{}-{n}", self.person.user)
    }

    fn takes(&mut self, message: &Value) {
        match message["type"].as_str().unwrap() {
            "ack" => {
                let op = message["op"].as_str().unwrap();
                let n: usize = op.rsplit('-').next().unwrap().parse().unwrap();
                self.unanswered.remove(&n);
                let seq = message["seq"].as_u64().unwrap();
                assert_eq!(*self.acked.entry(op.to_owned()).or_insert(seq), seq, "{message}");
            }
            "joined" => assert_eq!(message["mode"], "resume", "{message}"),
            "goodbye" => {
                assert_eq!(message["reason"], "restart");
                self.delay = message["reconnect_after_ms"].as_u64().map(Duration::from_millis);
            }
            other => assert_eq!(other, "presence", "{message}"),
        }
    }

    async fn comes_back(&mut self, world: &World) {
        let left = Instant::now();
        assert_eq!(self.client.ends().await, Some(1012));
        let mut delay = self.delay.take().expect("a goodbye before the end");
        let mut view = self.client.rooms.remove(&self.room).unwrap();
        loop {
            tokio::time::sleep(delay).await;
            delay = Duration::from_millis(500);
            let Some(mut client) = Client::try_connect(&world.cluster().url(), &self.person).await else {
                continue;
            };
            let resumed = client.try_resume(self.room, view).await;
            if resumed {
                self.client = client;
                break;
            }
            view = client.rooms.remove(&self.room).unwrap();
        }
        self.away.push(left.elapsed());
        for n in self.unanswered.clone() {
            self.submits(n).await;
        }
    }

    /// Where its ops are in the log.
    fn in_log(&self, log: &[Value]) -> BTreeMap<String, u64> {
        let own = log.iter().filter(|event| event["user"] == self.person.user.as_str());
        own.map(|event| (event["op"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap())).collect()
    }
}
