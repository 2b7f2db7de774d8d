//! Tickets that were used. One that wasn't has no row.

use uuid::Uuid;

use super::{Directory, DirectoryError};
use crate::clock::UnixMillis;
use crate::db::Sql;

pub(super) static SPEND: Sql = Sql {
    name: "ticket_spend",
    text: "INSERT INTO directory.spent_ticket (id, use, expires_at)
           VALUES ($1, $2, to_timestamp($3::float8 / 1000))
               ON CONFLICT (id) DO UPDATE SET use = spent_ticket.use
           RETURNING use",
};

pub(super) static SWEEP: Sql = Sql {
    name: "ticket_sweep",
    text: "DELETE FROM directory.spent_ticket WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM directory.spent_ticket
                WHERE expires_at <= now() - interval '1 minute' LIMIT $1))
           RETURNING 1",
};

impl Directory {
    /// True once for each ticket, for as long as it is valid and a minute longer,
    /// because clocks differ.
    pub async fn spend_ticket(&self, id: Uuid, expires_at: UnixMillis) -> Result<bool, DirectoryError> {
        // So that a statement that is run again, because its answer was lost,
        // knows its own row.
        let this = Uuid::new_v4();
        let row = self.query_opt(&SPEND, &[&id, &this, &(expires_at.0 as f64)]).await?;
        let used: Uuid = row.ok_or(DirectoryError::Corrupt { what: "a ticket" })?.get(0);
        Ok(used == this)
    }
}
