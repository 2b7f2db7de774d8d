//! Who is handed which slots at the beginning, and which primary of a shard may
//! be written to: decided in the directory, then written on the shard.
//!
//! Guarantees: slots are handed out once, when there is no topology yet; of two
//! primaries of a shard the directory's claim admits one, never one of a lower
//! timeline; and an admitted primary has new epochs before its first append,
//! because appends compare its claim with its timeline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::clock::UnixMillis;
use crate::db::{Class, Connection, DbError, Lease, Row, Sql, ToSql};
use crate::ids::ShardName;
use crate::placement::{ShardIndex, Weighted, propose};
use crate::routing::{Claim, Endpoint, NoPrimary, Shard, Shards, SystemId, Timeline};
use crate::store::slots::Slots;
use crate::tasks::{Stop, Tasks};

const CLAIM_PATIENCE: Duration = Duration::from_secs(5);
const CLAIM_RETRY: Duration = Duration::from_millis(500);
/// First key of the advisory lock under which a topology is begun ("topo").
const TOPOLOGY_LOCK: i32 = 0x746f_706f;

/// Prepared on every connection of a shard that may be asked.
pub const STATEMENTS: &[&Sql] = &[&MENTIONED, &ASSIGN, &CLAIM, &SERVER];

static MENTIONED: Sql = Sql { name: "slots_mentioned", text: "SELECT slot FROM slot_owner" };

static ASSIGN: Sql = Sql {
    name: "slots_assign",
    text:
        "INSERT INTO slot_owner (slot, epoch, state) SELECT slot, $2, 'active' FROM unnest($1::int[]) AS slot
           ON CONFLICT DO NOTHING",
};

/// $1 shard, $2 timeline, $3 system id, $4 unix milliseconds; $5, $6 slots that have
/// moved, and to whom. Only on a server that truly is on that timeline, and only if
/// its claim is older. In the same transaction the slots' epochs rise, so that they
/// never repeat, even on histories that have diverged; and it hears of moves that
/// the primary before it may have kept to itself.
static CLAIM: Sql = Sql {
    name: "shard_claim",
    text: "WITH claimed AS (
             INSERT INTO shard_claim (shard, timeline, system_id)
             SELECT $1, $2, $3
              WHERE $2 = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
             ON CONFLICT (only_row) DO UPDATE
                SET timeline = excluded.timeline, system_id = excluded.system_id, claimed_at = now()
              WHERE shard_claim.timeline < excluded.timeline AND shard_claim.shard = excluded.shard
             RETURNING true)
           UPDATE slot_owner
              SET epoch = greatest(slot_owner.epoch + 1, $4),
                  state = CASE WHEN gone.owner IS NULL THEN 'active' ELSE 'moved' END,
                  moved_to = gone.owner, changed_at = now()
             FROM slot_owner AS own
             LEFT JOIN unnest($5::int[], $6::text[]) AS gone (slot, owner) ON gone.slot = own.slot
            WHERE slot_owner.slot = own.slot AND own.state = 'active' AND EXISTS (SELECT FROM claimed)",
};

/// What the server says of itself and of its claim, $1 being the shard.
static SERVER: Sql = Sql {
    name: "shard_server",
    text: "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int,
                  (SELECT system_identifier FROM pg_control_system()),
                  (SELECT timeline FROM shard_claim WHERE shard = $1),
                  (SELECT shard FROM shard_claim)",
};

static LOCK: Sql = Sql { name: "topology_lock", text: "SELECT pg_advisory_xact_lock($1, 0)::text" };

static BEGUN: Sql = Sql {
    name: "topology_begun",
    text: "SELECT EXISTS (SELECT FROM directory.shard WHERE claimed_at IS NOT NULL)",
};

/// Slots that have moved to others than $1.
static GONE: Sql =
    Sql { name: "slots_gone", text: "SELECT slot, owner FROM directory.slot_move WHERE owner <> $1" };

static DECIDED: Sql = Sql {
    name: "claim_decided",
    text: "SELECT timeline, system_id, endpoint FROM directory.shard WHERE name = $1 AND claimed_at IS NOT NULL",
};

