//! Who is in a room, as everybody in it is told: over all nodes while Redis is
//! there, of the own node while it isn't.
//!
//! Stopwatches here measure the wire's 1 s, and the 15 s after which a node that
//! has died must not be shown any more.

use std::collections::BTreeMap;
use std::time::Duration;

use roomgate::dev::Options;
use serde_json::{Value, json};

use crate::client::Client;
use crate::stopwatch::Stopwatch;
use crate::world::{Person, World};

const TOLD_WITHIN: Duration = Duration::from_secs(1);
const DEAD_WITHIN: Duration = Duration::from_secs(15);

/// A session in a room that keeps account of who else is there.
struct Guest {
    client: Client,
    person: Person,
    room: u64,
    /// Names by session.
    others: BTreeMap<String, String>,
    /// Every presence message, in order.
    told: Vec<Value>,
}

impl Guest {
    async fn enters(world: &World, node: usize, name: &str, room: u64) -> Self {
        Self::of(world, node, world.person(name), room).await
    }

    async fn of(world: &World, node: usize, person: Person, room: u64) -> Self {
        let mut client = world.client(node, &person).await;
        let joined = client.join(room).await;
        let mut guest = Self { client, person, room, others: BTreeMap::new(), told: Vec::new() };
        guest.meets(&joined["members"]);
        assert_eq!(joined["count"], guest.others.len() + 1, "{joined}");
        guest
    }

    fn meets(&mut self, members: &Value) {
        for member in members.as_array().unwrap() {
            if member["session"] != self.client.session.as_str() {
                let [session, name] = ["session", "name"].map(|key| member[key].as_str().unwrap().to_owned());
                self.others.insert(session, name);
            }
        }
    }

    fn hears(&mut self, presence: Value) {
        let named = presence["joined"].as_array().unwrap();
        let own = self.client.session.as_str();
        assert!(named.iter().all(|member| member["session"] != own), "about itself: {presence}");
        self.meets(&presence["joined"]);
        for session in presence["left"].as_array().unwrap() {
            self.others.remove(session.as_str().unwrap());
        }
        assert_eq!(presence["count"], self.others.len() + 1, "{presence}, knowing {:?}", self.others);
        self.told.push(presence);
    }

    /// Waits until exactly these others are here.
    async fn sees(&mut self, names: &[&str]) {
        self.until(|guest| guest.sees_now(names)).await;
    }

    async fn until(&mut self, so: impl Fn(&Self) -> bool) {
        while !so(self) {
            let room = self.room;
            let presence = self.client.wait(|m| m["type"] == "presence" && m["room"] == room).await;
            self.hears(presence);
        }
    }

    fn sessions_of(&self, name: &str) -> Vec<String> {
        self.others.iter().filter(|(_, other)| *other == name).map(|(session, _)| session.clone()).collect()
    }

    async fn sees_in_time(&mut self, names: &[&str], limit: Duration) {
        let start = Stopwatch::start();
        self.sees(names).await;
        let took = start.elapsed();
        assert!(took < limit, "{names:?} took {took:?}");
    }

    fn sees_now(&self, names: &[&str]) -> bool {
        let mut here: Vec<&str> = self.others.values().map(String::as_str).collect();
        here.sort_unstable();
        here == names
    }

    async fn leaves(&mut self) {
        self.client.ask(&json!({"type": "leave", "room": self.room}), "left").await;
    }
}

/// Who is in the room, by the HTTP API of a node.
async fn asked(world: &World, node: usize, person: &Person, room: u64) -> (u64, Vec<String>) {
    let answer = world.api_of(node, person).get(&format!("/v1/rooms/{room}/presence")).await.unwrap();
    let presence = answer.json();
    let name = |member: &Value| member["name"].as_str().unwrap().to_owned();
    let mut names: Vec<_> = presence["members"].as_array().unwrap().iter().map(name).collect();
    names.sort_unstable();
    (presence["count"].as_u64().unwrap(), names)
}

