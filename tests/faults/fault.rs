//! The faults, and how they are done to a cluster.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use roomgate::dev::{Gateway, Postgres, Service};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::Failure;
use crate::burst;
use crate::cluster::World;
use crate::failover;
use crate::felt::is_all_live;
use crate::history::Excuse;
use crate::load::Load;
use crate::moves;

/// A reader that is less behind than this doesn't count as a slow one.
const BEHIND_BYTES: u64 = 20_000_000;
const DRAWN_WITHOUT_REDIS: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL of the node that this client is on, and started again.
    KillNode {
        client: usize,
    },
    /// SIGSTOP and SIGCONT.
    FreezeNode {
        client: usize,
    },
    /// SIGTERM, and started again.
    DrainNode {
        client: usize,
    },
    /// The server ends the gateways' connections, ten times a second.
    KillBackends {
        shard: usize,
    },
    /// The primary takes no connection of gateways and ends those that they have
    /// (53300).
    ExhaustSlots {
        shard: usize,
    },
    /// SIGKILL of the postmaster, and started again.
    KillDatabase {
        shard: usize,
    },
    /// Fast shutdown, and started again.
    StopDatabase {
        shard: usize,
    },
    FreezeDatabase {
        shard: usize,
    },
    KillRedis,
    FreezeRedis,
    /// Redis is killed, and soon everybody stops drawing: nothing that is drawn
    /// later tells a node what it has missed. Nobody draws after this one.
    FallSilent,
    /// All its clients, every 2 s.
    KillRedisClients,
    /// The node of a client of the corner room is frozen while that room gets
    /// more than any buffer holds.
    Burst {
        client: usize,
        megabytes: usize,
    },
    /// A client of the corner room stops reading until it is so far behind.
    StopReading {
        client: usize,
        megabytes: usize,
    },
    /// The first replica goes on receiving but applies nothing.
    PauseReplay {
        shard: usize,
    },
    /// All replicas apply what was committed so long ago.
    DelayReplay {
        shard: usize,
        by_ms: u64,
    },
    /// The replicas hear nothing more from their primary.
    CutReceivers {
        shard: usize,
    },
    /// SIGKILL of all replicas, and started again.
    KillReplicas {
        shard: usize,
    },
    /// The primary is killed and a replica promoted.
    FailOver {
        shard: usize,
    },
    /// A replica is promoted while the primary goes on; that one is killed later.
    OldPrimaryStays {
        shard: usize,
    },
    /// As a failover, after its replica has been cut off for a while: what is acked
    /// meanwhile is lost.
    LoseTail {
        shard: usize,
        /// The node of this client is frozen before the primary dies, until the
        /// new log has grown past what was lost.
        asleep: Option<usize>,
    },
    /// Slots move to a shard that joins, and back: all that the plan says, or only
    /// those of the rooms.
    MoveSlots {
        all: bool,
    },
    /// Nothing: the load alone.
    Nothing,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillNode { client } => write!(f, "SIGKILL the node of client {client}"),
            Self::FreezeNode { client } => write!(f, "freeze the node of client {client}"),
            Self::DrainNode { client } => write!(f, "SIGTERM the node of client {client}"),
            Self::KillBackends { shard } => write!(f, "kill backends of shard {shard}"),
            Self::ExhaustSlots { shard } => write!(f, "no connection left on primary {shard}"),
            Self::KillDatabase { shard } => write!(f, "SIGKILL primary {shard}"),
            Self::StopDatabase { shard } => write!(f, "fast shutdown of primary {shard}"),
            Self::FreezeDatabase { shard } => write!(f, "freeze primary {shard}"),
            Self::KillRedis => f.write_str("SIGKILL Redis"),
            Self::FreezeRedis => f.write_str("freeze Redis"),
            Self::FallSilent => f.write_str("silence without Redis"),
            Self::KillRedisClients => f.write_str("kill Redis' clients every 2 s"),
            Self::Burst { megabytes, .. } => write!(f, "{megabytes} MB past a frozen node"),
            Self::StopReading { client, megabytes } => {
                write!(f, "client {client} lags {megabytes} MB")
            }
            Self::PauseReplay { shard } => write!(f, "pause a replica of shard {shard}"),
            Self::DelayReplay { shard, by_ms } => write!(f, "replicas of shard {shard} {by_ms} ms late"),
            Self::CutReceivers { shard } => write!(f, "cut off the replicas of shard {shard}"),
            Self::KillReplicas { shard } => write!(f, "SIGKILL the replicas of shard {shard}"),
            Self::FailOver { shard } => write!(f, "failover of shard {shard}"),
            Self::OldPrimaryStays { shard } => write!(f, "old primary of shard {shard} stays"),
            Self::LoseTail { shard, .. } => write!(f, "lossy failover of shard {shard}"),
            Self::MoveSlots { all: true } => f.write_str("a shard joins, and goes"),
            Self::MoveSlots { all: false } => f.write_str("slots move away and back"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

impl Fault {
    /// Does it, keeps it up for `lasts`, and heals it.
    pub async fn play(&self, world: &World, load: &mut Load, lasts: Duration) -> Result<(), Failure> {
        match *self {
            Self::KillNode { client } => kill(node_of(world, load, client)?.service(), lasts).await,
            Self::FreezeNode { client } => freeze(node_of(world, load, client)?.service(), lasts).await,
            Self::DrainNode { client } => {
                let node = node_of(world, load, client)?.service();
                node.stop().await;
                sleep(lasts).await;
                Ok(node.restart().await?)
            }
            Self::KillBackends { shard } => kill_backends(primary_of(world, shard), lasts).await,
            Self::ExhaustSlots { shard } => exhaust_slots(primary_of(world, shard), lasts).await,
            Self::KillDatabase { shard } => kill(primary_of(world, shard).service(), lasts).await,
            Self::StopDatabase { shard } => {
                let primary = primary_of(world, shard).service();
                primary.stop().await;
                sleep(lasts).await;
                Ok(primary.restart().await?)
            }
            Self::FreezeDatabase { shard } => freeze(primary_of(world, shard).service(), lasts).await,
            Self::KillRedis => kill(world.cluster.redis().service(), lasts).await,
            Self::FreezeRedis => freeze(world.cluster.redis().service(), lasts).await,
            Self::FallSilent => {
                let redis = world.cluster.redis().service();
                redis.kill_for_good().await;
                sleep(DRAWN_WITHOUT_REDIS).await;
                load.settle();
                sleep(lasts).await;
                Ok(redis.restart().await?)
            }
            Self::KillRedisClients => kill_redis_clients(world.cluster.redis().port(), lasts).await,
            Self::Burst { client, megabytes } => {
                let frozen = node_of(world, load, load.in_corner(client))?;
                let (through, service) = (other_node(world, frozen)?, frozen.service());
                service.pause();
                let written = burst::write(world, load, through, megabytes * 200, 5_000).await;
                sleep(lasts).await;
                service.resume();
                written
            }
            Self::StopReading { client, megabytes } => {
                stop_reading(world, load, client, megabytes, lasts).await
            }
            Self::PauseReplay { shard } => pause_replay(world, shard, lasts).await,
            Self::DelayReplay { shard, by_ms } => {
                set_on_replicas(world, shard, &format!("recovery_min_apply_delay = {by_ms}")).await?;
                sleep(lasts).await;
                reset_on_replicas(world, shard, "recovery_min_apply_delay").await
            }
            Self::CutReceivers { shard } => {
                set_on_replicas(world, shard, "primary_conninfo = ''").await?;
                sleep(lasts).await;
                reset_on_replicas(world, shard, "primary_conninfo").await
            }
            Self::KillReplicas { shard } => kill_replicas(world, shard, lasts).await,
            Self::FailOver { shard } => failover::kill_and_promote(world, load, shard).await,
            Self::OldPrimaryStays { shard } => failover::promote_beside(world, shard, lasts).await,
            Self::LoseTail { shard, asleep } => {
                let asleep = asleep.map(|client| node_of(world, load, client)).transpose()?;
                lose_tail(world, shard, asleep, lasts).await
            }
            Self::MoveSlots { all } => moves::there_and_back(world, all).await,
            Self::Nothing => {
                sleep(lasts).await;
                Ok(())
            }
        }
    }

    /// Whom it keeps from being on time.
    pub fn excuses(&self, load: &Load) -> Vec<Excuse> {
        match *self {
            Self::KillNode { client } | Self::FreezeNode { client } | Self::DrainNode { client } => {
                vec![Excuse::Node(load.node_of(client))]
            }
            // So much is more than a busy machine tells anyone there in time.
            Self::Burst { client, .. } => {
                let node = Excuse::Node(load.node_of(load.in_corner(client)));
                load.corner().map(Excuse::Client).chain([node]).collect()
            }
            Self::ExhaustSlots { shard }
            | Self::KillDatabase { shard }
            | Self::StopDatabase { shard }
            | Self::FreezeDatabase { shard }
            | Self::FailOver { shard }
            | Self::OldPrimaryStays { shard }
            | Self::LoseTail { shard, .. } => vec![Excuse::Shard(shard)],
            Self::StopReading { .. } => load.corner().map(Excuse::Client).collect(),
            Self::KillBackends { .. }
            | Self::KillRedis
            | Self::FreezeRedis
            | Self::FallSilent
            | Self::KillRedisClients
            | Self::PauseReplay { .. }
            | Self::DelayReplay { .. }
            | Self::CutReceivers { .. }
            | Self::KillReplicas { .. }
            | Self::MoveSlots { .. }
            | Self::Nothing => Vec::new(),
        }
    }

    /// Whether what was acked before its end may be gone, if that is declared.
    pub fn may_lose(&self, sync: bool) -> bool {
        match self {
            Self::LoseTail { .. } | Self::OldPrimaryStays { .. } => true,
            Self::FailOver { .. } => !sync,
            _ => false,
        }
    }

    /// What must have been noticed of it, or the run is void: any of these.
    pub fn leaves(&self) -> &'static [&'static str] {
        match self {
            Self::KillNode { .. } | Self::FreezeNode { .. } => &["connections lost"],
            Self::DrainNode { .. } => &["goodbyes"],
            Self::KillBackends { .. } | Self::KillDatabase { .. } | Self::StopDatabase { .. } => {
                &["transactions retried", "commits unknown", "databases seen down"]
            }
            Self::ExhaustSlots { .. } | Self::FreezeDatabase { .. } | Self::FailOver { .. } => {
                &["transactions retried", "databases seen down"]
            }
            Self::LoseTail { .. } | Self::OldPrimaryStays { .. } => &["resyncs"],
            Self::KillRedis | Self::FreezeRedis | Self::FallSilent | Self::KillRedisClients => {
                &["gaps repaired"]
            }
            Self::Burst { .. } => &["gaps repaired"],
            Self::PauseReplay { .. }
            | Self::DelayReplay { .. }
            | Self::CutReceivers { .. }
            | Self::KillReplicas { .. } => &["reads fell back"],
            Self::StopReading { .. } => &["events behind"],
            Self::MoveSlots { .. } => &["slots followed"],
            Self::Nothing => &[],
        }
    }
}

