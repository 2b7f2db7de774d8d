//! Rooms by their slug on a node that can't ask the directory.

use std::time::Duration;

use roomgate::dev::{Answer, Options, connect};
use roomgate::ids::RoomId;
use roomgate::placement::slot_of;
use serde_json::{Value, json};

use crate::append::proxy::Proxy;
use crate::client::Client;
use crate::live::reader::{Ask, Reader};
use crate::stopwatch::Stopwatch;
use crate::world::{Person, World, refused};

/// How the directory is away: it refuses connections, or it is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    Refusing,
    Frozen,
}

/// Two shards; only the first node asks the directory through a proxy.
struct Cut {
    world: World,
    proxy: Option<Proxy>,
}

impl Cut {
    async fn start() -> Self {
        let world = World::start(|options| Options { nodes: 2, shards: 2, replicas: 0, ..options }).await;
        let node = &world.cluster().nodes()[0];
        let file = world.cluster().report().jwt.key_file.with_file_name("nodes/node-1.toml");
        let port = world.cluster().shards()[0].primary().endpoint().port;
        let proxy = Proxy::start(port, 1).await;
        let text = std::fs::read_to_string(&file).unwrap();
        // The directory's only endpoint is the first one in the file.
        let behind = text.replacen(&format!("port = {port}"), &format!("port = {}", proxy.address.port()), 1);
        std::fs::write(&file, behind).unwrap();
        node.service().restart().await.unwrap();
        Self { world, proxy: Some(proxy) }
    }

    fn away(&mut self, away: Away) {
        match away {
            Away::Refusing => drop(self.proxy.take()),
            Away::Frozen => self.proxy.as_ref().unwrap().lose_packets(true),
        }
    }

    /// By the other node, so that the first one has never heard of it.
    async fn room(&self, owner: &Person, slug: &str) -> u64 {
        let made = self.world.api_of(1, owner).post("/v1/rooms", &json!({"slug": slug})).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text);
        made.json()["room"].as_u64().unwrap()
    }

    /// A room on this shard, and its slug.
    async fn room_on(&self, shard: usize, owner: &Person) -> (u64, String) {
        loop {
            let slug = slug();
            let room = self.room(owner, &slug).await;
            if self.world.shard_of(room).await == shard {
                return (room, slug);
            }
        }
    }

    /// The next id behind `room` that belongs to this shard.
    async fn next_on(&self, shard: usize, room: u64) -> u64 {
        let ask = "SELECT slot FROM slot_owner WHERE state = 'active'";
        let owned = self.world.primaries().await[shard].query(ask, &[]).await.unwrap();
        let owned: Vec<i32> = owned.iter().map(|row| row.get(0)).collect();
        (room + 1..).find(|id| owned.contains(&slot(*id))).unwrap()
    }

    async fn get(&self, person: &Person, slug: &str) -> Answer {
        self.world.api_of(0, person).get(&format!("/v1/rooms/{slug}")).await.unwrap()
    }
}

fn slot(room: u64) -> i32 {
    i32::from(slot_of(RoomId::new(room).unwrap()).0)
}

fn slug() -> String {
    format!("room-{:016x}", rand::random::<u64>())
}

#[tokio::test]
async fn every_door_opens_by_slug_while_the_directory_is_away() {
    for away in [Away::Refusing, Away::Frozen] {
        let mut cut = Cut::start().await;
        let olga = cut.world.person("olga");
        let mut slugs = Vec::new();
        for n in 0..10 {
            slugs.push(cut.room_on(n % 2, &olga).await.1);
        }
        cut.away(away);
        let api = cut.world.api_of(0, &olga);
        let url = cut.world.cluster().nodes()[0].url();
        let mut slugs = slugs.into_iter();
        // Each by a slug that the node has not looked up before.
        for (method, path, body) in [
            ("GET", "", Value::Null),
            ("PATCH", "", json!({"name": "another"})),
            ("GET", "/members", Value::Null),
            ("GET", "/events", Value::Null),
            ("POST", "/events", json!({"items": [{"op": "1", "kind": "message", "data": 1}]})),
            ("GET", "/shapes", Value::Null),
            ("GET", "/stats", Value::Null),
            ("GET", "/presence", Value::Null),
        ] {
            let path = format!("/v1/rooms/{}{path}", slugs.next().unwrap());
            let body = (!body.is_null()).then(|| body.to_string());
            let asked = Stopwatch::start();
            let answer = api.send(method.parse().unwrap(), &path, body).await.unwrap();
            assert_eq!(answer.status, 200, "{away:?} {method} {path}: {}", answer.text);
            assert!(asked.elapsed() < Duration::from_secs(3), "{away:?} {path}: {:?}", asked.elapsed());
        }
        let mut client = Client::connect(&url, &olga).await;
        let joined = client.ask(&json!({"type": "join", "slug": slugs.next().unwrap()}), "joined").await;
        assert_eq!(joined["role"], "owner");
        let slug = slugs.next().unwrap();
        assert!(Reader::open(&url, slug, &Ask::by(&olga)).await.is_ok(), "{away:?}");
        // A "no" of all shards is one, and is not remembered.
        let late = self::slug();
        refused(&cut.get(&olga, &late).await, 404, "room_unknown");
        cut.room(&olga, &late).await;
        assert_eq!(cut.get(&olga, &late).await.status, 200, "{away:?}");
    }
}

