//! A small vocabulary for append tests: a shard, nodes that write to it, and
//! everything they were told.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use roomgate::config::{self, Durability, Writes};
use roomgate::db::Budget;
use roomgate::dev::{Admin, Postgres, Scratch};
use roomgate::ids::{NodeName, OpId, RoomId, ShapeId, ShardName, UserId};
use roomgate::log::{Ack, Authority, Outcome, Rejection, RoomBounds, Submit};
use roomgate::placement::{SlotMap, slot_of};
use roomgate::protocol::{Exact, Operation, Refusal, Shape, Version};
use roomgate::routing::{Setup, Shards};
use roomgate::store::append::{Announce, Appender, Committed, STATEMENTS, Unknown};
use roomgate::store::slots::Slots;
use roomgate::tasks::Tasks;
use roomgate::traces::{Trace, Traces};
use tokio::sync::oneshot;

pub const SCHEMA: &str = concat!(
    include_str!("../../../migrations/shard/0001_rooms.up.sql"),
    include_str!("../../../migrations/shard/0012_removals.up.sql"),
    include_str!("../../../migrations/shard/0013_room_bytes.up.sql"),
);
/// Long enough for anything that works at all.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    pub server: Postgres,
    pub admin: Admin,
    pub scratch: Scratch,
}

impl World {
    /// One shard that owns all slots, without rooms.
    pub async fn start() -> Self {
        let scratch = Scratch::new("append").unwrap();
        let server = Postgres::primary(&scratch.path().join("a-1"), "a-1").await.unwrap();
        let admin = server.admin().await.unwrap();
        prepare_shard(&admin, true).await;
        Self { server, admin, scratch }
    }

    pub async fn room(&self) -> RoomId {
        self.room_with("public", "editor").await
    }

    pub async fn rooms(&self, count: usize) -> Vec<RoomId> {
        let mut rooms = Vec::new();
        for _ in 0..count {
            rooms.push(self.room().await);
        }
        rooms
    }

    pub async fn room_with(&self, access: &str, default_role: &str) -> RoomId {
        create_room(&self.admin, access, default_role).await
    }

    pub async fn sql(&self, text: &str) {
        self.admin.batch_execute(text).await.unwrap();
    }

    pub async fn count(&self, from: &str) -> i64 {
        self.admin.query_one(&format!("SELECT count(*) FROM {from}"), &[]).await.unwrap().get(0)
    }

    /// The log of a room, which must be 1, 2, 3 … without a hole, and whose end
    /// must be the head: (user, op) in order.
    pub async fn log(&self, room: RoomId) -> Vec<(String, String)> {
        let rows = "SELECT seq, user_id, op_id FROM room_event WHERE room_id = $1 ORDER BY seq";
        let rows = self.admin.query(rows, &[&room.as_i64()]).await.unwrap();
        for (at, row) in rows.iter().enumerate() {
            assert_eq!(row.get::<_, i64>(0), at as i64 + 1, "room {room} has a hole");
        }
        let head = "SELECT head_seq FROM room_head WHERE room_id = $1";
        let head: i64 = self.admin.query_one(head, &[&room.as_i64()]).await.unwrap().get(0);
        assert_eq!(head, rows.len() as i64, "the head of room {room}");
        rows.iter().map(|row| (row.get(1), row.get(2))).collect()
    }

    pub async fn node(&self) -> Node {
        self.node_with(writes()).await
    }

    pub async fn node_with(&self, writes: Writes) -> Node {
        Node::start(&[self.server.endpoint()], writes).await
    }
}

pub async fn prepare_shard(admin: &Admin, owns_all: bool) {
    admin.batch_execute(&format!("SET ROLE roomgate_owner; {SCHEMA} RESET ROLE;")).await.unwrap();
    let claim = "INSERT INTO shard_claim (shard, timeline, system_id)
                 SELECT 'a', 1, system_identifier FROM pg_control_system()";
    admin.batch_execute(claim).await.unwrap();
    if owns_all {
        let slots =
            "INSERT INTO slot_owner SELECT slot, 7, 'active', null FROM generate_series(0, 16383) AS slot";
        admin.batch_execute(slots).await.unwrap();
    }
}