/// $1 shard, $2 weight, $3 timeline, $4 system id, $5 endpoint. The first to
/// name a higher timeline wins.
static DECIDE: Sql = Sql {
    name: "claim_decide",
    text: "INSERT INTO directory.shard AS shard (name, weight, timeline, system_id, endpoint, claimed_at)
           VALUES ($1, $2, $3, $4, $5, now())
           ON CONFLICT (name) DO UPDATE
              SET timeline = excluded.timeline, system_id = excluded.system_id,
                  endpoint = excluded.endpoint, claimed_at = now()
            WHERE shard.claimed_at IS NULL
               OR (shard.timeline < excluded.timeline AND shard.system_id = excluded.system_id)",
};

#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error(transparent)]
    NoPrimary(#[from] NoPrimary),
    #[error(transparent)]
    Database(#[from] DbError),
    #[error("no shard has a weight, so no slot can be handed out")]
    NoWeight,
    #[error(
        "{endpoint} stands on timeline {timeline}, but shard {shard} is claimed on {claimed}: it stays fenced off"
    )]
    OldTimeline { shard: ShardName, endpoint: String, timeline: Timeline, claimed: Timeline },
    #[error("{endpoint} is not the primary that is claimed for shard {shard}: it stays fenced off")]
    NotClaimed { shard: ShardName, endpoint: String },
    #[error(
        "several servers of shard {shard} were promoted to timeline {timeline} and none of them is claimed: stop all but one"
    )]
    Contested { shard: ShardName, timeline: Timeline },
    #[error("the database at {endpoint} belongs to shard {found}, not to {shard}")]
    OtherShard { shard: ShardName, endpoint: String, found: String },
}

/// A cheap handle to the claims of all shards.
#[derive(Clone)]
pub struct Topology {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Shards,
    directory: Shard,
    slots: Slots,
}

impl Topology {
    /// `slots` is read anew after every change.
    pub fn new(shards: Shards, directory: Shard, slots: Slots) -> Self {
        Self { inner: Arc::new(Inner { shards, directory, slots }) }
    }

    /// Begins the topology if there is none: claims every shard's primary and
    /// hands out the slots as the ring proposes. All shards must answer for
    /// that; once it is done this only reads what is, and a shard that is away
    /// is no error. What fails and may pass is tried again: a server may be slow,
    /// and another node that begins may hold the lock for longer than `lock_timeout`.
    pub async fn open(&self, deadline: Instant) -> Result<(), TopologyError> {
        let begun = loop {
            match self.find_or_begin(deadline).await {
                Err(TopologyError::Database(error))
                    if error.class().may_pass() && Instant::now() < deadline =>
                {
                    tracing::warn!(%error, "the topology can't be opened yet; trying again");
                }
                ended => break ended?,
            }
        };
        if begun {
            let claims = self.inner.shards.iter().map(|(_, shard)| self.claim(shard));
            for error in join_all(claims).await.into_iter().filter_map(Result::err) {
                tracing::warn!(%error, "a shard's claim can't be read or made yet");
            }
        }
        self.inner.slots.refresh().await;
        Ok(())
    }

    /// Whether there was one before; under a lock that lets in one node at a time.
    async fn find_or_begin(&self, deadline: Instant) -> Result<bool, TopologyError> {
        let directory = self.inner.directory.primary(deadline).await?.pool().get().await?;
        directory.begin().await?;
        directory.query_one(&LOCK, &[&TOPOLOGY_LOCK]).await?;
        let begun: bool = directory.query_one(&BEGUN, &[]).await?.get(0);
        if !begun {
            self.begin(&directory, deadline).await?;
        }
        directory.commit().await?;
        Ok(begun)
    }

    /// Keeps the claims true, in the background: a promoted primary is claimed,
    /// and what another node claimed is heard of.
    pub fn keep_claims(&self, tasks: &Tasks) {
        self.inner.shards.iter().for_each(|(index, _)| self.keep_claim_of(index, tasks));
    }

    pub fn keep_claim_of(&self, index: ShardIndex, tasks: &Tasks) {
        if let Some(shard) = self.inner.shards.get(index) {
            let keeper = self.clone().keep_claim(shard.clone(), tasks.stop_signal());
            tasks.spawn("shard-claim", keeper);
        }
    }

