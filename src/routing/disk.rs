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
/// Until it was told once: a node that starts has no connections yet.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);

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
    // Made when there is something to tell: zero would say that it is empty.
    let mut metrics: Option<DiskMetrics> = None;
    loop {
        let pause = if metrics.is_some() { INTERVAL } else { FIRST_INTERVAL };
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(pause) => {}
        }
        // Nobody's turn is taken, and nobody waits for a server that is away.
        if endpoint.pool().state().idle == 0 {
            continue;
        }
        match used_bytes(&endpoint).await {
            Ok(used) => {
                endpoint.disk_used_bytes.store(used, Ordering::Relaxed);
                let (shard, name) = (endpoint.shard().as_str(), endpoint.name());
                let metrics = metrics.get_or_insert_with(|| DiskMetrics::new(shard, name));
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
