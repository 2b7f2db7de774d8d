//! Up, down and status of one database.

use std::time::{Duration, Instant};

use super::{MigrateError, Migration, Target};
use crate::db::{Class, Connection, DbError, Sql};

/// How a migration stands in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Applied,
    Pending,
    /// Applied from another text.
    Changed,
    /// Applied by a newer program.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub version: i64,
    pub name: String,
    pub state: State,
}

/// A step was made.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    pub target: &'a str,
    pub migration: &'a Migration,
    pub done: usize,
    pub of: usize,
}

/// Applies what is pending, then grants its use. Answers how many were applied.
pub async fn up(target: &Target, step: &(dyn Fn(Progress<'_>) + Sync)) -> Result<usize, MigrateError> {
    let work = Work::start(target).await?;
    let applied = work.applied().await?;
    work.refuse_changed(&applied)?;
    let known = target.schema.migrations();
    let pending: Vec<_> = known.iter().filter(|m| !applied.iter().any(|a| a.version == m.version)).collect();
    for (done, migration) in pending.iter().enumerate() {
        work.apply(migration).await?;
        step(Progress { target: &target.name, migration, done: done + 1, of: pending.len() });
    }
    work.grant().await?;
    Ok(pending.len())
}

/// Undoes the last `count` migrations, newest first. Answers how many it were.
pub async fn down(
    target: &Target,
    count: usize,
    step: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<usize, MigrateError> {
    let work = Work::start(target).await?;
    let applied = work.applied().await?;
    work.refuse_changed(&applied)?;
    let known = target.schema.migrations();
    let last: Vec<_> = applied.iter().rev().take(count).collect();
    for (done, found) in last.iter().enumerate() {
        let migration = known
            .iter()
            .find(|m| m.version == found.version)
            .ok_or_else(|| MigrateError::Unknown { target: target.name.clone(), version: found.version })?;
        work.undo(migration).await?;
        step(Progress { target: &target.name, migration, done: done + 1, of: last.len() });
    }
    Ok(last.len())
}

/// What is applied, pending, changed; takes no lock and changes nothing.
pub async fn status(target: &Target) -> Result<Vec<Status>, MigrateError> {
    let work = Work { target, connection: target.primary().await? };
    let applied = match work.applied().await {
        Err(MigrateError::Database { error, .. }) if error.sqlstate() == Some("42P01") => Vec::new(),
        other => other?,
    };
    let known = target.schema.migrations();
    let mut all: Vec<Status> = known.iter().map(|migration| status_of(migration, &applied)).collect();
    for found in applied {
        if !known.iter().any(|m| m.version == found.version) {
            all.push(Status { version: found.version, name: found.name, state: State::Unknown });
        }
    }
    Ok(all)
}

fn status_of(migration: &Migration, applied: &[Applied]) -> Status {
    let found = applied.iter().find(|a| a.version == migration.version);
    let state = match found {
        None => State::Pending,
        Some(found) if found.checksum == migration.checksum() => State::Applied,
        Some(_) => State::Changed,
    };
    Status { version: migration.version, name: migration.name.clone(), state }
}

/// A row of `schema_migration`.
struct Applied {
    version: i64,
    name: String,
    checksum: String,
}

/// One migrator in one database. The lock is the connection's: it goes with it,
/// however this ends.
struct Work<'a> {
    target: &'a Target,
    connection: Connection,
}

/// Of the advisory lock; "schm" in ASCII, apart from the slots' namespace.
const LOCK_NAMESPACE: i32 = 0x7363_686d;

static LOCK: Sql =
    Sql { name: "migrate_lock", text: "SELECT pg_advisory_lock($1, hashtext(current_schema()))" };
static APPLIED: Sql = Sql {
    name: "migrate_applied",
    text: "SELECT version, name, checksum FROM schema_migration ORDER BY version",
};
static RECORD: Sql = Sql {
    name: "migrate_record",
    text: "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
};
static FORGET: Sql = Sql { name: "migrate_forget", text: "DELETE FROM schema_migration WHERE version = $1" };
static NAMESPACE_EXISTS: Sql =
    Sql { name: "migrate_namespace", text: "SELECT to_regnamespace($1::text) IS NOT NULL" };
static GRANTEE: Sql = Sql {
    name: "migrate_grantee",
    text: "SELECT quote_ident(rolname) FROM pg_roles WHERE rolname = $1 AND rolname <> current_user",
};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migration (
    version    bigint      PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)";

/// Between two tries for a lock on a table in use: others get in between.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

impl<'a> Work<'a> {
    /// Takes the lock, waiting for another migrator within bounds, and makes
    /// sure that there is a place for records.
    async fn start(target: &'a Target) -> Result<Self, MigrateError> {
        let work = Self { target, connection: target.primary().await? };
        let namespace = target.schema.namespace();
        let exists = work.connection.query_one(&NAMESPACE_EXISTS, &[&namespace]).await;
        if !exists.map_err(|error| work.database(error))?.get::<_, bool>(0) {
            // Two may come here at once; the loser finds it made.
            work.batch(&format!("CREATE SCHEMA IF NOT EXISTS {namespace}")).await?;
        }
        let (wait, lock) = (target.settings.wait, target.settings.lock_timeout);
        work.batch(&format!("SET lock_timeout = {}", wait.as_millis())).await?;
        match work.connection.query_one(&LOCK, &[&LOCK_NAMESPACE]).await {
            Ok(_) => {}
            Err(error) if error.class() == Class::LockTimeout => {
                return Err(MigrateError::Busy { target: target.name.clone(), waited: wait });
            }
            Err(error) => return Err(work.database(error)),
        }
        work.batch(&format!("SET lock_timeout = {}", lock.as_millis())).await?;
        work.batch(TABLE).await?;
        Ok(work)
    }

    async fn applied(&self) -> Result<Vec<Applied>, MigrateError> {
        let rows = self.connection.query(&APPLIED, &[]).await.map_err(|error| self.database(error))?;
        let read =
            |row: &crate::db::Row| Applied { version: row.get(0), name: row.get(1), checksum: row.get(2) };
        Ok(rows.iter().map(read).collect())
    }

    fn refuse_changed(&self, applied: &[Applied]) -> Result<(), MigrateError> {
        for migration in self.target.schema.migrations() {
            if status_of(&migration, applied).state == State::Changed {
                let (target, name) = (self.target.name.clone(), migration.name);
                return Err(MigrateError::Changed { target, version: migration.version, name });
            }
        }
        Ok(())
    }

    async fn apply(&self, migration: &Migration) -> Result<(), MigrateError> {
        let checksum = migration.checksum();
        let params: [&(dyn crate::db::ToSql + Sync); 3] = [&migration.version, &migration.name, &checksum];
        self.in_transaction(migration, &migration.up, &RECORD, &params).await
    }

    async fn undo(&self, migration: &Migration) -> Result<(), MigrateError> {
        self.in_transaction(migration, &migration.down, &FORGET, &[&migration.version]).await
    }

    /// The change and its record, both or neither. A table that is in use is
    /// tried for again and again within the migrator's patience.
    async fn in_transaction(
        &self,
        migration: &Migration,
        change: &str,
        record: &'static Sql,
        params: &[&(dyn crate::db::ToSql + Sync)],
    ) -> Result<(), MigrateError> {
        let give_up = Instant::now() + self.target.settings.wait;
        loop {
            let error = match self.attempt(change, record, params).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if error.class() != Class::LockTimeout || Instant::now() > give_up {
                let (target, version) = (self.target.name.clone(), migration.version);
                return Err(MigrateError::Failed { target, version, error: error.into() });
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn attempt(
        &self,
        change: &str,
        record: &'static Sql,
        params: &[&(dyn crate::db::ToSql + Sync)],
    ) -> Result<(), DbError> {
        self.connection.begin().await?;
        let changed = async {
            self.connection.batch(change).await?;
            self.connection.execute(record, params).await
        };
        if let Err(error) = changed.await {
            self.connection.rollback().await?;
            return Err(error);
        }
        self.connection.commit().await
    }

    /// The gateway's role may use the tables. It may not change the schema's record,
    /// and to the audit trail it may only add.
    async fn grant(&self) -> Result<(), MigrateError> {
        let role = &self.target.settings.grant_to;
        let row = self.connection.query_opt(&GRANTEE, &[role]).await.map_err(|error| self.database(error))?;
        let Some(row) = row else { return Ok(()) };
        let (role, namespace): (String, _) = (row.get(0), self.target.schema.namespace());
        self.batch(&format!(
            "GRANT USAGE ON SCHEMA {namespace} TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {namespace} TO {role};
             GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {namespace} TO {role};
             REVOKE INSERT, UPDATE, DELETE ON schema_migration FROM {role};
             REVOKE SELECT, UPDATE, DELETE ON audit FROM {role};
             GRANT EXECUTE ON FUNCTION {} TO {role};",
            self.target.schema.functions()
        ))
        .await
    }

    async fn batch(&self, text: &str) -> Result<(), MigrateError> {
        self.connection.batch(text).await.map_err(|error| self.database(error))
    }

    fn database(&self, error: DbError) -> MigrateError {
        MigrateError::Database { target: self.target.name.clone(), error: error.into() }
    }
}