/// What the reader leaves waiting is counted by what it has seen.
async fn stop_reading(
    world: &World,
    load: &mut Load,
    client: usize,
    megabytes: usize,
    lasts: Duration,
) -> Result<(), Failure> {
    const EVENT_BYTES: usize = 20_000;
    let reader = load.in_corner(client);
    let room = world.rooms.last().ok_or("no room")?.id;
    // It may be coming back from the fault before, or leave by itself just now; and
    // whoever still reads the log has no outbox to overflow. Once it reads nothing
    // it neither leaves nor comes back.
    let is_live = async || {
        Ok::<_, Failure>(
            load.seen(reader, room).is_some() && is_all_live(node_of(world, load, reader)?).await?,
        )
    };
    let live = async {
        loop {
            if is_live().await? {
                load.set_reading(reader, false);
                if is_live().await? {
                    return Ok::<_, Failure>(());
                }
                load.set_reading(reader, true);
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), live)
        .await
        .map_err(|_| format!("client {reader} doesn't come back"))??;
    let through = &world.cluster.nodes()[0];
    let written = burst::write(world, load, through, megabytes * 1_000_000 / EVENT_BYTES, EVENT_BYTES).await;
    sleep(lasts).await;
    let head = load.shared.acked(room).map_or(0, |acked| acked.seq);
    if let Some(behind) = load.seen(reader, room).map(|seen| head.saturating_sub(seen))
        && behind * EVENT_BYTES as u64 >= BEHIND_BYTES
    {
        load.shared.events_behind.fetch_add(behind, Ordering::Relaxed);
    }
    load.set_reading(reader, true);
    written
}

/// The one that the client is on.
fn node_of<'a>(world: &'a World, load: &Load, client: usize) -> Result<&'a Gateway, Failure> {
    let name = load.node_of(client);
    let found = world.cluster.nodes().iter().find(|node| node.name() == name);
    found.ok_or_else(|| format!("client {client} is on no node").into())
}

