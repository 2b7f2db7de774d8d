//! "Look which tokens were revoked", and people who are to be in no entry.

use fred::interfaces::{ClientLike, HashesInterface, KeysInterface, PubsubInterface};

use super::client::bounded;
use super::presence::read_entry;
use super::{Away, Bus};

/// Carries no content: whoever hears it asks the directory.
pub(super) const REVOKED: &str = "roomgate:revoked";

const MEMBERS: &str = "roomgate:members:*";
/// Keys asked for at once.
const PAGE: u32 = 1000;

impl Bus {
    /// Tells every node, this one in any case.
    pub async fn tell_revoked(&self) {
        self.shared.revoked.notify_one();
        if !self.is_up() {
            return;
        }
        let client = self.shared.line.client();
        if let Err(error) = bounded(client.spublish::<(), _, _>(REVOKED, "")).await {
            tracing::debug!(%error, "can't tell the other nodes of revoked tokens");
        }
    }

    /// Resolves when tokens may have been revoked. For one listener; cancel-safe.
    pub async fn revoked(&self) {
        self.shared.revoked.notified().await;
    }

    /// Takes the members for whom `is_theirs` out of all rooms' entries: those
    /// of a node that died would stay until somebody reads them.
    pub async fn forget_members(&self, is_theirs: impl Fn(&str) -> bool) -> Result<(), Away> {
        let client = self.shared.line.client();
        let mut cursor = "0".to_owned();
        loop {
            if !client.is_connected() {
                return Err(Away("not connected".to_owned()));
            }
            let page = client.scan_page::<(String, Vec<String>), _, _>(cursor, MEMBERS, Some(PAGE), None);
            let (next, keys) = bounded(page).await?;
            for key in keys {
                let entries = bounded(client.hgetall::<Vec<(String, String)>, _>(&key)).await?;
                let theirs = |entry: &str| read_entry(entry).is_some_and(|(_, member)| is_theirs(member));
                let sessions: Vec<String> = entries
                    .into_iter()
                    .filter(|(_, entry)| theirs(entry))
                    .map(|(session, _)| session)
                    .collect();
                if !sessions.is_empty() {
                    let _removed: u64 = bounded(client.hdel(&key, sessions)).await?;
                }
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }
}