    async fn keep_claim(self, shard: Shard, mut stop: Stop) {
        let mut known = shard.watch_known();
        loop {
            if shard.claim().is_none() || shard.unclaimed().is_some() || shard.contested().is_some() {
                match self.claim(&shard).await {
                    Ok(()) => self.inner.slots.refresh().await,
                    Err(error) => {
                        tracing::warn!(shard = %shard.name(), %error, "no primary can be claimed");
                        tokio::select! {
                            () = stop.wait() => return,
                            () = sleep(CLAIM_RETRY) => {}
                        }
                    }
                }
            }
            if !self.inner.slots.are_known() {
                // Such a node isn't ready, so that nobody's request makes it ask.
                self.inner.slots.refresh().await;
            }
            self.inner.slots.look_for_unowned().await;
            // Every look of the shard's monitor.
            tokio::select! {
                () = stop.wait() => return,
                changed = known.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Admits the shard's primary, if it is the one: decided in the directory
    /// first, then written on the server itself.
    async fn claim(&self, shard: &Shard) -> Result<(), TopologyError> {
        let deadline = Instant::now() + CLAIM_PATIENCE;
        let directory = self.inner.directory.primary(deadline).await?.pool().get().await?;
        if let Some(decided) = decided(&directory, shard.name(), &names(shard)).await? {
            shard.accept_claim(decided);
        }
        if let Some(timeline) = shard.contested() {
            return Err(TopologyError::Contested { shard: shard.name().clone(), timeline });
        }
        let candidate = match shard.unclaimed() {
            Some(promoted) => promoted,
            None => shard.primary(deadline).await?,
        };
        admit(&directory, shard, &candidate, deadline).await
    }

    /// Admits the primary of a shard that this node doesn't serve yet.
    pub async fn admit_newcomer(&self, shard: &Shard, deadline: Instant) -> Result<(), TopologyError> {
        let directory = self.inner.directory.primary(deadline).await?.pool().get().await?;
        if let Some(decided) = decided(&directory, shard.name(), &names(shard)).await? {
            shard.accept_claim(decided);
        }
        let primary = shard.primary(deadline).await?;
        admit(&directory, shard, &primary, deadline).await
    }

    /// The first claims and the first owners. The directory's commit comes last:
    /// whoever finds a beginning half done does it again, to the same effect.
    async fn begin(&self, directory: &Lease, deadline: Instant) -> Result<(), TopologyError> {
        let weighted = |(_, shard): (ShardIndex, &Shard)| Weighted {
            shard: shard.name().clone(),
            weight: shard.weight(),
        };
        let weights: Vec<Weighted> = self.inner.shards.iter().map(weighted).collect();
        let proposal = propose(&weights).ok_or(TopologyError::NoWeight)?;
        let mut servers = Vec::new();
        let mut mentioned = vec![false; proposal.len()];
        for (_, shard) in self.inner.shards.iter() {
            let primary = shard.primary(deadline).await?;
            admit(directory, shard, &primary, deadline).await?;
            let server = primary.pool().get().await?;
            for row in server.query(&MENTIONED, &[]).await? {
                if let Some(slot) =
                    usize::try_from(row.get::<_, i32>(0)).ok().and_then(|s| mentioned.get_mut(s))
                {
                    *slot = true;
                }
            }
            servers.push(server);
        }
        let epoch = UnixMillis::now().0;
        for (index, server) in servers.iter().enumerate() {
            let slots =
                proposal.iter().enumerate().filter(|(slot, owner)| **owner == index && !mentioned[*slot]);
            let slots: Vec<i32> = slots.map(|(slot, _)| slot as i32).collect();
            server.execute(&ASSIGN, &[&slots, &epoch]).await?;
            tracing::info!(shard = %weights[index].shard, slots = slots.len(), "slots handed out");
        }
        Ok(())
    }
}

/// Admits a server of `shard` that was just promoted by hand, whatever is seen of
/// the others. Waits for a synchronous standby, if the server does: bound it.
pub async fn claim_promoted(
    directory: &Shard,
    shard: &Shard,
    candidate: &Arc<Endpoint>,
    deadline: Instant,
) -> Result<(), TopologyError> {
    let directory = directory.primary(deadline).await?.pool().get().await?;
    admit(&directory, shard, candidate, deadline).await
}

/// Others claim it as well, and whoever comes second waits for the first one's
/// commit, however slow that is.
async fn admit(
    directory: &Lease,
    shard: &Shard,
    candidate: &Arc<Endpoint>,
    deadline: Instant,
) -> Result<(), TopologyError> {
    loop {
        match try_to_admit(directory, shard, candidate).await {
            Err(TopologyError::Database(error))
                if error.class() == Class::LockTimeout && Instant::now() < deadline =>
            {
                tracing::debug!(shard = %shard.name(), %error, "a claim waits on");
            }
            ended => return ended,
        }
    }
}

async fn try_to_admit(
    directory: &Lease,
    shard: &Shard,
    candidate: &Arc<Endpoint>,
) -> Result<(), TopologyError> {
    let (name, endpoint) = (shard.name().as_str(), candidate.name());
    let server = candidate.pool().get().await?;
    let row = server.query_one(&SERVER, &[&name]).await?;
    let (timeline, system_id): (i32, i64) = (row.get(0), row.get(1));
    if let Some(found) = row.get::<_, Option<String>>(3).filter(|found| found != name) {
        let (shard, endpoint) = (shard.name().clone(), endpoint.to_owned());
        return Err(TopologyError::OtherShard { shard, endpoint, found });
    }
    let weight = i32::try_from(shard.weight()).unwrap_or(i32::MAX);
    directory.execute(&DECIDE, &[&name, &weight, &timeline, &system_id, &endpoint]).await?;
    let Some(claim) = decided(directory, shard.name(), &names(shard)).await? else {
        return Err(DbError::new(Class::Other, DECIDED.name, "the claim just made is not there").into());
    };
    shard.accept_claim(claim.clone());
    let timeline = Timeline(timeline.unsigned_abs());
    if timeline < claim.timeline {
        let (shard, endpoint) = (shard.name().clone(), endpoint.to_owned());
        return Err(TopologyError::OldTimeline { shard, endpoint, timeline, claimed: claim.timeline });
    }
    if claim.endpoint.as_deref().is_some_and(|claimed| claimed != endpoint)
        || claim.system_id != SystemId(system_id)
    {
        return Err(TopologyError::NotClaimed { shard: shard.name().clone(), endpoint: endpoint.to_owned() });
    }
    // Asked for behind the claim: a move that the directory notes later finds that
    // its source has changed.
    let gone = directory.query(&GONE, &[&name]).await?;
    let (slots, owners): (Vec<i32>, Vec<String>) =
        gone.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, String>(1))).unzip();
    let claim: [&(dyn ToSql + Sync); 6] =
        [&name, &(timeline.0 as i32), &system_id, &UnixMillis::now().0, &slots, &owners];
    let raised = server.execute(&CLAIM, &claim).await?;
    if raised > 0 {
        shard.metrics().epoch_changed();
        tracing::warn!(shard = name, endpoint, %timeline, slots = raised, "claimed a new primary: epochs raised");
    }
    Ok(())
}

fn names(shard: &Shard) -> Vec<&str> {
    shard.endpoints().iter().map(|endpoint| endpoint.name()).collect()
}

/// The claim that the directory holds. An endpoint that is not among the
/// `configured` any more can't decide between those that are.
pub(super) async fn decided(
    directory: &Connection,
    shard: &ShardName,
    configured: &[&str],
) -> Result<Option<Claim>, DbError> {
    let row = directory.query_opt(&DECIDED, &[&shard.as_str()]).await?;
    let claim = |row: Row| {
        let endpoint: String = row.get(2);
        Claim {
            timeline: Timeline(row.get::<_, i32>(0).unsigned_abs()),
            system_id: SystemId(row.get(1)),
            endpoint: configured.contains(&endpoint.as_str()).then_some(endpoint),
        }
    };
    Ok(row.map(claim))
}