pub async fn create_room(admin: &Admin, access: &str, default_role: &str) -> RoomId {
    let room = RoomId::random();
    insert_room(admin, room, access, default_role).await;
    room
}

pub async fn insert_room(admin: &Admin, room: RoomId, access: &str, default_role: &str) {
    let insert = "WITH made AS (
                    INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema)
                    VALUES ($1, $2, $3, 'a room', 'olga', $4, $5, 'open') RETURNING id)
                  INSERT INTO room_head (room_id) SELECT id FROM made";
    let slot = i32::from(slot_of(room).0);
    let slug = format!("room-{room}");
    // The foreign key is checked at the end of the statement.
    admin.execute(insert, &[&room.as_i64(), &slot, &slug, &access, &default_role]).await.unwrap();
}

/// The append half of a gateway node.
pub struct Node {
    appender: Appender,
    shards: Shards,
    pub heard: Arc<Heard>,
    tasks: Tasks,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Node {
    pub async fn start(endpoints: &[config::Endpoint], writes: Writes) -> Self {
        Self::over(
            vec![config::Shard {
                name: ShardName::new("a").unwrap(),
                weight: 100,
                endpoints: endpoints.to_vec(),
            }],
            writes,
        )
        .await
    }

    pub async fn over(shards: Vec<config::Shard>, writes: Writes) -> Self {
        let tasks = Tasks::new();
        let name = NodeName::new(&format!("n{}", rand::random_range(0..100_000))).unwrap();
        let node = config::Node { name, zone: None, expected_nodes: 1 };
        let pool = config::Pool { min_idle: 1, ..config::Pool::default() };
        let budget = Budget::new(&node, &pool, std::iter::empty());
        let setup = Setup {
            node: &node,
            pool: &pool,
            budget: &budget,
            reads: &config::Reads::default(),
            lock_timeout: writes.lock_timeout,
            search_path: "public",
            statements: &[STATEMENTS],
        };
        let shards = Shards::start(&shards, setup, &tasks);
        for (_, shard) in shards.iter() {
            shard.primary(Instant::now() + PATIENCE).await.unwrap();
        }
        let slots = Slots::new(SlotMap::default(), shards.clone());
        // A busy server may not say in time what it owns; some own nothing.
        for _ in 0..20 {
            slots.refresh().await;
            if slots.are_known() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let heard = Arc::new(Heard::default());
        let appender = Appender::start(
            &writes,
            &shards,
            &slots,
            heard.clone(),
            RoomBounds::default(),
            &Traces::default(),
            &tasks,
        );
        Self { appender, shards, heard, tasks }
    }

    /// Whether it knows where to write.
    pub fn has_primary(&self) -> bool {
        self.shards.iter().all(|(_, shard)| shard.primary_now().is_some())
    }

    pub fn submit(&self, submit: Submit) -> Pending {
        self.submit_within(submit, PATIENCE)
    }

    pub fn submit_within(&self, submit: Submit, limit: Duration) -> Pending {
        let (tx, rx) = oneshot::channel();
        let heard = self.heard.clone();
        let op = submit.op.as_str().to_owned();
        let answer = Box::new(move |result: Result<Outcome, Unknown>| {
            heard.answers.lock().unwrap().push(op);
            tx.send(result).ok();
        });
        let (payer, deadline) = (submit.user.clone(), Instant::now() + limit);
        match self.appender.append(submit, payer, deadline, Trace::none(), answer) {
            Ok(()) => Pending(Ok(rx)),
            Err(refusal) => Pending(Err(refusal)),
        }
    }
}

/// A submit on its way.
pub struct Pending(Result<oneshot::Receiver<Result<Outcome, Unknown>>, Refusal>);

impl Pending {
    pub async fn answer(self) -> Result<Outcome, Unknown> {
        let rx = self.0.expect("the queue took it");
        tokio::time::timeout(PATIENCE * 2, rx).await.expect("answered in time").expect("answered")
    }

    pub async fn ack(self) -> Ack {
        match self.answer().await {
            Ok(Outcome::Accepted(ack)) => ack,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub async fn rejection(self) -> Rejection {
        match self.answer().await {
            Ok(Outcome::Rejected(rejection)) => rejection,
            other => panic!("not rejected: {other:?}"),
        }
    }

    pub fn refusal(self) -> Refusal {
        self.0.expect_err("refused at once")
    }
}

/// What a node announced and answered, in order.
#[derive(Default)]
pub struct Heard {
    pub announced: Mutex<Vec<Committed>>,
    pub answers: Mutex<Vec<String>>,
    panics: AtomicBool,
}

impl Announce for Heard {
    fn announce(&self, committed: Committed) {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "told to");
        self.announced.lock().unwrap().push(committed);
    }
}

impl Heard {
    pub fn panic_next(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    /// The announced seqs and ops of each room, in the order of announcing.
    pub fn by_room(&self) -> HashMap<RoomId, Vec<(u64, String)>> {
        let mut rooms: HashMap<_, Vec<_>> = HashMap::new();
        for committed in self.announced.lock().unwrap().iter() {
            for event in committed.events() {
                let op = event.event().op.as_str().to_owned();
                rooms.entry(committed.room()).or_default().push((event.position().seq.0, op));
            }
        }
        rooms
    }

    /// Everything announced of a room, sorted: a map from seq to op.
    pub fn log_of(&self, room: RoomId) -> BTreeMap<u64, String> {
        self.by_room().remove(&room).unwrap_or_default().into_iter().collect()
    }
}

pub fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn submit_of(room: RoomId, op: &str, operation: Operation) -> Submit {
    Submit::new(room, user("alice"), Authority::Member, OpId::new(op).unwrap(), operation)
}

pub fn message(room: RoomId, op: &str, text: &str) -> Submit {
    submit_of(room, op, Operation::Message { data: Exact::encode(serde_json::json!({ "text": text })) })
}

pub fn put(room: RoomId, op: &str, id: &str, x: u64) -> Submit {
    let value = serde_json::json!({ "id": id, "type": "rect", "x": x });
    let shape = Shape::new(Exact::encode(value.as_object().unwrap().clone())).unwrap();
    submit_of(room, op, Operation::ShapePut { shape, base: None })
}

pub fn add(room: RoomId, op: &str, id: &str) -> Submit {
    let value = serde_json::json!({ "id": id, "type": "rect" });
    let shape = Shape::new(Exact::encode(value.as_object().unwrap().clone())).unwrap();
    submit_of(room, op, Operation::ShapeAdd { shape })
}

pub fn update(room: RoomId, op: &str, id: &str, base: Option<u64>, x: u64) -> Submit {
    let patch = serde_json::json!({ "x": x });
    let patch = Exact::encode(patch.as_object().unwrap().clone());
    let shape_id = ShapeId::new(id).unwrap();
    submit_of(room, op, Operation::ShapeUpdate { shape_id, base: base.map(Version), patch })
}

pub fn delete(room: RoomId, op: &str, id: &str) -> Submit {
    submit_of(room, op, Operation::ShapeDelete { shape_id: ShapeId::new(id).unwrap(), base: None })
}

pub fn clear(room: RoomId, op: &str) -> Submit {
    submit_of(room, op, Operation::RoomClear)
}

/// A message that PostgreSQL refuses to store: its body is no JSON.
pub fn poison(room: RoomId, op: &str) -> Submit {
    Submit { body: "{not json".into(), ..message(room, op, "poison") }
}

/// Submits wait for what a test does meanwhile, also on busy machines.
pub fn writes() -> Writes {
    Writes { failover_wait: PATIENCE, ..Writes::default() }
}

pub fn sync_writes() -> Writes {
    Writes { durability: Durability::Sync, ..writes() }
}
