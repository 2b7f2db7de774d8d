//! Schema changes: embedded, in order, each in a transaction of its own, under
//! a lock that lets one migrator at a time into a database.
//!
//! Guarantees: a database is at the version that `schema_migration` says, or the
//! migration did nothing; a file that changed after it was applied is refused,
//! because databases that had the old one would differ for ever. Runs as a role
//! of its own where configured; the gateway's role is granted the tables' use.

mod error;
mod files;
mod run;
mod target;
#[cfg(test)]
mod tests;

pub use error::MigrateError;
pub use files::{Migration, Schema};
pub use run::{Progress, State, Status, down, status, up};
pub use target::{Target, targets};

use super::{Connection, DbError, Sql};

static VERSION: Sql =
    Sql { name: "schema_version", text: "SELECT coalesce(max(version), 0) FROM schema_migration" };

/// Why no connection of a pool could be opened, in which every statement is prepared
/// at once: that fails where a table or column is missing.
pub fn not_connected(error: DbError, name: &str) -> MigrateError {
    let (target, lacks) = (name.to_owned(), error.sqlstate().is_some_and(|state| state.starts_with("42")));
    let error = Box::new(error);
    if lacks { MigrateError::Lacking { target, error } } else { MigrateError::Database { target, error } }
}

/// Refuses a database whose schema is older than this program needs. A newer one
/// is fine: schema changes come before the programs that use them.
pub async fn require(connection: &Connection, schema: Schema, name: &str) -> Result<(), MigrateError> {
    let needed = schema.latest();
    let found = match connection.query_one(&VERSION, &[]).await {
        Ok(row) => row.get::<_, i64>(0),
        // No such table: never migrated.
        Err(error) if error.sqlstate() == Some("42P01") => 0,
        Err(error) => return Err(MigrateError::Database { target: name.to_owned(), error: error.into() }),
    };
    if found < needed {
        return Err(MigrateError::TooOld { target: name.to_owned(), found, needed });
    }
    Ok(())
}
