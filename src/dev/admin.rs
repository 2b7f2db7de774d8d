//! A plain connection for set-up and tests. The gateway's own go through `db`.

use std::ops::Deref;

use tokio_postgres::{Client, NoTls};

use super::Error;
use crate::tasks::Tasks;

/// Open until dropped.
pub struct Admin(Client);

impl Deref for Admin {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

/// Connects to any of the cluster's servers.
pub async fn connect(dsn: &str) -> Result<Admin, Error> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.map_err(Error::sql(dsn))?;
    // It ends with the client, or with an error that the client's next
    // statement reports.
    Tasks::new().spawn_for_handle("dev-admin-connection", async move { if connection.await.is_err() {} });
    Ok(Admin(client))
}
