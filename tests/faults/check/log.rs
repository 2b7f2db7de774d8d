//! What the databases hold at the end: logs, states, owners, and the replicas'
//! copies of all that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use roomgate::dev::{Admin, connect};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Verdict;
use crate::Failure;
use crate::cluster::{World, slot_of};
use crate::fold::Shapes;
use crate::history::digest;

/// One room's log on its primary.
#[derive(Debug, Default)]
pub struct Log {
    pub shard: usize,
    pub entries: Vec<Entry>,
    /// Where each op is, as an index.
    pub ops: HashMap<(String, String), usize>,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub epoch: u64,
    /// As clients see it.
    pub event: Value,
    pub digest: u64,
    /// The state after it.
    pub state: u64,
}

pub type Logs = BTreeMap<u64, Log>;

/// The state of a room without events.
pub fn empty_state() -> u64 {
    Shapes::default().digest()
}

impl Log {
    /// The event with this seq.
    pub fn at(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    pub fn state_at(&self, seq: u64) -> Option<u64> {
        if seq == 0 { Some(empty_state()) } else { self.at(seq).map(|entry| entry.state) }
    }

    /// Whether the position names an event of this log.
    pub fn has(&self, epoch: u64, seq: u64) -> bool {
        seq == 0 || self.at(seq).is_some_and(|entry| entry.epoch == epoch)
    }

    pub fn head(&self) -> u64 {
        self.entries.len() as u64
    }
}

/// Reads all logs, and checks what can be seen in the databases alone.
pub async fn load(world: &World, verdict: &mut Verdict) -> Result<Logs, Failure> {
    let admins = world.primaries().await?;
    check_owners(world, &admins, verdict).await?;
    let mut logs = Logs::new();
    for room in &world.rooms {
        let mut log = Log { shard: room.shard, ..Log::default() };
        let mut shapes = Shapes::default();
        for (index, row) in events(&admins[room.shard], room.id).await?.into_iter().enumerate() {
            let Row { seq, epoch, user, op, event } = row;
            let place = format!("room {} seq {seq}", room.id);
            verdict.check("log_has_no_hole", seq == index as u64 + 1, || format!("{place} follows {index}"));
            if let Err(wrong) = shapes.apply(&event) {
                verdict.fail("log_replays", format!("{place} {wrong}"));
            }
            let before = log.ops.insert((user, op), index);
            verdict.check("one_entry_per_op", before.is_none(), || format!("{place} repeats an op"));
            let digest = digest(&event);
            log.entries.push(Entry { epoch, event, digest, state: shapes.digest() });
        }
        check_state(&admins[room.shard], room.id, &log, &shapes, verdict).await?;
        logs.insert(room.id, log);
    }
    check_replicas(world, &logs, verdict).await?;
    Ok(logs)
}

struct Row {
    seq: u64,
    epoch: u64,
    user: String,
    op: String,
    event: Value,
}

async fn events(admin: &Admin, room: u64) -> Result<Vec<Row>, Failure> {
    let select = "SELECT seq, epoch, user_id, op_id, kind, body::text, version,
                  (extract(epoch FROM created_at) * 1000)::bigint
                  FROM room_event WHERE room_id = $1 ORDER BY seq";
    let rows = admin.query(select, &[&i64::try_from(room)?]).await?;
    let positive = |row: &tokio_postgres::Row, at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or(0);
    rows.iter()
        .map(|row| {
            let (seq, epoch) = (positive(row, 0), positive(row, 1));
            let (user, op): (String, String) = (row.get(2), row.get(3));
            let mut event: Value = serde_json::from_str(row.get(5))?;
            event["seq"] = json!(seq);
            event["epoch"] = json!(epoch);
            event["user"] = json!(user);
            event["op"] = json!(op);
            event["kind"] = json!(row.get::<_, &str>(4));
            event["at"] = json!(row.get::<_, i64>(7));
            if let Some(version) = row.get::<_, Option<i64>>(6) {
                event["version"] = json!(version);
            }
            Ok(Row { seq, epoch, user, op, event })
        })
        .collect()
}

/// The head and the state table say what a replay of the log says.
async fn check_state(
    admin: &Admin,
    room: u64,
    log: &Log,
    shapes: &Shapes,
    verdict: &mut Verdict,
) -> Result<(), Failure> {
    let id = i64::try_from(room)?;
    let head = "SELECT head_seq, head_epoch, cleared_seq, live_shapes FROM room_head WHERE room_id = $1";
    let head = admin.query_one(head, &[&id]).await?;
    let head: [i64; 4] = std::array::from_fn(|at| head.get(at));
    let last = log.entries.last().map_or(0, |entry| entry.epoch);
    let live = shapes.live().count() as i64;
    verdict.check(
        "head_is_the_last_event",
        (head[0], head[1], head[3]) == (log.head() as i64, last as i64, live),
        || {
            format!(
                "room {room}: head {head:?}, log ends at {} of epoch {last} with {live} shapes",
                log.head()
            )
        },
    );
    let select = "SELECT shape_id, version, data::text, last_seq FROM shape WHERE room_id = $1";
    let mut stored = BTreeMap::new();
    for row in admin.query(select, &[&id]).await? {
        let data: Option<&str> = row.get(2);
        let data: Option<Value> = data.map(serde_json::from_str).transpose()?;
        let cleared = data.is_some() && row.get::<_, i64>(3) <= head[2];
        let version = u64::try_from(row.get::<_, i64>(1))? + u64::from(cleared);
        stored.insert(row.get::<_, String>(0), (version, data.filter(|_| !cleared)));
    }
    let differs = |id: &&String| stored.get(*id) != shapes.known.get(*id);
    let ids: BTreeSet<&String> = stored.keys().chain(shapes.known.keys()).collect();
    let different: Vec<_> = ids.into_iter().filter(differs).take(3).collect();
    verdict.check("state_table_is_the_replayed_log", different.is_empty(), || {
        format!("room {room}: {different:?} differ")
    });
    Ok(())
}

/// Every slot of a room is active on one shard, the one that has the room.
async fn check_owners(world: &World, admins: &[Admin], verdict: &mut Verdict) -> Result<(), Failure> {
    let slots: Vec<i32> = world.rooms.iter().map(|room| slot_of(room.id)).collect();
    let select = "SELECT slot FROM slot_owner WHERE state = 'active' AND slot = ANY ($1)";
    let mut owners: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (shard, admin) in admins.iter().enumerate() {
        for row in admin.query(select, &[&slots]).await? {
            owners.entry(row.get(0)).or_default().push(shard);
        }
    }
    for room in &world.rooms {
        let found = owners.get(&slot_of(room.id)).map(Vec::as_slice).unwrap_or_default();
        verdict.check("one_owner_per_slot", found == [room.shard], || {
            format!("room {} of shard {} is owned by {found:?}", room.id, room.shard)
        });
    }
    Ok(())
}

/// Replicas have the same log once they have caught up.
async fn check_replicas(world: &World, logs: &Logs, verdict: &mut Verdict) -> Result<(), Failure> {
    let patience = Duration::from_secs(20);
    for shard in world.cluster.shards() {
        let primary = connect(&shard.primary().admin_dsn()).await?;
        let target: String = primary.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0);
        for replica in shard.replicas() {
            let admin = connect(&replica.admin_dsn()).await?;
            let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn");
            let until = Instant::now() + patience;
            while !admin.query_one(&reached, &[]).await?.get::<_, Option<bool>>(0).unwrap_or(false) {
                if Instant::now() > until {
                    verdict.fail("replicas_are_prefixes", format!("{} doesn't catch up", replica.name()));
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
            for room in
                world.rooms.iter().filter(|room| world.cluster.shards()[room.shard].name() == shard.name())
            {
                let copied = events(&admin, room.id).await?;
                let log = &logs[&room.id].entries;
                let same = copied.len() <= log.len()
                    && copied.iter().zip(log).all(|(copy, entry)| digest(&copy.event) == entry.digest);
                verdict.check("replicas_are_prefixes", same, || {
                    format!("{}: room {} is another log", replica.name(), room.id)
                });
            }
        }
    }
    Ok(())
}