/// Nodes of their own, to be broken.
async fn nodes(count: usize) -> World {
    World::start(|options| Options { nodes: count, shards: 1, replicas: 0, ..options }).await
}

async fn open_room(world: &World) -> u64 {
    world.room(&world.person("owner"), "open").await
}

#[tokio::test]
async fn who_comes_and_goes_is_known_on_every_node_within_1_s() {
    let world = World::shared();
    let room = open_room(world).await;
    let mut ann = Guest::enters(world, 0, "ann", room).await;
    let came = Stopwatch::start();
    while asked(world, 1, &ann.person, room).await.0 == 0 {
        assert!(came.elapsed() < TOLD_WITHIN, "nobody knows of her");
    }
    let mut bob = Guest::enters(world, 1, "bob", room).await;
    assert!(bob.sees_now(&["ann"]), "the first one on a node is told of the others at once");
    ann.sees_in_time(&["bob"], TOLD_WITHIN).await;
    let mut cora = Guest::enters(world, 1, "cora", room).await;
    assert!(cora.sees_now(&["ann", "bob"]));
    ann.sees_in_time(&["bob", "cora"], TOLD_WITHIN).await;
    bob.sees_in_time(&["ann", "cora"], TOLD_WITHIN).await;
    assert_eq!(asked(world, 0, &ann.person, room).await.0, 3);

    bob.leaves().await;
    ann.sees_in_time(&["cora"], TOLD_WITHIN).await;
    cora.sees_in_time(&["ann"], TOLD_WITHIN).await;
    drop(cora.client.vanish());
    ann.sees_in_time(&[], TOLD_WITHIN).await;
}

#[tokio::test]
async fn joining_again_changes_nothing_and_moving_to_another_node_shows_once() {
    let world = World::shared();
    let room = open_room(world).await;
    let mut ann = Guest::enters(world, 0, "ann", room).await;
    let mut bob = Guest::enters(world, 1, "bob", room).await;
    ann.sees(&["bob"]).await;
    // He may have come before his node was told of her.
    bob.sees(&["ann"]).await;
    let told = ann.told.len();
    for _ in 0..3 {
        let joined = bob.client.join(room).await;
        assert_eq!(joined["count"], 2);
    }
    let mut cora = Guest::enters(world, 1, "cora", room).await;
    ann.sees(&["bob", "cora"]).await;
    let since = &ann.told[told..];
    assert_eq!(since.len(), 1, "{since:?}");
    assert_eq!(since[0]["joined"].as_array().unwrap().len(), 1, "{since:?}");

    let old = ann.sessions_of("bob");
    bob.leaves().await;
    let _moved = Guest::of(world, 0, bob.person.clone(), room).await;
    let moved = |guest: &Guest| guest.sessions_of("bob").len() == 1 && guest.sessions_of("bob") != old;
    ann.until(moved).await;
    cora.until(moved).await;
    assert_eq!(asked(world, 1, &ann.person, room).await.0, 3);
}

#[tokio::test]
async fn the_sessions_of_a_killed_node_are_gone_within_15_s() {
    let world = nodes(2).await;
    let room = open_room(&world).await;
    let mut ann = Guest::enters(&world, 0, "ann", room).await;
    let _bob = Guest::enters(&world, 1, "bob", room).await;
    let _cora = Guest::enters(&world, 1, "cora", room).await;
    ann.sees(&["bob", "cora"]).await;
    world.cluster().nodes()[1].service().kill_for_good().await;
    ann.sees_in_time(&[], DEAD_WITHIN).await;
    assert_eq!(asked(&world, 0, &ann.person, room).await, (1, vec!["ann".to_owned()]));
}