fn other_node<'a>(world: &'a World, than: &Gateway) -> Result<&'a Gateway, Failure> {
    let found = world.cluster.nodes().iter().find(|node| node.name() != than.name());
    found.ok_or_else(|| "there is only one node".into())
}

fn primary_of(world: &World, shard: usize) -> &Postgres {
    world.cluster.shards()[shard].primary()
}

async fn kill(service: &Service, lasts: Duration) -> Result<(), Failure> {
    service.kill_for_good().await;
    sleep(lasts).await;
    Ok(service.restart().await?)
}

async fn kill_replicas(world: &World, shard: usize, lasts: Duration) -> Result<(), Failure> {
    let replicas: Vec<_> = world.cluster.shards()[shard].replicas().collect();
    join_all(replicas.iter().map(|replica| replica.service().kill_for_good())).await;
    sleep(lasts).await;
    for replica in replicas {
        replica.service().restart().await?;
    }
    Ok(())
}

async fn freeze(service: &Service, lasts: Duration) -> Result<(), Failure> {
    service.pause();
    sleep(lasts).await;
    service.resume();
    Ok(())
}

async fn kill_backends(primary: &Postgres, lasts: Duration) -> Result<(), Failure> {
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE usename = 'roomgate' AND state <> 'idle' AND pid <> pg_backend_pid()";
    let admin = primary.admin().await?;
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        admin.query_one(kill, &[]).await?;
        sleep(Duration::from_millis(7)).await;
    }
    Ok(())
}

