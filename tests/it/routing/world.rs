//! A small vocabulary for reads: a shard with replicas, and nodes that read it.

use std::time::{Duration, Instant};

use roomgate::config;
use roomgate::db::Budget;
use roomgate::db::migrate::Schema;
use roomgate::dev::{Admin, Postgres, Scratch};
use roomgate::ids::{NodeName, RoomId, ShardName};
use roomgate::memory::{Memory, Owner, Reservation, SMALL_BYTES};
use roomgate::placement::{SlotMap, slot_of};
use roomgate::position::{Epoch, Position, Seq};
use roomgate::routing::{Setup, Shard, Shards, Standing};
use roomgate::store::history::{History, PageOutcome, Read};
use roomgate::store::slots::Slots;
use roomgate::store::topology::Topology;
use roomgate::tasks::Tasks;

/// Long enough for anything that works at all.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The epoch that [`World`] gives to all slots.
pub const EPOCH: u64 = 7;

pub struct World {
    pub primary: Postgres,
    pub replicas: Vec<Postgres>,
    pub admin: Admin,
    _scratch: Scratch,
}

impl World {
    /// Shard `a`, owner of all slots, with a directory beside it.
    pub async fn start(replicas: usize) -> Self {
        let world = Self::bare(replicas).await;
        world.own_all_slots().await;
        world
    }

    /// The same, but nobody owns anything and nothing is claimed.
    pub async fn bare(replicas: usize) -> Self {
        let scratch = Scratch::new("reads").unwrap();
        let primary = Postgres::primary(&scratch.path().join("a-1"), "a-1").await.unwrap();
        let admin = primary.admin().await.unwrap();
        migrate(&admin).await;
        let mut standbys = Vec::new();
        for number in 0..replicas {
            let name = format!("a-{}", number + 2);
            standbys.push(Postgres::replica(&scratch.path().join(&name), &name, &primary).await.unwrap());
        }
        Self { primary, replicas: standbys, admin, _scratch: scratch }
    }

    async fn own_all_slots(&self) {
        let own = format!(
            "INSERT INTO slot_owner SELECT slot, {EPOCH}, 'active', null FROM generate_series(0, 16383) AS slot;
             INSERT INTO shard_claim (shard, timeline, system_id)
               SELECT 'a', 1, system_identifier FROM pg_control_system();"
        );
        self.sql(&own).await;
    }

    pub async fn sql(&self, text: &str) {
        self.admin.batch_execute(text).await.unwrap();
    }

    pub async fn room(&self) -> RoomId {
        let room = RoomId::random();
        create_room(&self.admin, room).await;
        room
    }

    /// Commits `count` events, and tells the new head.
    pub async fn append(&self, room: RoomId, count: u64) -> Position {
        append(&self.admin, room, count).await
    }

    pub fn endpoints(&self) -> Vec<config::Endpoint> {
        std::iter::once(&self.primary).chain(&self.replicas).map(Postgres::endpoint).collect()
    }

    pub async fn node(&self) -> Node {
        self.node_with(reads()).await
    }

    pub async fn node_with(&self, reads: config::Reads) -> Node {
        let node = Node::start(&[("a", self.endpoints())], reads).await;
        node.sees_all(self.replicas.len()).await;
        node.slots.refresh().await;
        node
    }

    /// Waits until the replicas have what the primary has now.
    pub async fn replicated(&self) {
        let flushed = "SELECT pg_current_wal_flush_lsn()::text";
        let flushed: String = self.admin.query_one(flushed, &[]).await.unwrap().get(0);
        for replica in &self.replicas {
            let admin = replica.admin().await.unwrap();
            let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{flushed}'::pg_lsn");
            eventually("the replica catches up", async || {
                admin.query_one(&reached, &[]).await.unwrap().get::<_, bool>(0)
            })
            .await;
        }
    }
}

/// Quick polls, and a bound that a test can wait out.
pub fn reads() -> config::Reads {
    config::Reads {
        max_stale: Duration::from_millis(600),
        monitor_interval: Duration::from_millis(50),
        ..config::Reads::default()
    }
}

/// Nobody is taken to be down because the monitor heard of it late.
pub fn patient_reads() -> config::Reads {
    config::Reads { monitor_timeout: Duration::from_secs(30), ..reads() }
}

pub async fn migrate(admin: &Admin) {
    for (schema, path) in [(Schema::Shard, "public"), (Schema::Directory, "directory")] {
        let up: String = schema.migrations().into_iter().map(|migration| migration.up).collect();
        let text =
            format!("SET ROLE roomgate_owner; SET search_path = {path}; {up} RESET search_path; RESET ROLE;");
        admin.batch_execute(&text).await.unwrap();
    }
}