#[tokio::test]
async fn a_slug_is_unknown_only_by_the_word_of_all_slot_owners() {
    let mut cut = Cut::start().await;
    let olga = cut.world.person("olga");
    let (here, known) = cut.room_on(0, &olga).await;
    let (_, twice) = cut.room_on(0, &olga).await;
    let (there, _) = cut.room_on(1, &olga).await;
    let shards = cut.world.primaries().await;
    // Leftover rows of a moved slot: one room is elsewhere by now, and the other one
    // is not on the shard that owns its slot.
    let leftover = slug();
    let row = |id: u64, slug: &str| {
        let slot = slot(id);
        format!(
            "INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema)
             VALUES ({id}, {slot}, '{slug}', 'x', 'x', 'public', 'viewer', 'open')"
        )
    };
    shards[1].batch_execute(&row(here, &known)).await.unwrap();
    let lost = cut.next_on(0, here).await;
    shards[1].batch_execute(&row(lost, &leftover)).await.unwrap();
    // A directory that lost a slug may have given it to a second room.
    let rename = format!("UPDATE room SET slug = '{twice}' WHERE id = {there}");
    shards[1].batch_execute(&rename).await.unwrap();
    cut.away(Away::Refusing);
    let found = cut.get(&olga, &known).await;
    assert_eq!((found.status.as_u16(), found.json()["room"].as_u64()), (200, Some(here)), "{}", found.text);
    refused(&cut.get(&olga, &leftover).await, 404, "room_unknown");
    refused(&cut.get(&olga, &twice).await, 503, "unavailable");

    let (_, other) = cut.room_on(0, &olga).await;
    let gone = cut.world.cluster().shards()[1].primary().service().clone();
    gone.pause();
    assert_eq!(cut.get(&olga, &other).await.status, 200, "the shard that answers has it");
    let asked = Stopwatch::start();
    refused(&cut.get(&olga, &slug()).await, 503, "unavailable");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    gone.resume();
}

#[tokio::test]
async fn many_who_ask_for_one_slug_cost_each_shard_one_query() {
    let mut cut = Cut::start().await;
    let olga = cut.world.person("olga");
    let (_, slug) = cut.room_on(1, &olga).await;
    cut.away(Away::Refusing);
    let asked = async || {
        let statements = cut.world.counted_on(0, "db_query_duration_seconds_count", "statement").await;
        statements.get("room_by_slug").copied().unwrap_or_default()
    };
    let before = asked().await;
    let many = futures_util::future::join_all((0..100).map(|_| cut.get(&olga, &slug))).await;
    assert!(many.iter().all(|answer| answer.status == 200));
    assert!(asked().await - before <= 2.0, "{}", asked().await - before);
}

#[tokio::test]
async fn an_erasure_goes_on_where_shards_answer() {
    let cut = Cut::start().await;
    let world = &cut.world;
    let account = json!({"email": "olga@x.test", "password": "correct horse", "name": "Olga"});
    let made = world.api_of(0, &world.person("x")).post("/v1/signup", &account).await.unwrap().json();
    let olga = Person {
        user: made["user"]["id"].as_str().unwrap().to_owned(),
        token: made["token"].as_str().unwrap().to_owned(),
    };
    let mut rooms = Vec::new();
    for shard in [0, 1] {
        rooms.push(cut.room_on(shard, &olga).await.0);
    }
    // A room that is half made on the shard that goes away.
    let half_made = cut.next_on(1, rooms[1]).await;
    let plan = json!({
        "name": "x", "access": "public", "default_role": "viewer", "schema": "open",
        "password_hash": null, "metadata": {}
    });
    let reserved = format!(
        "INSERT INTO directory.slug (slug, room_id, owner, state, plan)
         VALUES ('half-made', {half_made}, '{}', 'creating', '{plan}')",
        olga.user
    );
    world.primaries().await[0].batch_execute(&reserved).await.unwrap();
    let gone = world.cluster().shards()[1].primary().service().clone();
    gone.pause();
    let erased = world.api_of(0, &olga).send("DELETE".parse().unwrap(), "/v1/me", None).await.unwrap();
    assert_eq!(erased.status, 204, "{}", erased.text);
    let archived = async |shard: usize, room: u64| {
        let admin = connect(&world.cluster().shards()[shard].primary().admin_dsn()).await.unwrap();
        let ask = format!("SELECT archived_at IS NOT NULL FROM room WHERE id = {room}");
        admin.query_one(&ask, &[]).await.unwrap().get::<_, bool>(0)
    };
    assert!(archived(0, rooms[0]).await, "the shard that answers was gone through");
    gone.resume();
    let done = async {
        while !archived(1, rooms[1]).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), done).await.expect("the other shard's turn comes");
}