#[tokio::test]
async fn the_sessions_of_a_frozen_node_are_gone_and_come_back_with_it() {
    let world = nodes(3).await;
    let room = open_room(&world).await;
    let mut ann = Guest::enters(&world, 0, "ann", room).await;
    let mut bob = Guest::enters(&world, 1, "bob", room).await;
    ann.sees(&["bob"]).await;
    let frozen = world.cluster().nodes()[1].service();
    frozen.pause();
    ann.sees_in_time(&[], DEAD_WITHIN).await;
    let mut cora = Guest::enters(&world, 0, "cora", room).await;
    assert!(cora.sees_now(&["ann"]));
    frozen.resume();
    ann.sees(&["bob", "cora"]).await;
    cora.sees(&["ann", "bob"]).await;
    bob.sees(&["ann", "cora"]).await;
    // Where nobody is in the room, the stored list is what is known.
    assert_eq!(asked(&world, 2, &ann.person, room).await.0, 3);
}

#[tokio::test]
async fn after_redis_came_back_empty_everybody_is_known_again() {
    let world = nodes(3).await;
    let room = open_room(&world).await;
    let mut ann = Guest::enters(&world, 0, "ann", room).await;
    let mut bob = Guest::enters(&world, 1, "bob", room).await;
    ann.sees(&["bob"]).await;
    world.cluster().redis().service().restart().await.unwrap();
    let everybody = ["ann", "bob"].map(str::to_owned).to_vec();
    let start = Stopwatch::start();
    while asked(&world, 2, &ann.person, room).await != (2, everybody.clone()) {
        assert!(start.elapsed() < DEAD_WITHIN, "{:?}", asked(&world, 2, &ann.person, room).await);
        tokio::task::yield_now().await;
    }
    let mut cora = Guest::enters(&world, 2, "cora", room).await;
    cora.sees(&["ann", "bob"]).await;
    ann.sees(&["bob", "cora"]).await;
    bob.sees(&["ann", "cora"]).await;
}

#[tokio::test]
async fn while_redis_is_away_the_own_node_is_seen_and_afterwards_all() {
    let world = nodes(2).await;
    let room = open_room(&world).await;
    let mut ann = Guest::enters(&world, 0, "ann", room).await;
    let mut bob = Guest::enters(&world, 1, "bob", room).await;
    let mut cora = Guest::enters(&world, 0, "cora", room).await;
    ann.sees(&["bob", "cora"]).await;
    let redis = world.cluster().redis().service();
    redis.kill_for_good().await;
    ann.sees_in_time(&["cora"], DEAD_WITHIN).await;
    bob.sees_in_time(&[], DEAD_WITHIN).await;
    let mut dave = Guest::enters(&world, 1, "dave", room).await;
    bob.sees_in_time(&["dave"], TOLD_WITHIN).await;
    cora.leaves().await;
    ann.sees_in_time(&[], TOLD_WITHIN).await;

    redis.restart().await.unwrap();
    ann.sees(&["bob", "dave"]).await;
    bob.sees(&["ann", "dave"]).await;
    dave.sees(&["ann", "bob"]).await;
}

#[tokio::test]
async fn above_a_hundred_members_only_their_count_is_told() {
    let world = World::shared();
    let room = open_room(world).await;
    let person = world.person("crowd");
    let mut first = world.client(0, &person).await;
    first.join(room).await;
    let mut crowd = Vec::new();
    for n in 0..119 {
        let mut client = world.client(n % 2, &person).await;
        client.join(room).await;
        crowd.push(client);
    }
    for client in [&mut first, &mut crowd[1]] {
        let told = client.wait(|m| m["type"] == "presence" && m["count"] == 120).await;
        assert_eq!((&told["joined"], &told["left"]), (&json!([]), &json!([])));
    }
    for node in 0..2 {
        let mut late = world.client(node, &person).await;
        let joined = late.join(room).await;
        assert_eq!(joined["members"], json!([]));
        let (count, listed) = asked(world, node, &person, room).await;
        assert!(count >= 120 && listed.len() == 100, "{count}, {} listed", listed.len());
    }
    crowd.truncate(40);
    let told = first.wait(|m| m["type"] == "presence" && m["count"] == 41).await;
    assert!(told["left"].as_array().unwrap().len() <= 100, "{told}");
}