pub async fn create_room(admin: &Admin, room: RoomId) {
    let slot = i32::from(slot_of(room).0);
    let create = format!(
        "BEGIN;
         INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema)
           VALUES ({room}, {slot}, 'room-{room}', 'a room', 'olga', 'public', 'editor', 'open');
         INSERT INTO room_head (room_id) VALUES ({room});
         COMMIT"
    );
    admin.batch_execute(&create).await.unwrap();
}

async fn append(admin: &Admin, room: RoomId, count: u64) -> Position {
    let append = format!(
        "WITH head AS (
           UPDATE room_head SET head_seq = head_seq + {count}, head_epoch = {EPOCH} WHERE room_id = {room}
           RETURNING head_seq)
         INSERT INTO room_event (room_id, seq, epoch, op_id, user_id, kind, body, digest, created_at)
           SELECT {room}, seq, {EPOCH}, 'op-' || seq, 'u' || seq % 3, 'message',
                  ('{{\"data\":' || seq || '}}')::json, '\\x00112233445566778899aabbccddeeff', now()
             FROM head, generate_series(head_seq - {count} + 1, head_seq) AS seq"
    );
    admin.batch_execute(&append).await.unwrap();
    let head = format!("SELECT head_seq FROM room_head WHERE room_id = {room}");
    at(admin.query_one(&head, &[]).await.unwrap().get::<_, i64>(0) as u64)
}

/// A position in the log of a [`World`]'s room.
pub fn at(seq: u64) -> Position {
    if seq == 0 { Position::BEGINNING } else { Position::new(Epoch(EPOCH), Seq(seq)) }
}

/// The reading half of a gateway node, its directory on the first shard.
pub struct Node {
    pub shards: Shards,
    pub directory: Shard,
    pub slots: Slots,
    pub history: History,
    pub tasks: Tasks,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Node {
    pub async fn start(shards: &[(&str, Vec<config::Endpoint>)], reads: config::Reads) -> Self {
        let tasks = Tasks::new();
        let name = NodeName::new(&format!("n{}", rand::random_range(0..100_000))).unwrap();
        let node = config::Node { name, zone: None, expected_nodes: 1 };
        let pool = config::Pool { min_idle: 1, ..config::Pool::default() };
        let budget = Budget::new(&node, &pool, std::iter::empty());
        let setup = Setup {
            node: &node,
            pool: &pool,
            budget: &budget,
            reads: &reads,
            lock_timeout: Duration::from_millis(250),
            search_path: "public",
            statements: &[],
        };
        let configured: Vec<config::Shard> = shards
            .iter()
            .map(|(name, endpoints)| config::Shard {
                name: ShardName::new(name).unwrap(),
                weight: 100,
                endpoints: endpoints.clone(),
            })
            .collect();
        let directory = config::Directory { endpoints: shards[0].1.clone() }.as_shard();
        let directory = Shard::start(&directory, setup, &tasks);
        let shards = Shards::start(&configured, setup, &tasks);
        let slots = Slots::new(SlotMap::default(), shards.clone());
        let history = History::new(shards.clone(), slots.clone(), 1 << 20);
        Self { shards, directory, slots, history, tasks }
    }

    pub fn shard(&self) -> &Shard {
        self.shards.iter().next().unwrap().1
    }

    pub fn topology(&self) -> Topology {
        Topology::new(self.shards.clone(), self.directory.clone(), self.slots.clone())
    }

    /// Waits until the primary and so many fresh replicas are seen.
    pub async fn sees_all(&self, replicas: usize) {
        self.shard().primary(Instant::now() + PATIENCE).await.unwrap();
        eventually("the replicas are seen and fresh", async || {
            let known = self.shard().known();
            let fresh = known.facts.iter().filter(|facts| {
                facts.standing == Standing::Replica && facts.settled && facts.fresh_at.is_some()
            });
            fresh.count() == replicas
        })
        .await;
    }

    pub fn standing(&self, endpoint: &str) -> Standing {
        let shard = self.shard();
        let index = shard.endpoints().iter().position(|known| known.name() == endpoint).unwrap();
        shard.known().facts[index].standing
    }
}

/// The seqs of a page, which must be there.
pub fn seqs(read: &Read<PageOutcome>) -> Vec<u64> {
    match &read.value {
        PageOutcome::Events(page) => page.events.iter().map(|event| event.position.seq.0).collect(),
        PageOutcome::Lost(reason) => panic!("lost: {reason:?}"),
    }
}

/// Asks until it is so; never sleeps to be right.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Memory for a state, as much as it takes.
pub async fn memory() -> Reservation {
    let memory = Memory::new(&config::Memory::default());
    memory.reserve(&Owner::Node, SMALL_BYTES).await.unwrap()
}