async fn exhaust_slots(primary: &Postgres, lasts: Duration) -> Result<(), Failure> {
    let admin = primary.admin().await?;
    admin.batch_execute("ALTER ROLE roomgate CONNECTION LIMIT 0").await?;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'roomgate'";
    admin.query_one(kill, &[]).await?;
    sleep(lasts).await;
    Ok(admin.batch_execute("ALTER ROLE roomgate CONNECTION LIMIT -1").await?)
}

async fn kill_redis_clients(port: u16, lasts: Duration) -> Result<(), Failure> {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        let mut redis = TcpStream::connect(("127.0.0.1", port)).await?;
        redis.write_all(b"CLIENT KILL TYPE pubsub\r\nCLIENT KILL TYPE normal\r\n").await?;
        let mut answer = [0; 64];
        let _read = redis.read(&mut answer).await?;
        sleep(Duration::from_secs(2)).await;
    }
    Ok(())
}

async fn pause_replay(world: &World, shard: usize, lasts: Duration) -> Result<(), Failure> {
    let replica = world.cluster.shards()[shard].replicas().next().ok_or("no replica")?;
    replica.set_replay_paused(true).await?;
    sleep(lasts).await;
    Ok(replica.set_replay_paused(false).await?)
}

async fn set_on_replicas(world: &World, shard: usize, setting: &str) -> Result<(), Failure> {
    on_replicas(world, shard, &format!("ALTER SYSTEM SET {setting}")).await
}

async fn reset_on_replicas(world: &World, shard: usize, name: &str) -> Result<(), Failure> {
    on_replicas(world, shard, &format!("ALTER SYSTEM RESET {name}")).await
}

async fn on_replicas(world: &World, shard: usize, change: &str) -> Result<(), Failure> {
    for replica in world.cluster.shards()[shard].replicas() {
        let admin = replica.admin().await?;
        // Each on its own: ALTER SYSTEM can't be part of a transaction.
        admin.batch_execute(change).await?;
        admin.batch_execute("SELECT pg_reload_conf()").await?;
    }
    Ok(())
}

/// The replica hears nothing more; what is committed for a while then exists on
/// the primary alone, which dies.
async fn lose_tail(
    world: &World,
    shard: usize,
    asleep: Option<&Gateway>,
    lasts: Duration,
) -> Result<(), Failure> {
    const GROWS: Duration = Duration::from_secs(8);
    set_on_replicas(world, shard, "primary_conninfo = ''").await?;
    sleep(lasts).await;
    if let Some(node) = asleep {
        node.service().pause();
    }
    let primary = primary_of(world, shard);
    primary.service().kill_for_good().await;
    for replica in world.cluster.shards()[shard].replicas() {
        replica.admin().await?.batch_execute("ALTER SYSTEM RESET primary_conninfo").await?;
    }
    world.cluster.fail_over(shard).await?;
    if let Some(node) = asleep {
        sleep(GROWS).await;
        node.service().resume();
    }
    Ok(())
}
