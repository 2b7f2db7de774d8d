//! Asks a server for all that the decision needs, on a connection for that
//! alone, as the gateway's role: it may watch, and nothing else.

use std::time::Duration;

use tokio::time::timeout;

use super::decide::{Answer, Asked, Silence};
use crate::config::Endpoint;
use crate::db::{Class, Connection, Connector, DbError, Row, SessionSettings, Sql};
use crate::routing::SystemId;
use crate::routing::staleness::{Lsn, Timeline};
use crate::tasks::Tasks;

/// A frozen server takes as long as this.
const LIMIT: Duration = Duration::from_secs(3);

/// A standby's timeline is the newest of which it has any log: what the control
/// file says of one that streams no more may be a checkpoint old. Until it has
/// first asked to stream, what lay on its disk is not replayed to its end.
static LOOK: Sql = Sql {
    name: "promotion_look",
    text: "SELECT recovering,
       CASE WHEN recovering THEN greatest(
                (SELECT received_tli FROM pg_stat_wal_receiver),
                (SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                (SELECT max(('x' || left(name, 8))::bit(32)::int) FROM pg_ls_waldir()
                  WHERE name ~ '^[0-9A-F]{24}$'))
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS timeline,
       (SELECT system_identifier FROM pg_control_system()) AS system_id,
       (CASE WHEN recovering THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
             ELSE pg_current_wal_flush_lsn() END)::text AS flushed,
       CASE WHEN recovering THEN pg_last_wal_receive_lsn() IS NOT NULL ELSE true END AS knows_its_end,
       (SELECT sender_host FROM pg_stat_wal_receiver WHERE status = 'streaming') AS sender_host,
       (SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming') AS sender_port,
       host(inet_server_addr()) AS own_host, inet_server_port() AS own_port,
       current_setting('synchronous_standby_names') AS synchronous
  FROM (SELECT pg_is_in_recovery() AS recovering OFFSET 0) AS role",
};

/// Somebody's role, with little patience.
pub(super) fn settings() -> SessionSettings {
    SessionSettings {
        application_name: "roomgate/shards".to_owned(),
        connect_timeout: LIMIT,
        statement_timeout: LIMIT,
        lock_timeout: LIMIT,
        search_path: "public",
    }
}

pub(super) async fn ask(endpoint: &Endpoint, tasks: &Tasks) -> Asked {
    let mut addresses = vec![(endpoint.host.clone(), endpoint.port)];
    let asked = async {
        let connection = Connector::new(endpoint, settings(), tasks).connect().await?;
        let row = query(&connection, &LOOK).await?;
        addresses.extend(address(&row, "own_host", "own_port"));
        read(&row)
    };
    let silence = |error: DbError| Silence { why: error.to_string(), is_there: error.sqlstate().is_some() };
    let answer = asked.await.map_err(silence);
    Asked { endpoint: endpoint.name.clone(), addresses, answer }
}

pub(super) async fn query(connection: &Connection, sql: &'static Sql) -> Result<Row, DbError> {
    let late = |_| DbError::new(Class::Connection, sql.name, format!("no answer in {LIMIT:?}"));
    timeout(LIMIT, connection.query_one(sql, &[])).await.map_err(late)?
}

fn read(row: &Row) -> Result<Answer, DbError> {
    let bad = |what: &str| DbError::new(Class::Other, LOOK.name, format!("it tells no {what}"));
    let flushed: Option<String> = row.get("flushed");
    let flushed = flushed.as_deref().unwrap_or("0/0").parse::<Lsn>().map_err(|_| bad("position"))?;
    let timeline: Option<i32> = row.get("timeline");
    let timeline =
        timeline.and_then(|timeline| u32::try_from(timeline).ok()).ok_or_else(|| bad("timeline"))?;
    Ok(Answer {
        in_recovery: row.get("recovering"),
        timeline: Timeline(timeline),
        system_id: SystemId(row.get("system_id")),
        flushed,
        knows_its_end: row.get("knows_its_end"),
        streams_from: address(row, "sender_host", "sender_port"),
        synchronous_standby_names: row.get("synchronous"),
    })
}

fn address(row: &Row, host: &str, port: &str) -> Option<(String, u16)> {
    let (host, port): (Option<String>, Option<i32>) = (row.get(host), row.get(port));
    Some((host?, u16::try_from(port?).ok()?))
}
