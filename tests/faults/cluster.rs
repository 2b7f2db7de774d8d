//! The cluster under test: real processes, tokens and rooms of this run.

use std::sync::Arc;
use std::time::Duration;

use roomgate::auth::{Signer, Verifier};
use roomgate::config;
use roomgate::dev::{Admin, Api, Cluster, Notice, Options, Scratch, connect};
use roomgate::ids::UserId;
use roomgate::log::Authority;
use serde_json::json;

use crate::plan::Plan;
use crate::{Failure, hostile};

pub struct World {
    pub cluster: Cluster,
    signer: Signer,
    pub rooms: Vec<Room>,
    // Last: its files are in use until the cluster is gone.
    _scratch: Scratch,
}

#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub id: u64,
    /// That owns its slot.
    pub shard: usize,
}

/// So that a client notices a frozen node within the time of a short run.
const HEARTBEAT_MS: u64 = 3_000;

impl World {
    pub async fn start(plan: &Plan) -> Result<Self, Failure> {
        let scratch = Scratch::new("faults")?;
        let mut options = Options::new(scratch.path().join("data"), env!("CARGO_BIN_EXE_roomgate"));
        options.port = Some(0);
        (options.nodes, options.shards, options.sync) = (plan.nodes, plan.shards, plan.sync);
        options.replicas = plan.replicas;
        // The load is the plan's.
        let options = options.without_limits().set("sessions.heartbeat_ms", HEARTBEAT_MS);
        let mut options = plan.settings.iter().fold(options, |options, (key, value)| options.set(key, value));
        options.restart = plan.restart;
        options.env.extend(plan.planted.clone().map(|bug| ("ROOMGATE_PLANTED".to_owned(), bug)));
        let tell = |notice: Notice| {
            if matches!(notice, Notice::Failed { .. }) {
                eprintln!("{notice}");
            }
        };
        let cluster = Cluster::start(&options, Arc::new(tell)).await?;
        if plan.hostile {
            hostile::set(&cluster).await?;
        }
        let signer = signer(&cluster)?;
        let mut world = Self { cluster, signer, rooms: Vec::new(), _scratch: scratch };
        world.make_rooms(plan.rooms).await?;
        Ok(world)
    }

    pub fn token(&self, user: &str) -> Result<String, Failure> {
        Ok(self.signer.issue(&UserId::new(user)?, Some(user), Authority::Member)?.token)
    }

    /// HTTP through the balancer.
    pub fn api(&self, user: &str) -> Result<Api, Failure> {
        Ok(Api::new(&self.cluster.url()).signed_in(&self.token(user)?))
    }

    /// A superuser's connections to the primaries, by shard.
    pub async fn primaries(&self) -> Result<Vec<Admin>, Failure> {
        let mut admins = Vec::new();
        for shard in self.cluster.shards() {
            admins.push(connect(&shard.primary().admin_dsn()).await?);
        }
        Ok(admins)
    }

    /// Looks for the rooms again, once slots have moved.
    pub async fn find_rooms(&mut self) -> Result<(), Failure> {
        let admins = self.primaries().await?;
        for room in &mut self.rooms {
            room.shard = shard_of(&admins, room.id).await?;
        }
        Ok(())
    }

    /// Spread over all shards, so that every fault of a shard hits some.
    async fn make_rooms(&mut self, count: usize) -> Result<(), Failure> {
        let api = self.api("owner")?;
        let admins = self.primaries().await?;
        while self.rooms.len() < count {
            let slug = format!("faults-{:016x}", rand::random::<u64>());
            let answer = api.post("/v1/rooms", &json!({"slug": slug, "schema": "open"})).await?;
            let id = answer.json()["room"].as_u64();
            let id = id.ok_or_else(|| format!("creating a room: {} {}", answer.status, answer.text))?;
            let shard = shard_of(&admins, id).await?;
            if shard == self.rooms.len() % admins.len() {
                self.rooms.push(Room { id, shard });
            }
        }
        Ok(())
    }
}

pub fn slot_of(room: u64) -> i32 {
    let room = roomgate::ids::RoomId::new(room).expect("a room's id");
    i32::from(roomgate::placement::slot_of(room).0)
}

async fn shard_of(admins: &[Admin], room: u64) -> Result<usize, Failure> {
    let owns = "SELECT FROM slot_owner WHERE slot = $1 AND state = 'active'";
    for (index, admin) in admins.iter().enumerate() {
        if admin.query_opt(owns, &[&slot_of(room)]).await?.is_some() {
            return Ok(index);
        }
    }
    Err(format!("room {room} is on no shard").into())
}

fn signer(cluster: &Cluster) -> Result<Signer, Failure> {
    let jwt = cluster.report().jwt;
    let auth: config::Auth = serde_json::from_value(json!({
        "issuer": jwt.issuer,
        "audience": jwt.audience,
        "keys": [{ "kid": jwt.kid, "alg": jwt.alg, "file": jwt.key_file }],
    }))?;
    Ok(Verifier::load(&auth)?.signer(Duration::from_secs(24 * 3600))?)
}

/// The heads of rooms, from the primaries.
pub async fn heads(admins: &[Admin], rooms: &[Room]) -> Result<Vec<(u64, u64)>, Failure> {
    let mut heads = Vec::new();
    for room in rooms {
        let id = i64::try_from(room.id)?;
        let row =
            admins[room.shard].query_one("SELECT head_seq FROM room_head WHERE room_id = $1", &[&id]).await?;
        heads.push((room.id, u64::try_from(row.get::<_, i64>(0))?));
    }
    Ok(heads)
}
