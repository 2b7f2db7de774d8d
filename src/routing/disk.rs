//! How full an endpoint's disk is.
//!
//! PostgreSQL tells what its files take but not what there is room for, so the
//! size is configured. The question walks all files of the server: it is asked
//! seldom, and apart from the monitor, which must not wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::endpoint::Endpoint;
use crate::db::{DbError, Sql};
use crate::metrics::DiskMetrics;
use crate::tasks::{Stop, Tasks};

const INTERVAL: Duration = Duration::from_secs(30);

static DISK: Sql = Sql {
    name: "disk",
    text: "SELECT (SELECT sum(pg_tablespace_size(oid)) FROM pg_tablespace)::bigint
                + (SELECT sum(size) FROM pg_ls_waldir())::bigint",
};

pub(super) fn watch(endpoint: &Arc<Endpoint>, tasks: &Tasks) {
    if endpoint.config().disk_bytes.is_some() {
        tasks.spawn("disk", run(endpoint.clone(), tasks.stop_signal()));
    }
}

async fn run(endpoint: Arc<Endpoint>, mut stop: Stop) {
    let metrics = DiskMetrics::new(endpoint.shard().as_str(), endpoint.name());
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.wait() => return,
            _ = tick.tick() => {}
        }
        // Nobody's turn is taken, and nobody waits for a server that is away.
        if endpoint.pool().state().idle == 0 {
            continue;
        }
        match used_bytes(&endpoint).await {
            Ok(used) => {
                endpoint.disk_used_bytes.store(used, Ordering::Relaxed);
                metrics.used(endpoint.disk_used_ratio().unwrap_or_default());
            }
            // The last figure stands; whether the server is up is told elsewhere.
            Err(error) => tracing::debug!(?endpoint, %error, "the size of its files is not known"),
        }
    }
}

async fn used_bytes(endpoint: &Endpoint) -> Result<u64, DbError> {
    let row = endpoint.pool().get().await?.query_one(&DISK, &[]).await?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
}
