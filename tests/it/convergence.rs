//! Many clients on all nodes draw at random: in the end everybody has the same.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::client::{Client, rect};
use crate::view::View;
use crate::world::{Person, World, seed};

const NODES: usize = 3;
const CLIENTS: usize = 20;
const ROOMS: usize = 5;
const STEPS: usize = 40;

#[tokio::test]
async fn everyone_in_a_room_sees_the_same_events_and_ends_with_the_same_shapes() {
    let seed = seed();
    println!("seed {seed}; to replay what was drawn: ROOMGATE_SEED={seed} make it");
    let world = World::shared();
    let owner = world.person("owner");
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        rooms.push(world.room(&owner, "drawing").await);
    }

    let all_done = Barrier::new(CLIENTS);
    let scripts = (0..CLIENTS).map(|i| Script::new(seed, i, &rooms).run(world, &all_done));
    let clients: Vec<Client> = join_all(scripts).await;

    for room in rooms {
        let log = whole_log(world, &owner, room, FROM_PRIMARY).await;
        assert!(log.len() > STEPS, "room {room} was hardly drawn in: {}", log.len());
        let here = clients.iter().filter(|client| client.rooms.contains_key(&room));
        let nodes: std::collections::BTreeSet<&str> = here.map(|client| client.node.as_str()).collect();
        assert!(nodes.len() >= 2, "room {room} has members on {nodes:?} only");
        check_room(world, &owner, room, &log, &clients).await;
    }
}

/// Every view of the room is a contiguous run of its log, and all have its state.
async fn check_room(world: &World, owner: &Person, room: u64, log: &[Value], clients: &[Client]) {
    let mut replay = View { live: true, ..View::default() };
    log.iter().for_each(|event| replay.event(event));
    let state = state_over_http(world, owner, room, FROM_PRIMARY).await;
    assert_eq!(replay.shapes, state, "room {room}: the state is not what the log says");
    for client in clients {
        let Some(view) = client.rooms.get(&room) else { continue };
        assert_eq!(view.seq as usize, log.len(), "{} in room {room}", client.person.user);
        assert_eq!(view.shapes, state, "{} in room {room}", client.person.user);
        let first = log.len() - view.seen.len();
        assert_eq!(
            view.seen.iter().map(bare).collect::<Vec<_>>(),
            log[first..].iter().map(bare).collect::<Vec<_>>()
        );
    }
}

/// What one client does. The plan follows from the seed alone; what it meets
/// (who is first, which conflicts there are) depends on the others.
struct Script {
    number: usize,
    rng: StdRng,
    rooms: [u64; 2],
}

impl Script {
    /// Clients take the nodes in turn, and two rooms each, so that every room has
    /// clients on every node.
    fn new(seed: u64, number: usize, rooms: &[u64]) -> Self {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        let pair = [rooms[number % ROOMS], rooms[(number + 1 + number / ROOMS) % ROOMS]];
        Self { number, rng, rooms: pair }
    }

    async fn run(mut self, world: &World, all_done: &Barrier) -> Client {
        let person = world.person(&format!("client{}", self.number));
        let mut client = world.client(self.number % NODES, &person).await;
        for room in self.rooms {
            client.join(room).await;
        }
        for step in 0..STEPS {
            let room = self.rooms[self.rng.random_range(0..2)];
            let body = self.draw(step);
            let answer = client.submit(room, &format!("op-{step}"), &body).await;
            let expected = ["shape_exists", "shape_unknown", "shape_deleted", "version_conflict"];
            let rejected = answer["code"].as_str().is_some_and(|code| expected.contains(&code));
            assert!(answer["type"] == "ack" || rejected, "{body} got {answer}");
            if self.rng.random_bool(0.04) {
                client = self.reconnect(world, client).await;
            }
        }
        self.settle(world, client, all_done).await
    }

    /// Few shape ids at a time, so that clients get in each other's way; new ones
    /// with time, since what was deleted stays dead.
    fn draw(&mut self, step: usize) -> Value {
        let id = format!("s{}-{}", step / 6, self.rng.random_range(0..8));
        let x = self.rng.random_range(-1000..1000);
        let base = self.rng.random_bool(0.3).then(|| self.rng.random_range(0..6));
        let mut body = match self.rng.random_range(0..100) {
            0..35 => return json!({"kind": "shape.add", "shape": rect(&id, x)}),
            35..60 => {
                json!({"kind": "shape.update", "shape_id": id, "patch": {"x": x, "style": {"colour": null, "w": x}}})
            }
            60..80 => json!({"kind": "shape.put", "shape": rect(&id, x)}),
            80..94 => json!({"kind": "shape.delete", "shape_id": id}),
            94..98 => return json!({"kind": "message", "data": {"x": x}}),
            _ => return json!({"kind": "room.clear"}),
        };
        if let Some(base) = base {
            body["base"] = json!(base);
        }
        body
    }

    /// Drops the connection and goes on at another node, where it stopped.
    async fn reconnect(&mut self, world: &World, client: Client) -> Client {
        let person = client.person.clone();
        let node = self.rng.random_range(0..NODES);
        let views = client.vanish();
        let mut client = world.client(node, &person).await;
        for (room, view) in views {
            let joined = client.resume(room, view).await;
            assert_eq!(joined["mode"], "resume", "{joined}");
        }
        client
    }

    /// Waits until everybody is done, and then until this client has seen all.
    async fn settle(&self, world: &World, mut client: Client, all_done: &Barrier) -> Client {
        client.listens_until(all_done.wait()).await;
        for room in self.rooms {
            client.catches_up(room, head(world, &client.person.clone(), room).await).await;
        }
        client
    }
}

async fn head(world: &World, person: &Person, room: u64) -> u64 {
    let answer =
        world.api(person).get(&format!("/v1/rooms/{room}/events?limit=1&{FROM_PRIMARY}")).await.unwrap();
    answer.json()["head"].as_u64().unwrap_or_else(|| panic!("{}", answer.text))
}

/// All events, page by page, as new as `fresh` asks, e.g. `min_seq=1.5`.
pub async fn whole_log(world: &World, person: &Person, room: u64, fresh: &str) -> Vec<Value> {
    pages(world, person, &format!("/v1/rooms/{room}/events?limit=200&{fresh}")).await
}

pub const FROM_PRIMARY: &str = "freshness=primary";

/// All live shapes with their versions, page by page.
pub async fn state_over_http(
    world: &World,
    person: &Person,
    room: u64,
    fresh: &str,
) -> BTreeMap<String, (u64, Value)> {
    let items = pages(world, person, &format!("/v1/rooms/{room}/shapes?limit=200&{fresh}")).await;
    let entry = |item: Value| {
        let id = item["shape"]["id"].as_str().unwrap().to_owned();
        (id, (item["version"].as_u64().unwrap(), item["shape"].clone()))
    };
    items.into_iter().map(entry).collect()
}

async fn pages(world: &World, person: &Person, path: &str) -> Vec<Value> {
    let api = world.api(person);
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = api.get(&format!("{path}{cursor}")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        let page = answer.json();
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

/// Without what only some ways of telling it carry.
fn bare(event: &Value) -> Value {
    let mut event = event.clone();
    let fields = event.as_object_mut().unwrap();
    fields.remove("type");
    fields.remove("room");
    event
}
