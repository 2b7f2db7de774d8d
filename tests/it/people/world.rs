//! One PostgreSQL that is directory and only shard, and what a node has of both.

use std::time::{Duration, Instant};

use roomgate::config;
use roomgate::db::migrate::Schema;
use roomgate::db::{Budget, Sql};
use roomgate::dev::{Admin, Postgres, Scratch};
use roomgate::digests::PasswordHash;
use roomgate::directory::{self, Directory};
use roomgate::ids::{NodeName, RoomId, ShardName, Slug, UserId};
use roomgate::log::Authority;
use roomgate::placement::SlotMap;
use roomgate::protocol::{self, Access, DefaultRole, Role};
use roomgate::routing::{Freshness, Setup, Shard, Shards};
use roomgate::store::audit;
use roomgate::store::rooms::{self, NewRoom, Rooms};
use roomgate::store::slots::Slots;
use roomgate::tasks::Tasks;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    pub server: Postgres,
    pub admin: Admin,
    pub directory: Directory,
    pub rooms: Rooms,
    /// The same, of a node whose durability is `sync`.
    pub in_sync: Rooms,
    tasks: Tasks,
    _scratch: Scratch,
}

impl World {
    pub async fn start() -> Self {
        let scratch = Scratch::new("people").unwrap();
        let server = Postgres::primary(&scratch.path().join("a-1"), "a-1").await.unwrap();
        let admin = server.admin().await.unwrap();
        let sql = |schema: Schema| schema.migrations().into_iter().map(|step| step.up).collect::<String>();
        let (directory, shard) = (sql(Schema::Directory), sql(Schema::Shard));
        let schemas = format!(
            "SET ROLE roomgate_owner; SET search_path = directory; {directory} SET search_path = public; {shard}
             RESET ROLE; RESET search_path;
             INSERT INTO shard_claim (shard, timeline, system_id)
             SELECT 'a', 1, system_identifier FROM pg_control_system();
             INSERT INTO slot_owner SELECT slot, 7, 'active', null FROM generate_series(0, 16383) AS slot;"
        );
        admin.batch_execute(&schemas).await.unwrap();
        let tasks = Tasks::new();
        let endpoints = [server.endpoint()];
        let directory = config::Directory { endpoints: endpoints.to_vec() }.as_shard();
        let directory = setup(&[directory::STATEMENTS], |setup| Shard::start(&directory, setup, &tasks));
        let shard =
            config::Shard { name: ShardName::new("a").unwrap(), weight: 100, endpoints: endpoints.to_vec() };
        let shards =
            setup(&[rooms::STATEMENTS, audit::STATEMENTS], |setup| Shards::start(&[shard], setup, &tasks));
        for (_, shard) in shards.iter() {
            shard.primary(Instant::now() + PATIENCE).await.unwrap();
        }
        directory.primary(Instant::now() + PATIENCE).await.unwrap();
        let slots = Slots::new(SlotMap::default(), shards.clone());
        slots.refresh().await;
        let rooms = Rooms::new(shards.clone(), slots.clone(), false);
        let in_sync = Rooms::new(shards, slots, true);
        let directory = Directory::new(directory);
        Self { server, admin, directory, rooms, in_sync, tasks, _scratch: scratch }
    }

    pub async fn sql(&self, text: &str) {
        self.admin.batch_execute(text).await.unwrap();
    }

    pub async fn count(&self, from: &str) -> i64 {
        self.admin.query_one(&format!("SELECT count(*) FROM {from}"), &[]).await.unwrap().get(0)
    }

    /// A room of `owner` on the shard.
    pub async fn room(&self, owner: &UserId) -> NewRoom {
        let new = new_room(owner);
        self.rooms.insert(&new, soon()).await.unwrap();
        new
    }

    /// By a server.
    pub async fn add_member(&self, room: RoomId, user: &UserId, role: Role) {
        let server = rooms::Actor { user: &self::user("server"), authority: Authority::Server };
        self.rooms.set_role(room, server, user, role, soon()).await.unwrap();
    }

    pub async fn find(&self, room: RoomId, user: &UserId) -> Result<rooms::Found, rooms::RoomsError> {
        let freshness = Freshness::Primary;
        self.rooms.find(rooms::Wanted { room, user: Some(user), freshness, deadline: soon() }).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

fn setup<T>(statements: &'static [&'static [&'static Sql]], start: impl FnOnce(Setup<'_>) -> T) -> T {
    let node = config::Node { name: NodeName::new("n1").unwrap(), zone: None, expected_nodes: 1 };
    let pool = config::Pool { min_idle: 1, ..config::Pool::default() };
    start(Setup {
        node: &node,
        pool: &pool,
        budget: &Budget::new(&node, &pool, std::iter::empty()),
        reads: &config::Reads::default(),
        lock_timeout: Duration::from_millis(250),
        search_path: "public",
        statements,
    })
}

pub fn new_room(owner: &UserId) -> NewRoom {
    let room = RoomId::random();
    NewRoom {
        room,
        slug: Slug::new(&format!("room-{room}")).unwrap(),
        name: "A \"room\" <script>'; DROP TABLE room; --\u{202e}🦀".to_owned(),
        owner: owner.clone(),
        access: Access::Password,
        default_role: DefaultRole::Editor,
        schema: protocol::Schema::Open,
        password: Some(PasswordHash::new("$argon2id$not-a-real-one".to_owned())),
        metadata: r#"{"team": "blue", "n": 1.5}"#.into(),
    }
}

pub fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}
